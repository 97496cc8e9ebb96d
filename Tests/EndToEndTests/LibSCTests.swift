// Servers that take part by libsc: their sessions move with their state, cooperatively, while the client goes on.

import FoundationEssentials
import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct LibSCTests {
    private static let services = "{echo: {ports: [7300], peers: [\"a\", \"b\"], accept: [{server: true}]}}"
    private static let script = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/lines.py"

    /// What lines.py prints.
    struct Lines: Decodable {
        var sent, answered: Int
        var error: String
        var gap_ms: Double
    }

    /// Agents and echo servers on both hosts, and a client that talks to A's.
    final class Scene {
        let world: TwoHosts
        let agents: Agents
        let capture: Capture
        var servers: [Lab.Host: Child] = [:]
        let client: Child

        private let programs: [Lab.Host: String]

        /// `source` and `target` are environments of A's and B's agents and of what they run; `programs` the servers of A and B.
        init(
            _ source: [String: String] = [:], target: [String: String] = [:], connections: Int = 1,
            programs: [Lab.Host: String] = [.a: "sc-echo", .b: "sc-echo"]
        ) throws {
            self.programs = programs
            world = try TwoHosts()
            agents = try Agents(world, services: LibSCTests.services)
            try agents.start(.a, source)
            try agents.start(.b, target)
            for host in [Lab.Host.a, .b] {
                servers[host] = try Self.serve(host, programs[host]!, world, agents)
            }
            try agents.join()
            capture = try Capture(world.lab)
            client = try world.lab.spawn(
                in: .client, ["python3", LibSCTests.script, world.lab.serviceAddress(.ipv4), "7300", String(connections)], stdin: .pipe)
            try #require(client.waitForOutputOrError("connected"), "\(client.stderr)")
        }

        func serve(_ host: Lab.Host) throws -> Child { try Self.serve(host, programs[host]!, world, agents) }

        private static func serve(_ host: Lab.Host, _ program: String, _ world: TwoHosts, _ agents: Agents) throws -> Child {
            let server = try world.lab.spawn(
                in: host, [Lab.program(program), world.lab.serviceAddress(.ipv4), "7300"], environment: agents.environment(host))
            try #require(server.waitForOutputOrError("agent 1"), "\(server.stderr)\(agents.log(host))")
            return server
        }

        func arguments(from host: Lab.Host) -> [String] {
            let other = host == .a ? Lab.Host.b : .a
            return ["migrate", String(servers[host]!.pid), "--all", "--to", "tls://\(other.rawValue)", "--service", "echo", "--json"]
        }

        func migrate(from host: Lab.Host, _ more: [String] = []) throws -> Output { try agents.tool(host, arguments(from: host) + more) }

        /// Ends the client; what it saw.
        func finish() throws -> Lines {
            try client.send("stop")
            _ = try client.wait(timeout: .seconds(10))
            let line = try #require(client.stdout.split(separator: "\n").last { $0.hasPrefix("{") }, "\(client.stdout)\(client.stderr)")
            let lines = try JSONDecoder().decode(Lines.self, from: Data(line.utf8))
            let packets = capture.stop()
            #expect(packets.resetsToClient == 0, "\(packets)")
            for server in servers.values { server.terminate() }
            agents.stop()
            try world.lab.routeService(to: .a)
            try world.finish()
            if getenv("SC_FIGURES") != nil { print("client: \(lines.answered) answers, largest gap \(lines.gap_ms) ms") }
            return lines
        }
    }

    @Test(arguments: ["sc-echo", "sc-echo-swift"]) func `a session moves there and back with its state while the client sends lines`(other: String)
        throws
    {
        let scene = try Scene(programs: [.a: "sc-echo", .b: other])
        var blackouts: [Double] = []
        for round in 0..<10 {
            usleep(100_000)
            let host = round.isMultiple(of: 2) ? Lab.Host.a : .b
            let output = try scene.migrate(from: host)
            try #require(output.status == 0, "move \(round): \(output.stderr)\(scene.agents.log(.a))\(scene.agents.log(.b))")
            let moved = try JSONDecoder().decode(Migrated.self, from: Data(output.stdoutBytes))
            #expect(moved.migrated == 1)
            blackouts.append(moved.blackout_us)
        }
        if getenv("SC_FIGURES") != nil { print("blackouts in us: \(blackouts.sorted())") }
        usleep(100_000)
        let lines = try scene.finish()
        #expect(lines.error.isEmpty && lines.answered == lines.sent && lines.sent > 100, "\(lines)")
    }

    @Test func `a snapshot has the state of the server, and a session is carried by hand into another one`() throws {
        let scene = try Scene()
        usleep(100_000)
        let image = "\(scene.world.lab.folder)/echo.sci"
        let pid = String(scene.servers[.a]!.pid)
        let wrote = try scene.agents.tool(.a, ["snapshot", pid, "--all", "-o", image])
        try #require(wrote.status == 0, "\(wrote.stderr)")
        let shown = try scene.world.json(.a, ["show", image], as: ShownStates.self)
        // lines, bytes, the length of the incomplete line.
        #expect(shown.sessions.first?.state_bytes ?? 0 >= 20, "\(shown)")
        usleep(100_000)
        let took = try scene.agents.tool(.a, ["snapshot", pid, "--all", "--take", "-o", image])
        try #require(took.status == 0, "\(took.stderr)")
        let restored = try scene.agents.tool(.b, ["restore", image, "--into", "\(scene.world.lab.folder)/run-b/servers/echo.sock"])
        #expect(restored.status == 0, "\(restored.stderr)\(scene.agents.log(.b))")
        // Not before: B would answer what the client sends again with RST.
        try scene.world.lab.routeService(to: .b)
        let released = try scene.agents.tool(.a, ["release", image])
        #expect(released.status == 0, "\(released.stderr)")
        #expect(
            eventually(within: .seconds(5)) {
                scene.servers[.a].map { !scene.world.channels(.a, of: $0.pid, port: 7300).contains { $0.movable } } ?? false
            })
        usleep(300_000)
        let lines = try scene.finish()
        #expect(lines.error.isEmpty && lines.answered == lines.sent && lines.sent > 100, "\(lines)")
    }

    @Test func `a session that was taken by hand is given back to its server`() throws {
        let scene = try Scene()
        let image = "\(scene.world.lab.folder)/echo.sci"
        let took = try scene.agents.tool(.a, ["snapshot", String(scene.servers[.a]!.pid), "--all", "--take", "-o", image])
        try #require(took.status == 0, "\(took.stderr)")
        usleep(200_000)
        let resumed = try scene.agents.tool(.a, ["resume", image])
        #expect(resumed.status == 0, "\(resumed.stderr)")
        usleep(300_000)
        let lines = try scene.finish()
        #expect(lines.error.isEmpty && lines.answered == lines.sent && lines.sent > 100, "\(lines)")
    }

    @Test func `a server that does not park in time keeps its session, and so does one whose state a target wants`() throws {
        let scene = try Scene()
        usleep(100_000)
        scene.servers[.a]!.signal(SIGSTOP)
        let refused = try scene.migrate(from: .a, ["--park-deadline", "200"])
        scene.servers[.a]!.signal(SIGCONT)
        #expect(refused.status == 1 && refused.stderr.contains("did not park in time") && refused.stderr.contains("--force"), "\(refused.stderr)")
        usleep(100_000)
        // Stopped instead of asked, it says nothing of its state, and echo cannot do without.
        let forced = try scene.migrate(from: .a, ["--force"])
        #expect(forced.status == 1 && forced.stderr.contains("declined after the sessions"), "\(forced.stderr)")
        let output = try scene.migrate(from: .a)
        #expect(output.status == 0, "\(output.stderr)")
        usleep(100_000)
        let lines = try scene.finish()
        #expect(lines.error.isEmpty && lines.answered == lines.sent, "\(lines)")
    }

    @Test func `without a server that takes sessions the offer is refused, and with one again it moves`() throws {
        let scene = try Scene()
        scene.servers[.b]!.terminate()
        #expect(eventually(within: .seconds(3)) { scene.agents.log(.b).contains("server-gone") })
        let refused = try scene.migrate(from: .a)
        #expect(refused.status == 1 && refused.stderr.contains("servers/echo.sock"), "\(refused.stderr)")
        scene.servers[.b] = try scene.serve(.b)
        let output = try scene.migrate(from: .a)
        #expect(output.status == 0, "\(output.stderr)\(scene.agents.log(.b))")
        let lines = try scene.finish()
        #expect(lines.error.isEmpty && lines.answered == lines.sent, "\(lines)")
    }

    @Test(arguments: [Lab.Host.a, .b]) func `an agent that is killed while a session is parked leaves it to one owner`(host: Lab.Host) throws {
        let scene = try Scene(["SC_FAULT": "transfer-before:run:sleep 1"])
        let command = try scene.world.lab.spawn(
            in: .a, [TwoHosts.program] + scene.arguments(from: .a), environment: scene.agents.environment(.a))
        usleep(600_000)
        scene.agents.kill(host)
        let status = try command.wait(timeout: .seconds(20))
        try scene.agents.start(host)
        for server in scene.servers.values {
            #expect(eventually(within: .seconds(5)) { server.stdout.split(separator: "\n").last?.hasPrefix("agent 1") ?? false }, "\(server.stdout)")
        }
        try expectOneOwner(scene, "status \(status) \(command.stderr)")
    }

    /// Whatever has become of the move, the client is served by one of the two, and the agents agree on who that is.
    private func expectOneOwner(_ scene: Scene, _ what: String, at location: SourceLocation = #_sourceLocation) throws {
        var owners: [Lab.Host] = []
        let isSettled = eventually(within: .seconds(10)) {
            owners = [Lab.Host.a, .b].filter { (try? scene.agents.tool($0, ["agent", "--status"]).stdout.contains(" 1 sessions")) ?? false }
            return owners.count == 1
        }
        #expect(isSettled, "\(what) \(owners)", sourceLocation: location)
        let lines = try scene.finish()
        #expect(lines.error.isEmpty && lines.answered == lines.sent, "\(what) \(lines)", sourceLocation: location)
    }

    @Test(arguments: ["prepare-after", "park-after", "capture-after", "decide-after", "activate-after"])
    func `a source that is killed leaves one owner`(
        point: String
    ) throws {
        let scene = try Scene(["SC_FAULT": "\(point):kill"])
        usleep(100_000)
        let output = try scene.migrate(from: .a)
        #expect(output.status != 0, "\(output.stdout)")
        try expectOneOwner(scene, "\(point) \(output.stderr)\(scene.agents.log(.a))")
    }

    @Test(arguments: ["rebuild-after", "consent-after", "decide-after", "activate-before", "activate-after"])
    func `a target that is killed leaves one owner`(point: String) throws {
        let scene = try Scene(target: ["SC_FAULT": "\(point):kill"])
        usleep(100_000)
        let output = try scene.migrate(from: .a)
        try expectOneOwner(scene, "\(point) \(output.stderr)\(scene.agents.log(.b))")
    }

    @Test func `a server that the policy does not name is told why, and serves`() throws {
        let world = try TwoHosts()
        let agents = try Agents(world, services: "{other: {ports: [1], accept: [{server: true}]}}")
        try agents.start(.a)
        let server = try world.lab.spawn(
            in: .a, [Lab.program("sc-echo"), world.lab.serviceAddress(.ipv4), "7300"], environment: agents.environment(.a))
        #expect(server.waitForOutputOrError("agent -2 the policy of"), "\(server.stdout)")
        let client = try world.lab.spawn(in: .client, ["python3", LibSCTests.script, world.lab.serviceAddress(.ipv4), "7300"], stdin: .pipe)
        try #require(client.waitForOutputOrError("connected"), "\(client.stderr)")
        try client.send("stop")
        _ = try client.wait(timeout: .seconds(10))
        #expect(client.stdout.contains("\"error\": \"\""), "\(client.stdout)")
        server.terminate()
        agents.stop()
        try world.finish()
    }

    @Test func `an echo server that is killed leaves its sessions to its successor, and that to the other host`() throws {
        let scene = try Scene()
        func serve(_ host: Lab.Host) throws -> Child {
            let server = try scene.world.lab.spawn(
                in: host, [Lab.program("sc-echo"), scene.world.lab.serviceAddress(.ipv4), "7300", "survive"],
                environment: scene.agents.environment(host))
            try #require(server.waitForOutputOrError("agent 1"), "\(server.stderr)")
            return server
        }
        func kill(_ server: Child) throws {
            server.signal(SIGKILL)
            try server.wait()
        }
        // The ones that do not survive make room: from here on sessions come to those that do.
        let first = try serve(.a)
        #expect(try scene.agents.tool(.a, ["drain", String(scene.servers[.a]!.pid), "--to", "self", "--service", "echo"]).status == 0)
        scene.servers[.a]!.terminate()
        let second = try serve(.a)
        usleep(100_000)
        try kill(first)
        let isTaken = eventually(within: .seconds(5)) {
            (try? scene.agents.tool(.a, ["agent", "--status"]).stdout.contains("server \(second.pid) of echo, 1 sessions")) ?? false
        }
        #expect(isTaken, "\(scene.agents.log(.a))")
        usleep(100_000)
        scene.servers[.b]!.terminate()
        scene.servers[.b] = try serve(.b)
        second.signal(SIGSTOP)
        let output = try scene.agents.tool(
            .a, ["migrate", String(second.pid), "--all", "--to", "tls://b", "--service", "echo", "--park-deadline", "100"])
        #expect(output.status == 0, "\(output.stderr)\(scene.agents.log(.b))")
        second.signal(SIGCONT)
        usleep(100_000)
        #expect(second.poll() == nil)
        second.terminate()
        let lines = try scene.finish()
        #expect(lines.error.isEmpty && lines.answered == lines.sent && lines.sent > 50, "\(lines)")
    }

    @Test func `three hundred sessions are drained, each with its own state, and come back`() throws {
        let scene = try Scene(connections: 300)
        for host in [Lab.Host.a, .b] {
            let output = try scene.agents.tool(
                host, ["drain", String(scene.servers[host]!.pid), "--to", "tls://\(host == .a ? "b" : "a")", "--service", "echo"])
            #expect(output.status == 0, "\(output.stdout)\(output.stderr)\(scene.agents.log(.a))\(scene.agents.log(.b))")
            usleep(300_000)
        }
        let status = try scene.agents.tool(.a, ["agent", "--status"]).stdout
        #expect(status.contains(" of echo, 300 sessions"), "\(status)")
        let lines = try scene.finish()
        #expect(lines.error.isEmpty && lines.answered == lines.sent && lines.sent > 600, "\(lines)")
    }
}
