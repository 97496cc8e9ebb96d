// Sessions handed to a process that says yes or no first, over its Unix socket.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct AcceptorTests {
    private static let script = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/acceptor.py"

    private func acceptor(_ world: TwoHosts, _ behaviour: String, _ more: String...) throws -> (child: Child, path: String) {
        let path = "\(world.lab.folder)/acceptor.sock"
        let child = try world.lab.spawn(in: .b, ["python3", Self.script, behaviour, path] + more)
        try #require(child.waitForOutputOrError("listening"), "\(child.stderr)")
        return (child, path)
    }

    @Test(arguments: [[], ["stream"]]) func `an acceptor gets the channels and the state`(more: [String]) throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        _ = try pair.client.ask("ping 0")
        let path = "\(pair.world.lab.folder)/acceptor.sock"
        let child = try pair.world.lab.spawn(in: .b, ["python3", Self.script, "accept", path] + more)
        try #require(child.waitForOutputOrError("listening"), "\(child.stderr)")
        let state = "\(pair.world.lab.folder)/state"
        try writeFile(state, "forty-two")
        let result = try pair.world.migrate(
            pair.server.pid, from: .a, to: .b, ["--port", pair.port, "--state", state, "--into", path])
        #expect(result.migrated == 1)
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong) \(child.stderr)")
        #expect(child.waitForOutputOrError("state forty-two written 8"), "\(child.stdout)\(child.stderr)")
        try pair.finish(capture, child)
    }

    @Test(
        arguments: [
            ("decline", "the house is full", "ECONNREFUSED"), ("late-decline", "changed my mind", "ECONNREFUSED"),
            ("die", "ended the conversation", "ECONNRESET"), ("hang", "did not answer", "ETIMEDOUT"),
        ]) func `an acceptor that does not take the session leaves it where it is`(behaviour: String, words: String, errno: String) throws
    {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let (child, path) = try acceptor(pair.world, behaviour)
        try pair.world.refuses(
            .a,
            [
                "migrate", String(pair.server.pid), "--port", pair.port, "--deadline", "2000", "--to", "unix:\(pair.world.receiver(on: .b))",
                "--into",
                path,
            ], naming: words, errno)
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)")
        try pair.finish(capture, child)
    }

    @Test(arguments: [false, true])
    func `in one namespace an acceptor that declines and keeps the descriptors costs the session, and that is said`(ends: Bool) throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let path = "\(pair.world.lab.folder)/acceptor"
        let acceptor = try pair.world.lab.spawn(in: .a, ["python3", Self.script, "keep", path])
        try #require(acceptor.waitForOutputOrError("listening"), "\(acceptor.stderr)")
        let message = try pair.world.refuses(
            .a, ["migrate", String(pair.server.pid), "--port", pair.port, "--to", "unix:\(pair.world.receiver(on: .a))", "--into", path], status: 3,
            naming: "1 of 1 sessions cannot be taken back", "changed my mind", "EADDRNOTAVAIL", "sc-checkpoint recover")
        #expect(message.contains("10.78.0.2:"), "\(message)")
        if ends { acceptor.signal(SIGKILL) }
        // The keeper's attempt has its end, too, and the client is not left waiting.
        #expect(
            eventually(within: .seconds(15)) { (try? pair.world.tool(.a, ["recover", "--list"]).stdout.contains("nothing to recover")) ?? false })
        acceptor.signal(SIGKILL)
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 0 && pong.failed == 1, "\(pong)")
        for child in [pair.client, pair.server, acceptor] { child.terminate() }
        try pair.world.finish()
    }

    @Test func `a thousand idle sessions move at once`() throws {
        let pair = try CarriedTests.Pair(.ipv4, connections: 1000, echo: true)
        let capture = try Capture(pair.world.lab)
        let result = try pair.world.migrate(
            pair.server.pid, from: .a, to: .b, ["--peer", "10.78.0.2", "--exec", "--", Lab.program("sc-hold"), "adopt", "--echo"])
        // The probe that waited for the server is closed by its client, so it is in CLOSE_WAIT at the server, or gone.
        #expect(result.migrated >= 1000)
        let pong = try Held(pair.client.ask("ping all"))
        #expect(pong.good == 1000 && pong.failed == 0, "\(pong)")
        let packets = capture.stop()
        #expect(packets.resetsToClient == 0 && packets.endsFromServer == 0, "\(packets)")
        for pid in Lab.processes(in: pair.world.lab.namespace(.b)) where readText("/proc/\(pid)/comm").hasPrefix("sc-hold") { kill(pid, SIGTERM) }
        try pair.finish(nil)
    }

    @Test func `socat and nc serve and adopt`() throws {
        let world = try TwoHosts()
        let capture = try Capture(world.lab)
        let server = try world.lab.spawn(in: .a, ["socat", "TCP4-LISTEN:7200,bind=10.77.0.100,reuseaddr", "EXEC:cat"])
        // Not by connecting: socat serves one client.
        _ = eventually(within: .seconds(5)) {
            (try? world.tool(.a, ["inspect", String(server.pid), "--port", "7200"]).stdout.contains("LISTEN")) ?? false
        }
        let client = try world.lab.spawn(in: .client, ["nc", "10.77.0.100", "7200"], stdin: .pipe)
        try client.send("before")
        try client.waitForOutput("before")
        let result = try world.migrate(server.pid, from: .a, to: .b, ["--peer", "10.78.0.2", "--exec", "--", "socat", "FD:3", "EXEC:cat"])
        #expect(result.migrated == 1)
        try client.send("after")
        try client.waitForOutput("after")
        #expect(capture.stop().resetsToClient == 0)
        for child in [client, server] { child.terminate() }
        _ = eventually(within: .seconds(2)) {
            Lab.processes(in: world.lab.namespace(.b)).allSatisfy { !readText("/proc/\($0)/comm").hasPrefix("socat") }
        }
        try world.finish()
    }
}
