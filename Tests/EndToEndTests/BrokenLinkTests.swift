// The link between the two ends breaks, or falls silent, at every point of the conversation: one owner afterwards, and no trace.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct BrokenLinkTests {
    private static let script = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/cutter.py"

    /// What a migration over a link that breaks came to.
    private struct Outcome {
        var status: Int32
        var errors: String
        var carried: (up: Int, down: Int)
    }

    /// Moves the pair's session over a link that breaks after `limit` bytes of one direction.
    private func migrate(_ pair: CarriedTests.Pair, _ port: String, _ direction: String, _ limit: Int, _ how: String) throws -> Outcome {
        let world = pair.world
        let path = "\(world.lab.folder)/link-\(direction)-\(limit)"
        let link = try world.lab.spawn(in: .b, ["python3", Self.script, path, world.receiver(on: .b), direction, String(limit), how])
        try #require(link.waitForOutputOrError("listening"), "\(link.stderr)")
        let output = try world.tool(
            .a,
            [
                "migrate", String(pair.server.pid), "--port", port, "--to", "unix:\(path)", "--deadline", "1500", "--exec", "--",
                Lab.program("sc-hold"), "adopt", "--echo",
            ])
        if how == "cut" { _ = link.waitForOutputOrError("carried") }
        let words = link.stdout.split(separator: "\n").last?.split(separator: " ") ?? []
        link.terminate(grace: .milliseconds(200))
        unlink(path)
        let numbers = words.compactMap { Int($0) }
        return Outcome(status: output.status, errors: output.stderr, carried: numbers.count == 2 ? (numbers[0], numbers[1]) : (0, 0))
    }

    private func expectAlive(_ pair: CarriedTests.Pair, _ what: String) throws {
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(what): \(pong)")
    }

    /// The bytes of each direction of a migration that nothing disturbs. They differ by some bytes from session to session: numbers are varints.
    private func undisturbed() throws -> (up: Int, down: Int) {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let outcome = try migrate(pair, pair.port, "down", 1_000_000, "cut")
        #expect(outcome.status == 0, "\(outcome)")
        try expectAlive(pair, "\(outcome)")
        endAdopted(pair.world)
        try pair.finish(nil)
        return outcome.carried
    }

    private func endAdopted(_ world: TwoHosts) {
        for pid in Lab.processes(in: world.lab.namespace(.b)) where readText("/proc/\(pid)/comm").hasPrefix("sc-hold") { kill(pid, SIGTERM) }
    }

    @Test func `a link that is cut before the decision leaves the session at the source`() throws {
        let total = try undisturbed()
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let port = try pair.port
        // The source's last two messages are the decision and the release, the target's last one says that the session lives; each is less than 40 bytes.
        let cuts =
            stride(from: 0, to: total.up - 100, by: 23).map { ("up", $0) } + stride(from: 0, to: total.down - 50, by: 17).map { ("down", $0) }
        for (direction, limit) in cuts {
            let outcome = try migrate(pair, port, direction, limit, "cut")
            #expect(outcome.status == 1 && outcome.errors.contains("(ECONNRESET)"), "\(direction) \(limit): \(outcome)")
            try expectAlive(pair, "\(direction) \(limit): \(outcome)")
        }
        let packets = capture.stop()
        #expect(packets.resetsToClient == 0 && packets.endsFromServer == 0, "\(packets.segments.filter { $0.isRST || $0.isFIN })")
        try pair.finish(nil)
    }

    @Test func `a link that falls silent before the decision leaves the session at the source`() throws {
        let total = try undisturbed()
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let port = try pair.port
        for (direction, limit) in [("up", 100), ("up", total.up - 100), ("down", 10), ("down", total.down - 60)] {
            let outcome = try migrate(pair, port, direction, limit, "hang")
            #expect(outcome.status == 1 && outcome.errors.contains("(ETIMEDOUT)"), "\(direction) \(limit): \(outcome)")
            try expectAlive(pair, "\(direction) \(limit): \(outcome)")
        }
        try pair.finish(capture)
    }

    @Test func `a link that is cut in the decision or later leaves one owner, and the source knows which`() throws {
        let total = try undisturbed()
        let cuts =
            stride(from: total.up - 100, to: total.up + 4, by: 9).map { ("up", $0) }
            + stride(from: total.down - 50, to: total.down + 4, by: 7).map { ("down", $0) }
        var moved = 0
        for (direction, limit) in cuts {
            let pair = try CarriedTests.Pair(.ipv4, echo: true)
            let capture = try Capture(pair.world.lab)
            let outcome = try migrate(pair, pair.port, direction, limit, "cut")
            #expect(outcome.status == 0 || outcome.status == 1, "\(direction) \(limit): \(outcome)")
            if outcome.status == 0 {
                moved += 1
                pair.server.terminate()
            }
            try expectAlive(pair, "\(direction) \(limit): \(outcome)")
            endAdopted(pair.world)
            try pair.finish(capture)
        }
        #expect(moved > 0 && moved < cuts.count, "\(moved) of \(cuts.count)")
    }
}
