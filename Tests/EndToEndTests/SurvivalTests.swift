// Servers with a log are killed, stopped and sent into endless loops at random moments; another process goes on, and the client's stream is whole.

import FoundationEssentials
import Glibc
import Support
import Testing

/// xorshift64*: the same moments for the same seed.
struct Moments {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next(below bound: UInt64) -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return ((state &* 0x2545_f491_4f6c_dd1d) >> 33) % bound
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

        init(orphans: String = "{}", _ environment: (Lab) -> [String: String] = { _ in [:] }, more: (Lab) -> String = { _ in "" }) throws {
            world = try TwoHosts()
            agents = try Agents(
                world, services: "{logged: {ports: [7400], peers: [\"a\", \"b\"], accept: [{server: true}], orphans: \(orphans)}}",
                limits: "{offers_per_second: 1000}", more: more(world.lab))
            for host in [Lab.Host.a, .b] { try agents.start(host, environment(world.lab)) }
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

        func connect(_ count: Int, seed: UInt64 = 1, limit: UInt64 = .max) throws {
            client = try world.lab.spawn(
                in: .client,
                [Lab.program("sc-logged"), "ask", world.lab.serviceAddress(.ipv4), "7400", String(count), String(seed), String(limit)], stdin: .pipe)
            try #require(client.waitForOutputOrError("connected"), "\(client.stderr)")
            // One that its server has not accepted yet ends with it.
            try waitForSessions(count, on: .a)
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

    @Test func `a successor whose output differs ends the session, and nothing of it reaches the client`() throws {
        let scene = try Scene()
        let first = try scene.serve(.a, "once")
        try scene.connect(4, limit: 100_000)
        usleep(300_000)
        try scene.serve(.a, "once", "salt")
        scene.kill(first, on: .a)
        let isEnded = eventually(within: .seconds(10)) {
            scene.agents.log(.a).split(separator: "\n").count { $0.contains("session-ended") && $0.contains("the output differs") } == 4
        }
        #expect(isEnded, "\(scene.agents.log(.a))")
        let answers = try scene.finish()
        #expect(answers.failed == 4 && answers.mismatch == 0 && answers.error.contains("reset"), "\(answers)")
    }

    @Test func `sessions that no server takes in time end with RST, and the log says so`() throws {
        let scene = try Scene(orphans: "{seconds: 1}")
        let only = try scene.serve(.a)
        try scene.serve(.a, "refuses")
        // Which of the two has accepted them is the kernel's choice.
        try scene.connect(8)
        usleep(200_000)
        let count = try #require(scene.sessions(.a)[only.pid])
        scene.kill(only, on: .a)
        let isEnded = eventually(within: .seconds(10)) {
            scene.agents.log(.a).split(separator: "\n").count { $0.contains("session-ended") && $0.contains("in time") } == count
        }
        #expect(isEnded, "\(count) \(scene.agents.log(.a))")
        let answers = try scene.finish()
        #expect(answers.failed == count && answers.mismatch == 0 && (count == 0 || answers.error.contains("reset")), "\(answers)")
    }

    @Test func `a server is replaced by a new process of its host, without a gap in any stream`() throws {
        let scene = try Scene()
        var old = try scene.serve(.a)
        try scene.connect(20)
        for _ in 0..<3 {
            let new = try scene.serve(.a)
            usleep(50_000)
            let output = try scene.agents.tool(.a, ["drain", String(old.pid), "--to", "self", "--service", "logged"])
            #expect(output.status == 0 && output.stdout.contains("moved 20 of 20"), "\(output.stdout)\(output.stderr)\(scene.agents.log(.a))")
            if getenv("SC_FIGURES") != nil { print(output.stdout) }
            #expect(scene.sessions(.a)[new.pid] == 20 && scene.sessions(.a)[old.pid] == 0, "\(scene.sessions(.a))")
            scene.kill(old, on: .a)
            old = new
        }
        expectWhole(try scene.finish())
    }

    /// The sockets were let go for the successor, and come back to the agent: their counters begin anew.
    @Test(arguments: ["transfer-after", "rebuild-after"]) func `a successor that dies while it is given the sessions leaves them to the next one`(
        point: String
    ) throws {
        let scene = try Scene {
            ["SC_FAULT": "\(point):run:test -f \($0.folder)/victim && kill -9 $(cat \($0.folder)/victim) && rm \($0.folder)/victim"]
        }
        let first = try scene.serve(.a)
        try scene.connect(4)
        usleep(100_000)
        let victim = try scene.serve(.a)
        try writeFile("\(scene.world.lab.folder)/victim", "\(victim.pid)\n")
        scene.kill(first, on: .a)
        try #require(eventually(within: .seconds(5)) { victim.poll() != nil }, "\(scene.agents.log(.a))")
        try scene.serve(.a)
        try scene.waitForSessions(4, on: .a)
        usleep(100_000)
        expectWhole(try scene.finish(), scene.agents.log(.a))
    }

    @Test(arguments: ["park-after", "capture-after", "transfer-after", "consent-after", "decide-after", "activate-after"])
    func `a worker that is killed while it moves them leaves every session to one owner`(point: String) throws {
        let scene = try Scene { ["SC_FAULT": "\(point):run:test -f \($0.folder)/victim && rm \($0.folder)/victim && kill -9 $PPID"] }
        let first = try scene.serve(.a)
        try scene.connect(4)
        usleep(100_000)
        try scene.serve(.a)
        try writeFile("\(scene.world.lab.folder)/victim", "")
        scene.kill(first, on: .a)
        try scene.waitForSessions(4, on: .a)
        #expect(access("\(scene.world.lab.folder)/victim", F_OK) != 0)
        usleep(100_000)
        expectWhole(try scene.finish(), "\(point) \(scene.agents.log(.a))")
    }

    @Test func `an agent that was started again takes the sessions of a server that is killed then`() throws {
        let scene = try Scene()
        let first = try scene.serve(.a)
        try scene.connect(4)
        scene.agents.kill(.a)
        try scene.agents.start(.a)
        try scene.waitForSessions(4, on: .a)
        try scene.serve(.a)
        scene.kill(first, on: .a)
        try scene.waitForSessions(4, on: .a)
        usleep(100_000)
        expectWhole(try scene.finish(), scene.agents.log(.a))
    }

    @Test func `hundreds of sessions of a killed server go on in several others`() throws {
        let scene = try Scene()
        let first = try scene.serve(.a)
        try scene.connect(200)
        usleep(300_000)
        for _ in 0..<3 { try scene.serve(.a) }
        scene.kill(first, on: .a)
        try scene.waitForSessions(200, on: .a)
        expectWhole(try scene.finish(), scene.agents.log(.a))
    }

    /// SC_MOMENTS tells how many, SC_SEED which.
    @Test func `at random moments a server is killed, stopped or busy for ever, and its sessions go on`() throws {
        let count = getenv("SC_MOMENTS").flatMap { Int(String(cString: $0)) } ?? 60
        let seed = getenv("SC_SEED").flatMap { UInt64(String(cString: $0)) } ?? 1
        var moments = Moments(seed: seed)
        let scene = try Scene(orphans: "{to: [\"tls://OTHER\"]}")
        var (host, owner) = (Lab.Host.a, try scene.serve(.a))
        try scene.serve(.b)
        try scene.connect(3, seed: seed)
        var counts: [String: Int] = [:]
        for index in 0..<count {
            let (kind, isLocal) = (moments.next(below: 3), moments.next(below: 2) == 0)
            let other = host == .a ? Lab.Host.b : .a
            if isLocal { try scene.serve(host) }
            usleep(UInt32(5_000 + moments.next(below: 40_000)))
            let what = "moment \(index) of seed \(seed): \(["kill", "stop", "busy"][Int(kind)]) on \(host), \(isLocal ? "to itself" : "to the other")"
            counts["\(["killed", "stopped", "busy"][Int(kind)]) \(isLocal ? "here" : "to the other host")", default: 0] += 1
            switch kind {
            case 0: scene.kill(owner, on: host)
            default:
                owner.signal(kind == 1 ? SIGSTOP : SIGUSR1)
                let output = try scene.agents.tool(
                    host,
                    [
                        "migrate", String(owner.pid), "--all", "--to", isLocal ? "self" : "tls://\(other.rawValue)", "--service", "logged",
                        "--park-deadline", "20",
                    ])
                try #require(output.status == 0, "\(what): \(output.stderr)\(scene.agents.log(.a))\n\(scene.agents.log(.b))")
                if kind == 1 {
                    // It wakes, finds its sessions gone, and serves on.
                    owner.signal(SIGCONT)
                    try #require(eventually(within: .seconds(5)) { scene.sessions(host)[owner.pid] == 0 }, "\(what): \(scene.sessions(host))")
                    #expect(owner.poll() == nil, "\(what)")
                }
                scene.kill(owner, on: host)
            }
            if !isLocal { host = other }
            try scene.waitForSessions(3, on: host, not: owner.pid)
            let successor = try #require(scene.sessions(host).max { $0.value < $1.value }?.key)
            owner = try #require(scene.servers[host]!.first { $0.pid == successor }, "\(what)")
            try #require(scene.client.poll() == nil, "\(what): \(scene.client.stdout)")
            let spare = host == .a ? Lab.Host.b : .a
            if scene.servers[spare]!.isEmpty { try scene.serve(spare) }
            // No server but the owner on its host, and one on the other.
            for (place, servers) in scene.servers {
                for extra in servers.filter({ $0 !== owner }).dropFirst(place == host ? 0 : 1) { scene.kill(extra, on: place) }
            }
        }
        if getenv("SC_FIGURES") != nil { print("moments: \(counts.sorted { $0.key < $1.key })") }
        let log = scene.agents.log(.a) + scene.agents.log(.b)
        expectWhole(try scene.finish(), "seed \(seed): \(log.suffix(4000))")
    }
}
