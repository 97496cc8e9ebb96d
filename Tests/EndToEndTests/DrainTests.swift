// A host is emptied: many sessions, several targets, and those that nobody takes; and what `sessions` and `services` say of it.

import FoundationEssentials
import Glibc
import Support
import Testing

/// What `sessions --json` prints.
private struct Known: Decodable {
    struct Row: Decodable {
        var kind, client, service, id: String
        var seconds: Int
        var pid: Int32?
        var command, other, role, state: String?
    }
    var sessions: [Row]
}

/// What `services --json` prints.
private struct Served: Decodable {
    struct Accept: Decodable {
        var kind, name: String
        var ready: Bool
        var reason: String?
        var pid: Int32?
    }
    struct Server: Decodable {
        var pid: Int32
        var command: String
        var sessions: Int
    }
    struct Service: Decodable {
        var name: String
        var ports: [UInt16]
        var peers: [String]
        var accept: [Accept]
        var servers: [Server]
    }
    var services: [Service]
}

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct DrainTests {
    @Test func `a service is drained, and sessions and services tell of it`() throws {
        var crowd = try Crowd()
        try crowd.startAcceptor()
        let target = "unix:\(try crowd.startReceiver("b", "--policy", crowd.policy))"
        let before: Served = try crowd.world.json(.a, ["services", "--config", crowd.policy])
        #expect(before.services.map(\.name) == ["hold"] && before.services[0].ports == [7100] && before.services[0].peers == ["hosta"])
        #expect(before.services[0].servers.map(\.sessions) == [40] && before.services[0].servers.map(\.pid) == [crowd.server.pid])
        #expect(before.services[0].accept.map(\.ready) == [true] && before.services[0].accept[0].name == crowd.socket)

        let arguments = ["--service", "hold", "--config", crowd.policy, "--to", target]
        let rehearsed = try crowd.drain(arguments + ["--dry-run"], status: 0)
        #expect(rehearsed.moved == 40)
        try crowd.expectEcho()
        let result = try crowd.drain(arguments, status: 0)
        #expect(result.moved == 40 && result.stayed == 0 && result.unknown == 0 && result.ended == 0 && result.began == 0)
        #expect(result.batches == 1 && result.longest_blackout_us > 0)
        #expect(result.sessions.allSatisfy { $0.outcome == "moved" && $0.target == target && $0.reason == nil })
        try crowd.expectEcho()

        let left: Served = try crowd.world.json(.a, ["services", "--config", crowd.policy])
        #expect(left.services[0].servers.map(\.sessions) == [0])
        let gone: Known = try crowd.world.json(.a, ["sessions"])
        #expect(gone.sessions.count == 40 && gone.sessions.allSatisfy { $0.kind == "forwarded" && $0.other == target && $0.pid == nil }, "\(gone)")
        #expect(Set(gone.sessions.map(\.client)) == Set(result.sessions.map(\.client)))
        let run = ["SC_RUN_DIR": "\(crowd.world.lab.folder)/run-b"]
        let output = try crowd.world.lab.run(in: .b, [TwoHosts.program, "sessions", "--json"], environment: run)
        let came = try JSONDecoder().decode(Known.self, from: Data(output.stdoutBytes)).sessions
        #expect(came.count == 40 && came.allSatisfy { $0.kind == "restored" && $0.command?.hasPrefix("python") == true }, "\(came)")
        #expect(Set(came.map(\.client)) == Set(result.sessions.map(\.client)))
        let table = try crowd.world.lab.run(in: .b, [TwoHosts.program, "sessions"], environment: run).stdout
        #expect(table.hasPrefix("KIND") && table.contains("restored"), "\(table)")
        try crowd.finish()
    }

    @Test func `a session that the acceptor declines stays alone, with its reason`() throws {
        var crowd = try Crowd()
        let port = try crowd.port(17)
        try crowd.startAcceptor("decline=\(port)")
        let arguments = [String(crowd.server.pid), "--to", "unix:\(try crowd.world.receiver(on: .b))", "--into", crowd.socket]
        let result = try crowd.drain(arguments + ["--max-in-flight", "10"], status: 1)
        #expect(result.moved == 39 && result.stayed == 1)
        let stayed = result.sessions.filter { $0.outcome == "stayed" }
        #expect(stayed.first?.client.hasSuffix(":\(port)") == true && stayed.first?.reason?.contains("not this one") == true, "\(stayed)")
        try crowd.expectEcho()
        let words = try crowd.world.tool(.a, ["drain"] + arguments)
        #expect(words.status == 1 && words.stdout.contains("moved 0 of 1, 1 stayed") && words.stdout.contains("not this one"), "\(words)")
        try crowd.finish()
    }

    @Test func `targets get their shares by weight`() throws {
        var crowd = try Crowd()
        try crowd.startAcceptor()
        let (large, small) = (try crowd.startReceiver("large"), try crowd.startReceiver("small"))
        let result = try crowd.drain(
            [String(crowd.server.pid), "--to", "unix:\(large)=3", "--to", "unix:\(small)", "--into", crowd.socket], status: 0)
        #expect(result.sessions.filter { $0.target == "unix:\(large)" }.count == 30)
        #expect(result.sessions.filter { $0.target == "unix:\(small)" }.count == 10)
        try crowd.expectEcho()
        try crowd.finish()
    }

    @Test func `a target that cannot be reached is left out and named`() throws {
        var crowd = try Crowd()
        try crowd.startAcceptor()
        let nowhere = "unix:\(crowd.world.lab.folder)/nowhere"
        let arguments = [String(crowd.server.pid), "--into", crowd.socket, "--to", nowhere, "--max-in-flight", "8"]
        let kept = try crowd.drain(arguments, status: 1)
        #expect(kept.stayed == 40 && kept.left_out.map(\.target) == [nowhere] && kept.sessions[0].reason?.contains("cannot reach") == true)
        let result = try crowd.drain(arguments + ["--to", "unix:\(try crowd.startReceiver("b"))"], status: 0)
        #expect(result.moved == 40 && result.left_out.map(\.target) == [nowhere])
        try crowd.expectEcho()
        try crowd.finish()
    }

    @Test func `after the deadline nothing new is begun`() throws {
        var crowd = try Crowd()
        try crowd.startAcceptor("slow=0.4")
        let arguments = [String(crowd.server.pid), "--to", "unix:\(try crowd.startReceiver("b"))", "--into", crowd.socket, "--max-in-flight", "5"]
        let none = try crowd.drain(arguments + ["--deadline", "0"], status: 1)
        #expect(none.moved == 0 && none.stayed == 40 && none.sessions[0].reason?.contains("deadline") == true)
        let some = try crowd.drain(arguments + ["--deadline", "1"], status: 1)
        #expect(some.moved >= 5 && some.moved.isMultiple(of: 5) && some.moved < 40 && some.stayed == 40 - some.moved && some.seconds < 3)
        try crowd.expectEcho()
        try crowd.finish()
    }

    @Test func `a move in doubt is named and its sessions are left alone`() throws {
        var crowd = try Crowd()
        try crowd.startAcceptor()
        let path = try crowd.startReceiver("b")
        // The target's end dies with its listener as the source decides, and nobody is left to say how the move stands.
        let kill = """
            for p in $(ip netns pids \(crowd.world.lab.namespace(.b))); do
                grep -q sc-checkpoint /proc/$p/comm && { tr '\\0' ' ' < /proc/$p/cmdline | grep -q receive && kill -9 $p; }
            done; true
            """
        let result = try crowd.drain(
            [String(crowd.server.pid), "--to", "unix:\(path)", "--into", crowd.socket, "--max-in-flight", "10", "--silence", "1000"], status: 3,
            fault: "decide-before:run:" + kill)
        #expect(result.unknown == 10 && result.stayed == 30 && result.left_out.count == 1, "\(result)")
        let doubtful: Known = try crowd.world.json(.a, ["sessions"])
        #expect(doubtful.sessions.filter { $0.kind == "move" && $0.role == "source" }.count == 10, "\(doubtful)")
        // With a receiver in its place the keeper learns that the target never began, and gives the sessions back.
        unlink(path)
        _ = try crowd.startReceiver("b")
        let isSettled = eventually(within: .seconds(20)) {
            (try? crowd.world.json(.a, ["sessions"], as: Known.self).sessions.isEmpty) ?? false
        }
        #expect(isSettled)
        try crowd.expectEcho()
        try crowd.finish()
    }

    @Test func `a session that ends before its turn has not stayed`() throws {
        var crowd = try Crowd()
        try crowd.startAcceptor("slow=0.3")
        let arguments = [String(crowd.server.pid), "--to", "unix:\(try crowd.startReceiver("b"))", "--into", crowd.socket, "--max-in-flight", "10"]
        let drain = try crowd.world.lab.spawn(
            in: .a, [TwoHosts.program, "drain", "--json"] + arguments, environment: crowd.world.environment(.a))
        usleep(400_000)
        _ = try crowd.client.ask("reset 39")
        #expect(try drain.wait() == 0, "\(drain.stderr)")
        let result = try JSONDecoder().decode(Drained.self, from: Data(drain.stdout.utf8))
        #expect(result.moved == 39 && result.ended == 1 && result.sessions.last?.outcome == "ended", "\(result)")
        let pong = try Held(crowd.client.ask("ping all"))
        #expect(pong.good == 39 && pong.failed == 0, "\(pong)")
        try crowd.finish()
    }

    @Test func `SIGTERM ends a drain between two moves`() throws {
        var crowd = try Crowd()
        try crowd.startAcceptor("slow=0.3")
        let arguments = [String(crowd.server.pid), "--to", "unix:\(try crowd.startReceiver("b"))", "--into", crowd.socket, "--max-in-flight", "10"]
        let drain = try crowd.world.lab.spawn(
            in: .a, [TwoHosts.program, "drain", "--json"] + arguments, environment: crowd.world.environment(.a))
        usleep(500_000)
        drain.signal(SIGTERM)
        #expect(try drain.wait() == 1, "\(drain.stderr)")
        let result = try JSONDecoder().decode(Drained.self, from: Data(drain.stdout.utf8))
        #expect(result.moved > 0 && result.stayed > 0 && result.moved + result.stayed == 40 && result.unknown == 0, "\(result)")
        try crowd.expectEcho()
        try crowd.finish()
    }

    @Test func `agents that let in only so many offers a second get all sessions one by one`() throws {
        var crowd = try Crowd()
        try crowd.startAcceptor()
        let agents = try Agents(
            crowd.world, services: "{hold: {ports: [7100], peers: [\"a\", \"b\"], accept: [{into: \"\(crowd.socket)\"}]}}",
            limits: "{offers_per_second: 8}")
        for host in [Lab.Host.a, .b] { try agents.start(host) }
        try agents.join()
        let output = try agents.tool(
            .a, ["drain", "--json", "--service", "hold", "--config", agents.policy(.a), "--to", "tls://b", "--max-in-flight", "1"])
        #expect(output.status == 0, "\(output.stdout)\(output.stderr)")
        let result = try JSONDecoder().decode(Drained.self, from: Data(output.stdoutBytes))
        #expect(result.moved == 40 && result.sessions.allSatisfy { $0.target == "tls://b" })
        try crowd.expectEcho()
        let reports = agents.log(.a).split(separator: "\n").filter { $0.contains("outcome=moved") && $0.contains("role=source sessions=1") }
        #expect(reports.count == 40, "\(agents.log(.a))")
        agents.stop()
        try crowd.finish()
    }

    @Test func `a new process for each batch`() throws {
        let crowd = try Crowd(12)
        let world = crowd.world
        let arguments = [String(crowd.server.pid), "--to", "unix:\(try world.receiver(on: .b))", "--max-in-flight", "4", "--peer", "10.78.0.2"]
        let result = try crowd.drain(arguments + ["--exec", "--", Lab.program("sc-hold"), "adopt", "--echo"], status: 0)
        #expect(result.moved == 12)
        try crowd.expectEcho()
        let adopters = Lab.processes(in: world.lab.namespace(.b)).filter { readText("/proc/\($0)/comm").hasPrefix("sc-hold") }
        #expect(adopters.count == 3)
        for pid in adopters { kill(pid, SIGTERM) }
        try crowd.finish()
    }

    @Test func `what cannot be drained is refused`() throws {
        let crowd = try Crowd(1)
        let world = crowd.world
        let pid = String(crowd.server.pid)
        try world.refuses(.a, ["drain", "--to", "unix:/x", "--into", "/y"], status: 2, naming: "nothing is named to drain")
        try world.refuses(.a, ["drain", pid, "--to", "unix:/x"], status: 2, naming: "say who gets the session")
        try world.refuses(.a, ["drain", pid, "--to", "unix:/x=0", "--into", "/y"], status: 2, naming: "unix:/x=0 is no target")
        try world.refuses(.a, ["drain", "--service", "web", "--config", crowd.policy, "--to", "unix:/x"], naming: "no service web", "hold", "ENOENT")
        try world.refuses(.a, ["drain", "999999", "--to", "unix:/x", "--into", "/y"], naming: "ESRCH")
        try crowd.finish()
    }
}
