// The distribution's apache2 with mod_sc, as an instance of its own on a host of the lab.

internal import Glibc

/// What an Apache instance is to do.
public struct ApacheOptions: Sendable {
    public enum MPM: String, CaseIterable, Sendable { case event, worker, prefork }

    public var mpm = MPM.event
    public var service = "www"
    /// Where mod_sc.so is; nil: an Apache without it.
    public var module: String?
    /// Variables of the server's environment: where its agent is.
    public var environment: [String: String] = [:]
    /// More lines of configuration.
    public var lines: [String] = []
    /// Two instances on one host need two names.
    public var name = "apache"

    public init() {}
}

/// A running Apache that serves `Lab.documentRoot` and the CGI programs in `cgi` at the service address, both families.
public final class Apache: Sendable {
    public let host: Lab.Host
    public let options: ApacheOptions
    public let folder: String
    private let lab: Lab
    private let parent: Child

    /// Starts it and waits until it accepts.
    public init(_ lab: Lab, on host: Lab.Host, _ options: ApacheOptions) throws(LabError) {
        self.lab = lab
        self.host = host
        self.options = options
        folder = "\(lab.folder)/\(options.name)-\(host.rawValue)"
        removeTree(folder)
        for path in [lab.folder, lab.documentRoot, folder, Apache.programs(lab)] {
            try makeFolder(path)
            // The processes that serve are not root.
            chmod(path, 0o755)
        }
        try writeFile(folder + "/httpd.conf", Apache.configuration(lab, folder, options))
        // At its end it sends SIGTERM to its whole process group.
        parent = try lab.spawn(
            in: host, ["setsid", "/usr/sbin/apache2", "-f", folder + "/httpd.conf", "-DFOREGROUND"], environment: options.environment)
        for family in Family.allCases {
            guard lab.waitUntilAccepting(host, lab.serviceAddress(family), 80) else {
                let why = errorLog + parent.stderr
                stop()
                throw LabError("apache2 on \(host.rawValue) does not accept: \(why)")
            }
        }
    }

    public var pid: Int32 { parent.pid }
    public var errorLog: String { readText(folder + "/error.log") }
    public var accessLog: [String] { readText(folder + "/access.log").split(separator: "\n").map(String.init) }

    /// The folder of CGI programs, the same on both hosts.
    public static func programs(_ lab: Lab) -> String { lab.folder + "/cgi" }

    /// Of its parent process, the broker among them.
    public var children: [Int32] {
        readText("/proc/\(parent.pid)/task/\(parent.pid)/children").split(separator: " ").compactMap { Int32($0) }
    }

    /// The process that speaks to the agent.
    public var broker: Int32? { children.first { readText("/proc/\($0)/comm").hasPrefix("apache2-sc") } }

    /// The process that serves the client's connection.
    public func serving() throws(LabError) -> Int32? { try servingEach().first }

    /// The process that serves it, for each of the client's connections.
    public func servingEach() throws(LabError) -> [Int32] {
        let text = try lab.check(in: host, ["ss", "-tnpH", "state", "established", "dst", lab.address(.client, .ipv4)])
        return text.split(separator: "\n").compactMap { line in
            let pids = line.split(separator: "pid=").dropFirst().compactMap { Int32($0.prefix(while: \.isNumber)) }
            return pids.first { children.contains($0) && $0 != broker }
        }
    }

    /// The address of a file for a client.
    public func url(_ name: String, _ family: Family = .ipv4) -> String {
        let address = lab.serviceAddress(family)
        return "http://\(family == .ipv4 ? address : "[\(address)]")/\(name)"
    }

    public func signal(_ number: Int32) { parent.signal(number) }

    /// True when it has ended within this time.
    public func hasEnded(within timeout: Duration) -> Bool { (try? parent.wait(timeout: timeout)) != nil }

    public func stop() { parent.terminate(grace: .seconds(5)) }

    private static func configuration(_ lab: Lab, _ folder: String, _ options: ApacheOptions) -> String {
        let modules = [
            "mpm_\(options.mpm.rawValue)", "authz_core", "mime", "dir", "alias", "env", "headers", "deflate", "filter", "status",
            "proxy", "proxy_http", "reqtimeout", "setenvif", options.mpm == .prefork ? "cgi" : "cgid",
        ]
        let room =
            switch options.mpm {
            case .prefork: "StartServers 5\nServerLimit 200\nMaxRequestWorkers 200"
            default: "StartServers 2\nServerLimit 16\nThreadsPerChild 64\nMaxRequestWorkers 1024"
            }
        return """
            ServerRoot \(folder)
            ServerName lab
            PidFile \(folder)/pid
            DefaultRuntimeDir \(folder)
            User www-data
            Group www-data
            ErrorLog \(folder)/error.log
            LogLevel warn sc:notice
            \(modules.map { "LoadModule \($0)_module /usr/lib/apache2/modules/mod_\($0).so" }.joined(separator: "\n"))
            \(options.module.map { "LoadModule sc_module \($0)\nSCService \(options.service)\nSCSessions 8192" } ?? "")
            \(room)
            Listen \(lab.serviceAddress(.ipv4)):80
            Listen [\(lab.serviceAddress(.ipv6))]:80
            TypesConfig /dev/null
            KeepAliveTimeout 60
            MaxKeepAliveRequests 0
            ExtendedStatus On
            \(options.mpm == .prefork ? "" : "ScriptSock \(folder)/cgisock")
            DocumentRoot \(lab.documentRoot)
            ScriptAlias /cgi/ \(programs(lab))/
            <Directory />
                Require all granted
            </Directory>
            <Location /status>
                SetHandler server-status
            </Location>
            LogFormat "%a %>s %B \\"%r\\" moved=%{SC_MOVED}e arrived=%{SC_ARRIVED}e" lab
            CustomLog \(folder)/access.log lab
            \(options.lines.joined(separator: "\n"))

            """
    }
}
