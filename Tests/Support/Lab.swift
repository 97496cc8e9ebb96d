// A lab of network namespaces: a client behind a router, and two hosts A and B on one subnet that share a service address.
//
//     client ──────────── router ─── br0 (switch) ─┬── a   10.77.0.11  fd77::11
//     10.78.0.2    10.78.0.1   10.77.0.1           └── b   10.77.0.12  fd77::12
//     fd78::2      fd78::1     fd77::1
//
// The service address 10.77.0.100 / fd77::100 is on the loopback of both hosts, so neither answers ARP or neighbour discovery for it;
// the router sends it to A until `routeService(to:)` says otherwise. In a split lab B is on a subnet of its own: 10.79.0.12, fd79::12 on br1.

internal import CSupport
internal import Glibc
internal import Synchronization

/// The address family of a test.
public enum Family: String, CaseIterable, Sendable {
    case ipv4, ipv6
}

/// One lab. It goes away with `down()`, with the last reference, and, whatever happens to the process, by its guard.
public final class Lab: Sendable {
    /// The machines of the lab; each is a namespace.
    public enum Host: String, CaseIterable, Sendable {
        case client, router, a, b
    }

    /// The common start of the namespaces' names, unique among the labs of this machine.
    public let prefix: String
    /// A folder for the lab's files, removed with it.
    public let folder: String
    /// B is on another subnet than A, behind the same router.
    public let isSplit: Bool
    let state: Mutex<State>

    struct State {
        var children: [Child] = []
        var guardian: Guardian?
        var handles: [Host: Int32] = [:]
        var isUp = true
        var counter = 0
    }

    /// Builds a lab that belongs to this process and ends with it.
    public convenience init(split: Bool = false) throws(LabError) {
        let number = UInt32.random(in: 0x100000...0xffffff)
        try self.init(prefix: "scl" + String(number, radix: 16), owner: getpid(), guarded: true, split: split)
    }

    /// Builds a lab with this name that stays until `Lab.remove(prefix:)`; this object only describes it.
    public static func makeLasting(prefix: String) throws(LabError) -> Lab {
        let lab = try Lab(prefix: prefix, owner: 0, guarded: false)
        lab.letGo()
        return lab
    }

    /// `owner` is the process whose end allows `sweep()` to remove the lab; 0 is nobody.
    init(prefix: String, owner: pid_t, guarded: Bool, split: Bool = false) throws(LabError) {
        self.prefix = prefix
        isSplit = split
        folder = "/tmp/\(prefix)"
        state = Mutex(State())
        guard geteuid() == 0 else { throw LabError("a lab needs root: it makes network namespaces") }
        if let found = Lab.existing().first(where: { $0 == prefix }) { throw LabError("there is a lab \(found) already") }
        try Lab.record(prefix: prefix, owner: owner)
        do {
            if guarded {
                let guardian = try Guardian(prefix: prefix, namespaces: Host.allCases.map(namespace), folder: folder)
                state.withLock { $0.guardian = guardian }
            }
            try makeFolder(folder)
            try build()
        } catch {
            down()
            throw error
        }
    }

    deinit {
        down()
    }

    /// The name of a machine's network namespace, as `ip netns` shows it.
    public func namespace(_ host: Host) -> String {
        "\(prefix)-\(host.rawValue)"
    }

    /// The namespace as a descriptor that stays valid until `down()`. It is borrowed.
    public func handle(_ host: Host) -> Int32 {
        state.withLock { $0.handles[host] } ?? -1
    }

    /// The own address of a machine: on the service subnet for the router.
    public func address(_ host: Host, _ family: Family) -> String {
        switch (host, family) {
        case (.client, .ipv4): "10.78.0.2"
        case (.client, .ipv6): "fd78::2"
        case (.router, .ipv4): "10.77.0.1"
        case (.router, .ipv6): "fd77::1"
        case (.a, .ipv4): "10.77.0.11"
        case (.a, .ipv6): "fd77::11"
        case (.b, .ipv4): isSplit ? "10.79.0.12" : "10.77.0.12"
        case (.b, .ipv6): isSplit ? "fd79::12" : "fd77::12"
        }
    }

    /// The address that both hosts serve and the client talks to.
    public func serviceAddress(_ family: Family) -> String {
        family == .ipv4 ? "10.77.0.100" : "fd77::100"
    }

    /// The link of a machine that carries its traffic: the router's towards the client.
    public func link(_ host: Host) -> String {
        host == .router ? "eth1" : "eth0"
    }

    /// Makes the router send the service address to this host, for both families.
    public func routeService(to host: Host) throws(LabError) {
        try Lab.ip(
            namespace(.router),
            Family.allCases.map { "route replace \(serviceAddress($0)) via \(address(host, $0)) dev \(isSplit && host == .b ? "br1" : "br0")" })
    }

    /// Sets a value below /proc/sys/net as the machine sees it, e.g. `setting(.a, "ipv4/tcp_sack", "0")`.
    public func setting(_ host: Host, _ path: String, _ value: String) throws(LabError) {
        let result = csupport_write_sysctls(handle(host), "\(path)=\(value)\n")
        guard result == 1 else { throw result < 0 ? .errno("cannot set \(path)", result) : LabError("there is no setting \(path)") }
    }

    /// Runs lines of `ip -batch` in a namespace, or in the caller's own. `force` goes on after a line that fails.
    static func ip(_ namespace: String?, _ lines: [String], force: Bool = false) throws(LabError) {
        let base = "/tmp/sc-lab-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        defer { for end in [".in", ".err"] { unlink(base + end) } }
        try writeFile(base + ".in", lines.joined(separator: "\n") + "\n")
        let input = open(base + ".in", O_RDONLY | O_CLOEXEC)
        let errors = open(base + ".err", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        defer {
            close(input)
            close(errors)
        }
        let pid = try launch(
            Launch(
                command: ["ip"] + (namespace.map { ["-n", $0] } ?? []) + (force ? ["-force"] : []) + ["-batch", "-"],
                standardInput: input, standardError: errors))
        var status: Int32 = 0
        guard csupport_wait(pid, 10_000, &status) == 1, status == 0 else {
            throw LabError("ip -batch in \(namespace ?? "this namespace"): \(readText(base + ".err")) (\(lines))")
        }
    }
}
