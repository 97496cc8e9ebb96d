// The distribution's nginx, unmodified, as an instance of its own on a host of the lab.

internal import Glibc

/// What an nginx instance is to do.
public struct NginxOptions: Sendable {
    public var port: UInt16 = 80
    public var workers = 1
    public var sendfile = true
    /// Seconds an idle connection is kept; 0 closes after each response.
    public var keepaliveTimeout = 65
    /// Bytes per second and connection as nginx writes them (`8m`, `500k`); nil is no limit.
    public var limitRate: String?
    /// More lines for the server block.
    public var serverLines: [String] = []

    public init() {}
}

/// A running nginx that serves `Lab.documentRoot` at the service address, both families.
public final class Nginx: Sendable {
    public let host: Lab.Host
    public let options: NginxOptions
    /// One line per request: client address, client port, status, bytes sent, byte range asked for, request, connection number, requests on it.
    public let accessLogPath: String
    public let errorLogPath: String
    private let lab: Lab
    private let master: Child

    /// Starts it and waits until it accepts.
    public init(_ lab: Lab, on host: Lab.Host, _ options: NginxOptions = NginxOptions()) throws(LabError) {
        self.lab = lab
        self.host = host
        self.options = options
        let folder = "\(lab.folder)/nginx-\(host.rawValue)-\(options.port)"
        removeTree(folder)
        try makeFolder(folder)
        try makeFolder(lab.documentRoot)
        // The workers are not root.
        for path in [lab.folder, lab.documentRoot, folder] { chmod(path, 0o755) }
        accessLogPath = folder + "/access.log"
        errorLogPath = folder + "/error.log"
        try writeFile(folder + "/nginx.conf", Nginx.configuration(lab, folder, options))
        master = try lab.spawn(in: host, ["nginx", "-p", folder, "-e", errorLogPath, "-c", folder + "/nginx.conf"])
        for family in Family.allCases {
            guard lab.waitUntilAccepting(host, lab.serviceAddress(family), options.port) else {
                let why = readText(errorLogPath) + master.stderr
                stop()
                throw LabError("nginx on \(host.rawValue) does not accept: \(why)")
            }
        }
        // The master listens before it has all its workers.
        _ = eventually(within: .seconds(5)) { workerPIDs.count == options.workers }
    }

    /// The master process.
    public var masterPID: Int32 { master.pid }

    /// The worker processes, in the order of their pids.
    public var workerPIDs: [Int32] {
        readText("/proc/\(master.pid)/task/\(master.pid)/children").split(separator: " ").compactMap { Int32($0) }.sorted()
    }

    /// The lines of the access log so far.
    public var accessLog: [String] {
        readText(accessLogPath).split(separator: "\n").map(String.init)
    }

    /// The address of a file for a client, e.g. `http://[fd77::100]:80/big`.
    public func url(_ name: String, _ family: Family = .ipv4) -> String {
        let address = lab.serviceAddress(family)
        return "http://\(family == .ipv4 ? address : "[\(address)]"):\(options.port)/\(name)"
    }

    /// Ends master and workers, also when they are stopped.
    public func stop() {
        let workers = workerPIDs
        for pid in workers { kill(pid, SIGCONT) }
        master.terminate()
        for pid in workers where readText("/proc/\(pid)/comm") == "nginx\n" { kill(pid, SIGKILL) }
    }

    private static func configuration(_ lab: Lab, _ folder: String, _ options: NginxOptions) -> String {
        """
        daemon off;
        master_process on;
        worker_processes \(options.workers);
        pid \(folder)/nginx.pid;
        events { worker_connections 20000; }
        worker_rlimit_nofile 40000;
        http {
            log_format lab '$remote_addr $remote_port $status $bytes_sent "$http_range" "$request" $connection $connection_requests';
            access_log \(folder)/access.log lab;
            client_body_temp_path \(folder)/body;
            proxy_temp_path \(folder)/proxy;
            fastcgi_temp_path \(folder)/fastcgi;
            uwsgi_temp_path \(folder)/uwsgi;
            scgi_temp_path \(folder)/scgi;
            default_type application/octet-stream;
            sendfile \(options.sendfile ? "on" : "off");
            keepalive_timeout \(options.keepaliveTimeout);
            \(options.limitRate.map { "limit_rate \($0);" } ?? "")
            server {
                listen \(lab.serviceAddress(.ipv4)):\(options.port);
                listen [\(lab.serviceAddress(.ipv6))]:\(options.port);
                root \(lab.documentRoot);
                \(options.serverLines.joined(separator: "\n        "))
            }
        }

        """
    }
}
