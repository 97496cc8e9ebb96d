// Two hosts with agents and Apaches: what the tests of Apache begin and end with.

import FoundationEssentials
import Glibc
import Support
import Testing

/// What `sessions --json` says of a server's session.
struct ServedSession: Decodable {
    var kind, client, service: String
    var server, reason, refusal: String?
    var movable: Bool?
}

/// Two hosts with agents and Apaches, and what is asked of them.
final class TwoApaches {
    typealias MPM = ApacheOptions.MPM
    let world: TwoHosts
    let agents: Agents
    let capture: Capture
    private(set) var servers: [Lab.Host: Apache] = [:]
    /// Where the sessions are.
    var home = Lab.Host.a
    /// How the client reaches them.
    var family = Family.ipv4
    private var all: [Apache] = []

    static let module = repository + "/.build/apache/mod_sc.so"
    private static let repository = #filePath.split(separator: "/").dropLast(3).map { "/" + $0 }.joined()
    private static func beside(_ name: String) -> String { #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/" + name }
    private static let script = beside("http_client.py")
    static let crowd = beside("http_crowd.py")
    static let random = beside("http_random.py")
    static let paced = beside("paced.py")
    static let services = """
        {www: {ports: [80, 443], peers: ["a", "b"], accept: [{server: true}], server_users: ["www-data"]}}
        """

    /// Moves for the tests that repeat; SC_MOVES names another number.
    static func moves(_ usual: Int) -> Int { getenv("SC_MOVES").flatMap { Int(String(cString: $0)) } ?? usual }

    convenience init(_ mpm: MPM = .event, lines: [String] = []) throws { try self.init(mpm) { _ in lines } }

    /// `lines` makes what they need beside.
    init(_ mpm: MPM = .event, lines: (Lab) throws -> [String]) throws {
        world = try TwoHosts()
        try world.lab.check(in: nil, ["make", "-C", Self.repository + "/integrations/apache"], timeout: .seconds(120))
        let lines = try lines(world.lab)
        agents = try Agents(world, services: Self.services, limits: "{offers_per_second: 1000, sessions_in_flight: 5000}")
        for host in [Lab.Host.a, .b] { try agents.start(host) }
        try agents.join()
        capture = try Capture(world.lab)
        for host in [Lab.Host.a, .b] { try start(host, mpm, lines) }
    }

    /// Lines of configuration for a server that speaks TLS with these virtual hosts, and makes its certificate.
    static func tls(_ lab: Lab, hosts: [(name: String, lines: [String])] = [("lab", [])], more: [String] = ["SCTLS on"]) throws -> [String] {
        let modules = "/usr/lib/apache2/modules", address = lab.serviceAddress(.ipv4), certificate = "\(lab.folder)/tls"
        try lab.check(
            in: nil,
            [
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=lab", "-keyout", "\(certificate).key", "-out",
                "\(certificate).crt",
            ])
        let loads = ["socache_shmcb", "ssl"].map { "LoadModule \($0)_module \(modules)/mod_\($0).so" }
        let servers = hosts.flatMap { host in
            ["<VirtualHost \(address):443>", "ServerName \(host.name)", "SSLEngine on", "SSLCertificateFile \(certificate).crt"]
                + ["SSLCertificateKeyFile \(certificate).key"] + host.lines + ["</VirtualHost>"]
        }
        return loads + more + ["Listen \(address):443"] + servers
    }

    /// Starts an Apache, which has registered when this returns.
    @discardableResult
    func start(_ host: Lab.Host, _ mpm: MPM = .event, _ lines: [String] = [], name: String = "apache") throws -> Apache {
        var options = ApacheOptions()
        (options.mpm, options.module, options.lines, options.name) = (mpm, Self.module, lines, name)
        options.environment = agents.environment(host)
        let server = try Apache(world.lab, on: host, options)
        servers[host] = server
        all.append(server)
        try requireKnown(server)
        return server
    }

    private func requireKnown(_ server: Apache) throws {
        let isKnown = eventually(within: .seconds(5), every: .milliseconds(50)) {
            (try? agents.tool(server.host, ["agent", "--status"]).stdout.contains("server \(server.broker ?? 0) of www")) ?? false
        }
        try #require(isKnown, "\(server.errorLog)\(agents.log(server.host))")
    }

    /// The source's agent, with these variables; its Apache has registered again when this returns.
    func restartAgent(_ variables: [String: String]) throws {
        agents.end(.a)
        try agents.start(.a, variables)
        try requireKnown(servers[.a]!)
    }

    /// Ends an Apache, and starts another in its place.
    func restart(_ host: Lab.Host, lines: (Lab) throws -> [String]) throws {
        servers[host]?.stop()
        try start(host, .event, lines(world.lab))
    }

    var here: Apache { servers[home]! }
    private func other(_ host: Lab.Host) -> Lab.Host { host == .a ? .b : .a }

    func arguments(_ verb: String = "migrate") -> [String] {
        [verb, String(here.pid), "--to", "tls://\(other(home))", "--service", "www", "--json", "--peer", world.lab.address(.client, family)]
    }

    /// The client's sessions go to the other host.
    @discardableResult
    func move(at location: SourceLocation = #_sourceLocation) throws -> Migrated {
        let output = try agents.tool(home, arguments() + ["--all"])
        try #require(
            output.status == 0, "\(output.stderr)\(servers[.a]!.errorLog)\(servers[.b]!.errorLog)\(agents.log(.a))", sourceLocation: location)
        home = other(home)
        return try JSONDecoder().decode(Migrated.self, from: Data(output.stdoutBytes))
    }

    /// The same, unless something is in the way. True: they are there.
    func moveIfPossible() throws -> Bool {
        let isMoved = try agents.tool(home, arguments() + ["--all"]).status == 0
        if isMoved { home = other(home) }
        return isMoved
    }

    /// Moves while the client runs. It stands still between them, so that it has not finished on a slow machine before the last one.
    func moves(_ count: Int, of client: Child, before: () throws -> Void = {}, at location: SourceLocation = #_sourceLocation) throws {
        for _ in 0..<count {
            client.signal(SIGCONT)
            usleep(250_000)
            try before()
            try move(at: location)
            client.signal(SIGSTOP)
        }
        client.signal(SIGCONT)
    }

    /// The session stays, for this reason.
    func expectRefusal(_ words: String, at location: SourceLocation = #_sourceLocation) throws {
        let output = try agents.tool(home, arguments() + ["--all"])
        #expect(output.status == 1 && output.stderr.contains(words), "\(output.stdout)\(output.stderr)", sourceLocation: location)
    }

    /// What the host with the sessions knows of them.
    func sessions() throws -> [ServedSession] {
        struct Known: Decodable { var sessions: [ServedSession] }
        let output = try agents.tool(home, ["sessions", "--json"])
        return try JSONDecoder().decode(Known.self, from: Data(output.stdoutBytes)).sessions.filter { $0.server != nil }
    }

    func spawn(_ command: [String], stdin: Lab.Input = .nothing) throws -> Child { try world.lab.spawn(in: .client, command, stdin: stdin) }

    /// With a `name` it speaks TLS, and asks for that server; with a `certificate` (files without .crt and .key) it shows that when it is asked later.
    func client(tls name: String? = nil, certificate: String? = nil) throws -> Child {
        let child = try spawn(
            ["python3", Self.script, world.lab.serviceAddress(.ipv4), name == nil ? "80" : "443"] + [name, certificate].compactMap { $0 },
            stdin: .pipe)
        try #require(child.waitForOutputOrError("connected"), "\(child.stderr)")
        return child
    }

    func writeProgram(_ name: String, _ text: String) throws {
        try writeFile(Apache.programs(world.lab) + "/" + name, "#!/usr/bin/python3\n" + text, mode: 0o755)
    }

    /// `resets` to the client, or nil: any number.
    func finish(resets: Int? = 0) throws {
        let packets = capture.stop()
        #expect(resets == nil || packets.resetsToClient == resets, "\(packets)")
        for server in all { server.stop() }
        agents.stop()
        try world.finish()
    }
}
