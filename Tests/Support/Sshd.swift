// An OpenSSH server of its own on a host of the lab, and the client's side of it: `ssh -F CONFIG b` logs in as root by key.

internal import Glibc

/// A running sshd. Commands that it starts run in the namespace of its host.
public final class Sshd: Sendable {
    /// The name that `configPath` gives this host.
    public let target: String
    /// A client configuration with which `ssh -F configPath target` works from any machine of the lab, without questions.
    public let configPath: String
    private let child: Child

    /// Starts it on the host's own IPv4 address and waits until it accepts.
    public init(_ lab: Lab, on host: Lab.Host = .b, port: UInt16 = 2222) throws(LabError) {
        target = host.rawValue
        let folder = "\(lab.folder)/sshd-\(host.rawValue)"
        configPath = folder + "/config"
        removeTree(folder)
        try makeFolder(folder)
        chmod(folder, 0o700)
        // Privilege separation directory, compiled in; the distribution's unit makes it at boot.
        if access("/run/sshd", F_OK) != 0 { mkdir("/run/sshd", 0o755) }
        for key in ["host_key", "client_key"] {
            try lab.check(in: nil, ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", "\(folder)/\(key)"])
        }
        let address = lab.address(host, .ipv4)
        try writeFile(folder + "/authorized_keys", readText(folder + "/client_key.pub"))
        try writeFile(folder + "/known_hosts", "[\(address)]:\(port) \(readText(folder + "/host_key.pub"))")
        try writeFile(
            folder + "/sshd_config",
            """
            ListenAddress \(address):\(port)
            HostKey \(folder)/host_key
            PidFile none
            AuthorizedKeysFile \(folder)/authorized_keys
            AuthenticationMethods publickey
            PermitRootLogin prohibit-password
            StrictModes no
            UsePAM no
            UseDNS no
            MaxStartups 100
            Subsystem sftp internal-sftp

            """)
        try writeFile(
            configPath,
            """
            Host \(target)
                HostName \(address)
                Port \(port)
                User root
                IdentityFile \(folder)/client_key
                IdentitiesOnly yes
                IdentityAgent none
                UserKnownHostsFile \(folder)/known_hosts
                GlobalKnownHostsFile /dev/null
                StrictHostKeyChecking yes
                BatchMode yes
                ConnectTimeout 5

            """)
        child = try lab.spawn(in: host, ["/usr/sbin/sshd", "-D", "-e", "-f", folder + "/sshd_config"])
        guard lab.waitUntilAccepting(host, address, port) else {
            let why = child.stderr
            child.terminate()
            throw LabError("sshd on \(host.rawValue) does not accept: \(why)")
        }
    }

    /// The listening process.
    public var pid: Int32 { child.pid }

    /// Ends the listener; sessions that are open go on, as with any sshd.
    public func stop() {
        child.terminate()
    }
}
