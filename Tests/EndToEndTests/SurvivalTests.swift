// Servers with a log are killed, stopped and sent into endless loops at random moments; another process goes on, and the client's stream is whole.

import FoundationEssentials
import Glibc
import Support
import Testing

/// xorshift64*: the same moments for the same seed.
private struct Moments {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next(below bound: UInt64) -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return (state &* 0x2545_f491_4f6c_dd1d >> 16) % bound
    }
}

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct SurvivalTests {
    /// What sc-logged's client prints.
    struct Answers: Decodable {
        var sent, received, mismatch: UInt64
        var failed: Int
        var error: String
        var gap_ms: Double
    }

    /// Agents on both hosts, servers by host, and a client that talks to the first one on A.
    final class Scene {
        let world: TwoHosts
        let agents: Agents
        var servers: [Lab.Host: [Child]] = [.a: [], .b: []]
        private(set) var client: Child!

        init(orphans: String = "{}") throws {
            world = try TwoHosts()
            agents = try Agents(
                world, services: "{logged: {ports: [7400], peers: [\"a\", \"b\"], accept: [{server: true}], orphans: \(orphans)}}",
                limits: "{offers_per_second: 1000}")
            for host in [Lab.Host.a, .b] { try agents.start(host) }
            try agents.join()
        }

        @discardableResult
        func serve(_ host: Lab.Host, _ options: String...) throws -> Child {
            let server = try world.lab.spawn(
                in: host, [Lab.program("sc-logged"), "serve", world.lab.serviceAddress(.ipv4), "7400"] + options,
                environment: agents.environment(host))
            try #require(server.waitForOutputOrError("agent 1"), "\(server.stderr)\(agents.log(host))")
            servers[host]!.append(server)
            return server
        }

        func connect(_ count: Int, seed: UInt64 = 1) throws {
            client = try world.lab.spawn(
                in: .client, [Lab.program("sc-logged"), "ask", world.lab.serviceAddress(.ipv4), "7400", String(count), String(seed)], stdin: .pipe)
            try #require(client.waitForOutputOrError("connected"), "\(client.stderr)")
        }

        /// Ends a server at once, in whatever state it is.
        func kill(_ server: Child, on host: Lab.Host) {
            server.signal(SIGKILL)
            _ = try? server.wait()
            servers[host]!.removeAll { $0 === server }
        }

        /// The sessions that the host's agent knows, by server.
        func sessions(_ host: Lab.Host) -> [Int32: Int] {
            guard let output = try? agents.tool(host, ["agent", "--status"]) else { return [:] }
            var result: [Int32: Int] = [:]
            for line in output.stdout.split(separator: "\n") where line.hasPrefix("server ") && !line.hasSuffix("dead") {
                let words = line.split(separator: " ")
                if let pid = Int32(words[1]), let count = Int(words[4]) { result[pid] = count }
            }
            return result
        }

        func waitForSessions(_ count: Int, on host: Lab.Host, not former: Int32 = 0, at location: SourceLocation = #_sourceLocation) throws {
            let isThere = eventually(within: .seconds(15)) { self.sessions(host).filter { $0.key != former }.values.reduce(0, +) == count }
            try #require(isThere, "\(sessions(host)) \(agents.log(.a))\n\(agents.log(.b))", sourceLocation: location)
        }

        /// Ends the client; what it saw.
        func finish(at location: SourceLocation = #_sourceLocation) throws -> Answers {
            try client.send("stop")
            _ = try client.wait(timeout: .seconds(25))
            let line = try #require(client.stdout.split(separator: "\n").last { $0.hasPrefix("{") }, "\(client.stdout)\(client.stderr)")
            let answers = try JSONDecoder().decode(Answers.self, from: Data(line.utf8))
            for server in servers.values.flatMap({ $0 }) { server.terminate() }
            agents.stop()
            try world.lab.routeService(to: .a)
            try world.finish(at: location)
            if getenv("SC_FIGURES") != nil { print("client: \(answers.received) bytes, largest gap \(answers.gap_ms) ms") }
            return answers
        }
    }

    private func expectWhole(_ answers: Answers, _ what: String = "", at location: SourceLocation = #_sourceLocation) {
        #expect(
            answers.mismatch == 0 && answers.failed == 0 && answers.received == answers.sent && answers.sent > 10_000, "\(answers) \(what)",
            sourceLocation: location)
    }

    @Test func `a killed server's sessions go to another one on the host`() throws {
        let scene = try Scene()
        let first = try scene.serve(.a)
        try scene.connect(4)
        usleep(200_000)
        try scene.serve(.a)
        scene.kill(first, on: .a)
        try scene.waitForSessions(4, on: .a)
        usleep(200_000)
        let log = scene.agents.log(.a)
        expectWhole(try scene.finish(), log)
        #expect(log.contains("server-died") && log.contains("outcome=moved"), "\(log)")
    }
}
