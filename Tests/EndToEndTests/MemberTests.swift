// A session of three processes that have joined it by libsc is parked by its servers and moves between agents, with bytes in all its channels.

import FoundationEssentials
import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct MemberTests {
    private static let count = getenv("SC_MOVES").flatMap { Int(String(cString: $0)) } ?? 20

    /// Agents and file servers on both hosts, and a client that compares every byte it gets from A.
    final class Scene {
        let world: TwoHosts
        let agents: Agents
        let capture: Capture
        private(set) var client: FilesClient!
        var servers: [Lab.Host: Child] = [:]
        private let more: [String: String]
        private(set) var host = Lab.Host.a
        private(set) var front: Int32 = 0

        /// `orphans`: the policy's. FOLDER in `source`'s values is the lab's. `otherFiles`: those on B are longer than those on A.
        init(
            _ source: [String: String] = [:], target: [String: String] = [:], servers more: [String: String] = [:], orphans: String = "{}",
            otherFiles: Bool = false
        ) throws {
            self.more = more
            world = try TwoHosts()
            agents = try Agents(
                world, services: "{files: {ports: [7400], peers: [\"a\", \"b\"], accept: [{server: true}], orphans: \(orphans)}}",
                limits: "{offers_per_second: 1000}")
            try agents.start(.a, source.mapValues { [world] in $0.replacing("FOLDER", with: world.lab.folder) })
            try agents.start(.b, target)
            try agents.join()
            capture = try Capture(world.lab)
            // Of large files one is open at nearly any moment.
            try FilesClient.makeFiles(world, least: otherFiles ? 400_000 : 0)
            var others = more
            if otherFiles {
                others["ROOT"] = "\(world.lab.folder)/others"
                let command = "cp -r \(FilesClient.directory(world)) $0 && for f in $0/*; do echo more >> $f; done"
                #expect(try world.lab.run(in: .b, ["sh", "-c", command, others["ROOT"]!]).status == 0)
            }
            servers = [.a: try Self.serve(.a, world, agents, more), .b: try Self.serve(.b, world, agents, others)]
            for host in [Lab.Host.a, .b] { try waitForSpares(on: host) }
            client = try FilesClient(world)
            try findFront()
            usleep(300_000)
        }

        private static func serve(_ host: Lab.Host, _ world: TwoHosts, _ agents: Agents, _ more: [String: String]) throws -> Child {
            let environment = ["ROOT": FilesClient.directory(world), "LOG": FilesClient.log(world, host), "SLOW_LOG": "20", "SNDBUF": "32768"]
            let server = try world.lab.spawn(
                in: host, [Lab.program("sc-fileserver"), "member", world.lab.serviceAddress(.ipv4), "7400"],
                environment: agents.environment(host, environment.merging(more) { $1 }))
            try #require(server.waitForOutputOrError("listening"), "\(server.stderr)")
            return server
        }

        /// The server again, after `endSpares`.
        func serve(_ host: Lab.Host) throws {
            servers[host] = try Self.serve(host, world, agents, more)
            try waitForSpares(on: host)
        }

        /// The processes of the service on a host, with how many sessions each has and whether it takes one.
        func members(_ host: Lab.Host) -> [(pid: Int32, sessions: Int, accepts: Bool)] {
            guard let output = try? agents.tool(host, ["agent", "--status"]) else { return [] }
            return output.stdout.split(separator: "\n").compactMap { line in
                let words = line.split(separator: " ")
                guard words.count > 4, words[0] == "server", !line.hasSuffix("dead"), let pid = Int32(words[1]), let count = Int(words[4]) else {
                    return nil
                }
                return (pid, count, line.hasSuffix("takes more"))
            }
        }

        func waitForSpares(on host: Lab.Host, at location: SourceLocation = #_sourceLocation) throws {
            let areThere = eventually(within: .seconds(5)) { self.members(host).count { $0.accepts } >= 3 }
            try #require(areThere, "no spare processes on \(host.rawValue): \(agents.log(host))", sourceLocation: location)
        }

        /// Nobody on this host takes a session any longer; those that have one serve on.
        func endSpares(on host: Lab.Host) {
            servers[host]?.signal(SIGKILL)
            _ = try? servers[host]?.wait()
            servers[host] = nil
            let busy = Set(members(host).filter { $0.sessions > 0 }.map(\.pid))
            for pid in ["front", "worker", "logger", "sc-fileserver"].flatMap({ processes(on: host, named: $0) }) where !busy.contains(pid) {
                Glibc.kill(pid, SIGKILL)
            }
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
            try #require(isThere, "nobody has the session: \(agents.log(.a))\(agents.log(.b))\(client.child.stdout)\(client.child.stderr)")
        }

        /// The process that does this part of the session.
        func part(_ name: String) -> Int32? {
            let busy = Set(members(host).filter { $0.sessions > 0 }.map(\.pid))
            return processes(on: host, named: name).first { busy.contains($0) }
        }

        var target: Lab.Host { host == .a ? .b : .a }
        var arguments: [String] { arguments(to: nil) }

        /// nil: to the other host.
        func arguments(to other: String?) -> [String] {
            [
                "migrate", String(front), "--peer", world.lab.address(.client, .ipv4), "--to", other ?? "tls://\(target.rawValue)", "--service",
                "files", "--json",
            ]
        }

        func move(_ more: [String] = []) throws -> FileServer.Moved {
            let output = try agents.tool(host, arguments + more)
            try #require(output.status == 0, "\(output.stderr)\(agents.log(.a))\(agents.log(.b))")
            try findFront()
            return try JSONDecoder().decode(FileServer.Moved.self, from: Data(output.stdoutBytes))
        }

        /// Ends the client: no byte was lost, doubled or changed, and each request stands in one of the logs once.
        func finish(linesMayRepeat: Bool = false, at location: SourceLocation = #_sourceLocation) throws {
            try client.finish(linesMayRepeat: linesMayRepeat, at: location)
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
        let scene = try Scene(servers: ["NO_LOG": "1"])
        let worker = try #require(scene.part("worker"))
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

    @Test func `a spare process that refuses a part, since its file is another one, waits for the next`() throws {
        let scene = try Scene(otherFiles: true)
        for _ in 0..<3 {
            let refused = try scene.agents.tool(.a, scene.arguments)
            #expect(refused.status == 1 && refused.stderr.contains("tale file handle"), "\(refused.stderr)")
            try scene.waitForSpares(on: .b)
            #expect(scene.processes(on: .b, named: "worker").count == 1)
        }
        usleep(500_000)
        try scene.finish()
    }

    @Test func `a snapshot has the channels and the states of all parts, and disturbs none`() throws {
        let scene = try Scene()
        let image = "\(scene.world.lab.folder)/files.sci"
        let wrote = try scene.agents.tool(
            .a, ["snapshot", String(scene.front), "--peer", scene.world.lab.address(.client, .ipv4), "-o", image])
        try #require(wrote.status == 0, "\(wrote.stderr)")
        let shown = try scene.agents.tool(.a, ["show", image]).stdout
        for name in ["front", "worker", "logger", "to-front", "lines"] { #expect(shown.contains(name), "\(name) is not in \(shown)") }
        try #expect(scene.world.json(.a, ["show", image], as: ShownStates.self).sessions.first?.state_bytes ?? 0 > 4096)
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
