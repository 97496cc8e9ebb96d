// Sessions that do not get where they were to go are archived, by the command or by the agents, and go on as ever.

import FoundationEssentials
import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct FailureArchiveTests {
    private struct Listed: Decodable {
        struct Image: Decodable {
            struct Connection: Decodable { var client, service: String }
            var id, reason, host, service, failure: String
            var sessions: Int
            var connections: [Connection]
            var sealed: Bool
        }
        var images: [Image]
    }

    private func list(_ world: TwoHosts, _ host: Lab.Host, _ archive: String) throws -> [Listed.Image] {
        // At first there is none.
        guard access(archive, F_OK) == 0 else { return [] }
        let output = try world.tool(host, ["archive", "list", "--json", "--archive", archive])
        try #require(output.status == 0, "\(output.stderr)")
        return try JSONDecoder().decode(Listed.self, from: Data(output.stdoutBytes)).images
    }

    private func expectAlive(_ pair: CarriedTests.Pair) throws {
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)")
    }

    @Test func `migrate archives what is refused and what comes back`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let world = pair.world
        let capture = try Capture(world.lab)
        let archive = "\(world.lab.folder)/failed"
        let receiver = try world.receiver(on: .b)
        func migrate(_ more: [String], fault: String? = nil) throws -> Output {
            try world.lab.run(
                in: .a,
                [
                    TwoHosts.program, "migrate", String(pair.server.pid), "--port", try pair.port, "--to", "unix:\(receiver)", "--archive-failed",
                    archive,
                ]
                    + more,
                environment: world.environment(.a).merging(fault.map { ["SC_FAULT": $0] } ?? [:]) { $1 })
        }
        // The target has no such acceptor: it refuses before anything is touched.
        let refused = try migrate(["--into", "/nowhere.sock"])
        #expect(refused.status == 1 && refused.stderr.contains("archived the session as"), "\(refused.stderr)")
        try expectAlive(pair)
        // A fault after the capture: the session comes back.
        let returned = try migrate(["--exec", "--", Lab.program("sc-hold"), "adopt"], fault: "consent-after:fail")
        #expect(returned.status == 1 && returned.stderr.contains("archived the session as"), "\(returned.stderr)")
        try expectAlive(pair)
        let images = try list(world, .a, archive)
        // Those of one second are listed by name.
        #expect(images.map(\.reason).sorted() == ["migration", "refused"], "\(images)")
        #expect(images.allSatisfy { $0.service == "sc-hold" && $0.connections.first?.service == "10.77.0.100:7100" && $0.sessions == 1 })
        #expect(images.first { $0.reason == "refused" }?.failure.contains("/nowhere.sock") ?? false, "\(images)")
        #expect(images.first { $0.reason == "migration" }?.failure.contains("stage consent failed") ?? false, "\(images)")
        // A move that succeeds, and a rehearsal, leave nothing; nor does one whose archive cannot be written fail for that.
        #expect(try migrate(["--dry-run", "--into", "/nowhere.sock"]).status == 1)
        #expect(try list(world, .a, archive).count == 2)
        let unwritable = try world.tool(
            .a,
            [
                "migrate", String(pair.server.pid), "--port", try pair.port, "--to", "unix:\(receiver)", "--into", "/nowhere.sock",
                "--archive-failed",
                "/proc/no",
            ])
        #expect(unwritable.status == 1 && unwritable.stderr.contains("nothing was archived") && unwritable.stderr.contains("/nowhere.sock"))
        #expect(try world.tool(.a, ["archive", "verify", "--archive", archive]).status == 0)
        try expectAlive(pair)
        try pair.finish(capture)
    }

    @Test func `agents archive by their policy, at both ends`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let world = pair.world
        let key = "\(world.lab.folder)/archive.key"
        let made = try world.tool(.a, ["archive", "key", key])
        try #require(made.status == 0)
        let echo = "{echo: {ports: [7100], peers: [\"a\", \"b\"], accept: [{exec: [\"\(Lab.program("sc-hold"))\", \"adopt\", \"--echo\"]}]}}"
        let agents = try Agents(
            world, services: echo, more: ", archive: {seal_to: [\"\(made.stdout.prefix { $0 != "\n" })\"], max_count: 2}")
        try agents.start(.a, ["SC_FAULT": "decide-before:fail"])
        try agents.start(.b)
        try agents.join()
        for _ in 0..<3 {
            let output = try agents.tool(.a, ["migrate", String(pair.server.pid), "--port", try pair.port, "--to", "tls://b", "--service", "echo"])
            #expect(output.status == 1, "\(output.stderr)")
            try expectAlive(pair)
        }
        for host in [Lab.Host.a, .b] {
            let archive = "\(world.lab.folder)/run-\(host.rawValue)/archive"
            let isThere = eventually(within: .seconds(3)) { ((try? list(world, host, archive)) ?? []).count == 2 }
            let images = try list(world, host, archive)
            #expect(isThere && images.allSatisfy { $0.reason == "migration" && $0.sealed && $0.connections.isEmpty }, "\(images)\(agents.log(host))")
            let verified = try world.tool(host, ["archive", "verify", "--archive", archive, "--key", key])
            #expect(verified.status == 0 && verified.stdout.contains("2 images intact"), "\(verified)")
        }
        agents.stop()
        for host in [Lab.Host.a, .b] {
            for pid in Lab.processes(in: world.lab.namespace(host)) where readText("/proc/\(pid)/comm").hasPrefix("sc-hold") { kill(pid, SIGTERM) }
        }
        try pair.finish(nil)
    }

    @Test func `an agent archives the sessions of a server that dies and that nobody takes`() throws {
        let scene = try SurvivalTests.Scene(orphans: "{seconds: 1}", more: { lab in ", archive: {directory: \"\(lab.folder)/lost\"}" })
        let world = scene.world
        let server = try scene.serve(.a)
        try scene.connect(5)
        try scene.waitForSessions(5, on: .a)
        usleep(300_000)
        scene.kill(server, on: .a)
        let archive = "\(world.lab.folder)/lost"
        #expect(
            eventually(within: .seconds(8)) { ((try? list(world, .a, archive)) ?? []).reduce(0) { $0 + $1.sessions } == 5 }, "\(scene.agents.log(.a))"
        )
        let images = try list(world, .a, archive)
        #expect(images.allSatisfy { $0.reason == "crash" && $0.service == "logged" && $0.failure.contains("has died") }, "\(images)")
        let shown = try world.tool(.a, ["archive", "show", String(images[0].id.prefix(12)), "--archive", archive])
        #expect(shown.status == 0 && shown.stdout.contains("tcp ESTABLISHED") && shown.stdout.contains("bytes of state"), "\(shown)")
        _ = try? scene.client.send("stop")
        scene.client.terminate()
        scene.agents.stop()
        try world.finish()
    }
}
