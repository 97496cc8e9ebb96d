// A session of three processes that have joined it by libsc is parked by its servers and moves between agents, with bytes in all its channels.

import FoundationEssentials
import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct MemberTests {
    private static let count = getenv("SC_MOVES").flatMap { Int(String(cString: $0)) } ?? 20
    private static let services = "{files: {ports: [7400], peers: [\"a\", \"b\"], accept: [{server: true}]}}"

    /// Agents and file servers on both hosts, and a client that compares every byte it gets from A.
    final class Scene {
        let world: TwoHosts
        let agents: Agents
        let capture: Capture
        let client: Child
        var servers: [Lab.Host: Child] = [:]
        private(set) var host = Lab.Host.a
        private(set) var front: Int32 = 0

        init(_ source: [String: String] = [:], target: [String: String] = [:]) throws {
            world = try TwoHosts()
            agents = try Agents(world, services: MemberTests.services)
            try agents.start(.a, source)
            try agents.start(.b, target)
            try agents.join()
            capture = try Capture(world.lab)
            let files = "\(world.lab.folder)/files"
            mkdir(files, 0o700)
            var random = SystemRandomNumberGenerator()
            for index in 0..<40 {
                let size = index == 0 ? 0 : Int.random(in: 1...(index.isMultiple(of: 10) ? 1_000_000 : 60_000))
                try writeFile("\(files)/f\(index)", (0..<size).map { _ in UInt8(truncatingIfNeeded: random.next()) })
            }
            let address = world.lab.serviceAddress(.ipv4)
            for host in [Lab.Host.a, .b] {
                let environment = ["ROOT": files, "LOG": "\(world.lab.folder)/log-\(host.rawValue)", "SLOW_LOG": "20", "SNDBUF": "32768"]
                let server = try world.lab.spawn(
                    in: host, [Lab.program("sc-fileserver"), "member", address, "7400"], environment: agents.environment(host, environment))
                try #require(server.waitForOutputOrError("listening"), "\(server.stderr)")
                servers[host] = server
            }
            for host in [Lab.Host.a, .b] {
                let areThere = eventually(within: .seconds(5)) { [agents] in
                    (try? agents.tool(host, ["agent", "--status"]).stdout).map { $0.split(separator: "\n").count { $0.contains("files") } } ?? 0 >= 3
                }
                try #require(areThere, "no spare processes on \(host.rawValue): \(agents.log(host))")
            }
            let script = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/files_client.py"
            client = try world.lab.spawn(in: .client, ["python3", script, address, "7400", files, "5", "4000000"])
            try #require(client.waitForOutputOrError("connected"), "\(client.stderr)")
            try findFront()
            usleep(300_000)
        }

        func processes(on host: Lab.Host, named name: String) -> [Int32] {
            Lab.processes(in: world.lab.namespace(host)).filter { readText("/proc/\($0)/comm") == name + "\n" }
        }

        func findFront() throws {
            let isThere = eventually(within: .seconds(10)) {
                for host in [Lab.Host.a, .b] {
                    for pid in self.processes(on: host, named: "front")
                    where self.world.channels(host, of: pid, port: 7400).contains(where: { $0.movable }) {
                        (self.host, self.front) = (host, pid)
                        return true
                    }
                }
                return false
            }
            try #require(isThere, "nobody has the session: \(agents.log(.a))\(agents.log(.b))\(client.stdout)\(client.stderr)")
        }

        var target: Lab.Host { host == .a ? .b : .a }
        var arguments: [String] {
            [
                "migrate", String(front), "--peer", world.lab.address(.client, .ipv4), "--to", "tls://\(target.rawValue)", "--service", "files",
                "--json",
            ]
        }

        func move(_ more: [String] = []) throws -> FileServer.Moved {
            let output = try agents.tool(host, arguments + more)
            try #require(output.status == 0, "\(output.stderr)\(agents.log(.a))\(agents.log(.b))")
            try findFront()
            return try JSONDecoder().decode(FileServer.Moved.self, from: Data(output.stdoutBytes))
        }

        /// Ends the client: no byte was lost, doubled or changed, and each request stands in one of the logs once.
        func finish(at location: SourceLocation = #_sourceLocation) throws {
            client.signal(SIGUSR1)
            try #expect(client.wait(timeout: .seconds(60)) == 0, "\(client.stderr)", sourceLocation: location)
            struct Report: Decodable {
                var requests, received: Int
                var error: String?
            }
            let line = try #require(client.stdout.split(separator: "\n").last)
            let report = try JSONDecoder().decode(Report.self, from: Data(line.utf8))
            #expect(report.error == nil && report.requests > 10, "\(report)", sourceLocation: location)
            func numbers() -> [Int] {
                [Lab.Host.a, .b].flatMap { host in
                    readText("\(world.lab.folder)/log-\(host.rawValue)").split(separator: "\n").compactMap { Int($0.split(separator: " ")[0]) }
                }
            }
            // The pipe may still hold thousands of lines, for a logger that takes 20 ms for each.
            _ = eventually(within: .seconds(180)) { numbers().count >= report.requests }
            let isEachOnce = numbers().sorted() == Array(1...report.requests)
            #expect(isEachOnce, "lines lost or doubled: \(numbers().count) for \(report.requests) requests", sourceLocation: location)
            let packets = capture.stop()
            #expect(packets.resetsToClient == 0 && packets.resetsFromClient == 0, sourceLocation: location)
            for server in servers.values { server.terminate() }
            agents.stop()
            try world.lab.routeService(to: .a)
            try world.finish(at: location)
        }
    }

    @Test func `three processes are parked and moved back and forth under load`() throws {
        let scene = try Scene()
        var blackouts: [Int] = []
        var filled: [String: Int] = [:]
        for _ in 0..<Self.count {
            let moved = try scene.move()
            #expect(moved.migrated == 1)
            blackouts.append(Int(moved.blackout_us))
            for descriptor in moved.group.descriptors where descriptor.queue ?? 0 > 0 { filled[descriptor.name, default: 0] += 1 }
            usleep(UInt32.random(in: 20_000...200_000))
        }
        #expect(
            filled["logger.lines"] ?? 0 > 0 && filled.keys.contains { $0.hasPrefix("front.to-worker") || $0.hasPrefix("worker.to-front") },
            "\(filled)")
        print("moves with bytes in a channel: \(filled)")
        print("blackout us, \(blackouts.count) moves: median \(blackouts.sorted()[blackouts.count / 2]), largest \(blackouts.max()!)")
        try scene.finish()
    }

    /// Whatever has become of the move, all parts are on one host, and the client is served.
    private func expectOneOwner(_ scene: Scene, _ what: String, at location: SourceLocation = #_sourceLocation) throws {
        var owners: [String] = []
        let isSettled = eventually(within: .seconds(10)) {
            owners = [Lab.Host.a, .b].flatMap { host in
                ((try? scene.agents.tool(host, ["agent", "--status"]).stdout) ?? "").split(separator: "\n").filter { $0.contains(" 1 sessions") }
                    .map { _ in host.rawValue }
            }
            return owners.count == 3 && Set(owners).count == 1
        }
        #expect(isSettled, "\(what) \(owners)", sourceLocation: location)
        try scene.findFront()
        try scene.finish(at: location)
    }

    @Test(arguments: ["capture-after", "transfer-after", "decide-before", "decide-after", "release-before"])
    func `a source that is killed leaves all parts to one host`(point: String) throws {
        let scene = try Scene(["SC_FAULT": "\(point):kill"])
        let output = try scene.agents.tool(.a, scene.arguments)
        #expect(output.status != 0)
        try expectOneOwner(scene, "\(point) \(output.stderr)")
    }

    @Test(arguments: ["rebuild-before", "consent-after", "decide-after", "activate-before", "activate-after"])
    func `a target that is killed leaves all parts to one host`(point: String) throws {
        let scene = try Scene(target: ["SC_FAULT": "\(point):kill"])
        _ = try scene.agents.tool(.a, scene.arguments)
        try expectOneOwner(scene, point)
    }

    @Test(arguments: [Lab.Host.a, .b]) func `an agent that is killed while the parts are parked leaves them to one host`(host: Lab.Host) throws {
        let scene = try Scene(["SC_FAULT": "transfer-before:run:sleep 1"])
        let command = try scene.world.lab.spawn(
            in: .a, [TwoHosts.program] + scene.arguments, environment: scene.agents.environment(.a))
        usleep(700_000)
        scene.agents.kill(host)
        let status = try command.wait(timeout: .seconds(20))
        try scene.agents.start(host)
        try expectOneOwner(scene, "status \(status) \(command.stderr)")
    }

    @Test func `a part that cannot be parked, or is nobody's on the target, leaves the session where it is`() throws {
        let scene = try Scene()
        let worker = try #require(
            readText("/proc/\(scene.front)/task/\(scene.front)/children").split(separator: " ").compactMap { Int32($0) }
                .first { readText("/proc/\($0)/comm") == "worker\n" })
        kill(worker, SIGSTOP)
        let silent = try scene.agents.tool(.a, scene.arguments + ["--park-deadline", "300"])
        #expect(silent.status == 1 && silent.stderr.contains("did not park in time"), "\(silent.stderr)")
        kill(worker, SIGCONT)
        usleep(200_000)
        // Nobody on B does the loggers' part any longer: the one that makes them has stopped, and the last is gone.
        scene.servers[.b]!.signal(SIGSTOP)
        for logger in scene.processes(on: .b, named: "logger") { kill(logger, SIGKILL) }
        #expect(eventually(within: .seconds(3)) { scene.agents.log(.b).contains("server-gone") })
        let refused = try scene.agents.tool(.a, scene.arguments)
        #expect(refused.status == 1 && refused.stderr.contains("nobody takes the part logger"), "\(refused.stderr)")
        scene.servers[.b]!.signal(SIGCONT)
        usleep(200_000)
        #expect(try scene.move().migrated == 1)
        try scene.finish()
    }

    @Test func `a drain moves each session of several processes by itself`() throws {
        let scene = try Scene()
        let output = try scene.agents.tool(.a, ["drain", "--service", "files", "--to", "tls://b", "--config", scene.agents.policy(.a), "--json"])
        #expect(output.status == 0, "\(output.stderr)\(scene.agents.log(.b))")
        try scene.findFront()
        #expect(scene.host == .b)
        try scene.finish()
    }
}
