// A server with many idle clients, and who could take them: what the tests of `drain` begin with.

import FoundationEssentials
import Glibc
import Support
import Testing

/// What `drain --json` prints.
struct Drained: Decodable {
    struct Entry: Decodable {
        var client, service, outcome: String
        var target, reason: String?
    }
    struct LeftOut: Decodable { var target, reason: String }
    var moved, stayed, unknown, ended, began, batches: Int
    var longest_blackout_us, seconds: Double
    var sessions: [Entry]
    var left_out: [LeftOut]
}

/// A server on A with `count` idle clients, an acceptor on B, and a policy that names both as service `hold`.
struct Crowd {
    let world: TwoHosts
    let server, client: Child
    let count: Int
    let capture: Capture
    let socket, policy: String
    private var others: [Child] = []

    private static let script = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/drain_acceptor.py"

    init(_ count: Int = 40) throws {
        self.count = count
        world = try TwoHosts()
        capture = try Capture(world.lab)
        socket = "\(world.lab.folder)/acceptor.sock"
        policy = "\(world.lab.folder)/agent.json5"
        try writeFile(policy, "{services: {hold: {ports: [7100], peers: [\"hosta\"], accept: [{into: \"\(socket)\"}]}}}")
        let hold = Lab.program("sc-hold")
        let service = world.lab.serviceAddress(.ipv4)
        server = try world.lab.spawn(in: .a, [hold, "server", service, "7100", "--echo"], stdin: .pipe)
        try #require(server.waitForOutputOrError("listening"), "\(server.stderr)")
        client = try world.lab.spawn(in: .client, [hold, "client", service, "7100", String(count)], stdin: .pipe)
        try #require(client.waitForOutputOrError("connected"), "\(client.stderr)")
        try expectEcho()
    }

    mutating func startAcceptor(_ options: String...) throws {
        let child = try world.lab.spawn(in: .b, ["python3", Self.script, socket] + options)
        others.append(child)
        try #require(child.waitForOutputOrError("listening"), "\(child.stderr)")
    }

    /// A receiver on B with a run directory of its own.
    mutating func startReceiver(_ name: String, _ options: String...) throws -> String {
        let path = "\(world.lab.folder)/\(name).sock"
        let child = try world.lab.spawn(
            in: .b, [TwoHosts.program, "receive", "--listen", path] + options, environment: ["SC_RUN_DIR": "\(world.lab.folder)/run-\(name)"])
        others.append(child)
        try #require(child.waitForOutputOrError("listening"), "\(child.stderr)")
        return path
    }

    func expectEcho(at location: SourceLocation = #_sourceLocation) throws {
        let pong = try Held(client.ask("ping all"))
        #expect(pong.good == count && pong.failed == 0, "\(pong)", sourceLocation: location)
    }

    func drain(_ arguments: [String], status: Int32, fault: String? = nil, at location: SourceLocation = #_sourceLocation) throws -> Drained {
        var environment = world.environment(.a)
        environment["SC_FAULT"] = fault
        let output = try world.lab.run(
            in: .a, [TwoHosts.program, "drain", "--json"] + arguments, environment: environment, timeout: .seconds(60))
        #expect(output.status == status, "\(output.stdout)\(output.stderr)", sourceLocation: location)
        return try JSONDecoder().decode(Drained.self, from: Data(output.stdoutBytes))
    }

    func port(_ index: Int) throws -> String { String(try #require(try Held(client.ask("state \(index)")).port)) }

    func finish() throws {
        let packets = capture.stop()
        #expect(packets.resetsToClient == 0, "\(packets)")
        for child in [client, server] + others { child.terminate() }
        try world.finish()
    }
}
