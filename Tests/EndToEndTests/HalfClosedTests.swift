// Half-closed connections moved to B and back: what is queued, and each end's end, arrive once and in order.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct HalfClosedTests {
    enum Kind: String, CaseIterable, Sendable {
        case ipv4, ipv6, mapped

        var family: Family { self == .ipv6 ? .ipv6 : .ipv4 }
    }

    /// A session that goes A -> B -> A, and the process that has it in the end.
    private func moveThereAndBack(_ pair: CarriedTests.Pair, expecting state: String) throws -> Adopted {
        let world = pair.world
        let (onB, onA) = (Adopted(world, "b"), Adopted(world, "a"))
        let port = try pair.port
        let there = try world.migrate(pair.server.pid, from: .a, to: .b, ["--port", port] + onB.arguments())
        #expect(there.migrated == 1)
        pair.server.terminate()
        let pid = try onB.pid(on: .b)
        let seen = try world.json(.b, ["inspect", String(pid), "--port", port], as: Inspected.self).channels
        #expect(seen.first?.state == state && seen.first?.movable == true, "\(seen)")
        let back = try world.migrate(pid, from: .b, to: .a, ["--port", port] + onA.arguments())
        #expect(back.migrated == 1)
        kill(pid, SIGTERM)
        let last = try world.json(.a, ["inspect", String(onA.pid(on: .a)), "--port", port], as: Inspected.self).channels
        #expect(last.first?.state == state, "\(last)")
        return onA
    }

    private func pair(_ kind: Kind) throws -> CarriedTests.Pair {
        try CarriedTests.Pair(kind.family, listening: kind == .mapped ? "::" : nil)
    }

    private func waitForState(_ state: String, _ pair: CarriedTests.Pair) throws {
        let isThere = eventually(within: .seconds(10)) { (try? Held(pair.server.ask("state \(pair.index)")).state) == state }
        try #require(isThere, "\((try? pair.server.ask("state \(pair.index)")) ?? "") is not \(state)")
    }

    private func finish(_ pair: CarriedTests.Pair, _ adopted: Adopted, _ capture: Capture, ends: Int) throws {
        kill(try adopted.pid(on: .a), SIGTERM)
        // Without the connection that only tried whether the server accepts.
        let port = try #require(Held(pair.client.ask("state 0")).port)
        let packets = capture.stop().only(clientPort: port)
        #expect(packets.resetsToClient == 0 && packets.resetsFromClient == 0, "\(packets.segments.filter(\.isRST))")
        // A FIN may be sent again, but never one at another place.
        let places = Set(packets.segments.filter { !$0.isOutgoing && $0.isFIN }.map { $0.sequence &+ $0.payload })
        #expect(places.count == ends, "\(places)")
        try pair.finish(nil)
    }

    @Test(arguments: Kind.allCases) func `CLOSE_WAIT goes there and back`(kind: Kind) throws {
        let pair = try pair(kind)
        let capture = try Capture(pair.world.lab)
        _ = try pair.client.ask("write 0 question")
        _ = try pair.client.ask("shutwr 0")
        try waitForState("CLOSE_WAIT", pair)
        let adopted = try moveThereAndBack(pair, expecting: "CLOSE_WAIT")
        let heard = try adopted.ask("read 0 100")
        #expect(heard.text == "question" && heard.eof == true, "\(heard)")
        try adopted.ask("write 0 answer")
        try adopted.ask("close 0")
        let answer = try Held(pair.client.ask("read 0 100"))
        #expect(answer.text == "answer" && answer.eof == true, "\(answer)")
        try finish(pair, adopted, capture, ends: 1)
    }

    @Test(arguments: Kind.allCases) func `FIN_WAIT1 goes there and back`(kind: Kind) throws {
        let pair = try pair(kind)
        let capture = try Capture(pair.world.lab)
        let filled = try Held(pair.server.ask("fill \(pair.index)"))
        _ = try pair.server.ask("shutwr \(pair.index)")
        try waitForState("FIN_WAIT1", pair)
        let adopted = try moveThereAndBack(pair, expecting: "FIN_WAIT1")
        try expectDrained(filled, pair)
        _ = try pair.client.ask("write 0 late")
        _ = try pair.client.ask("shutwr 0")
        let heard = try adopted.ask("read 0 100")
        #expect(heard.text == "late" && heard.eof == true, "\(heard)")
        try finish(pair, adopted, capture, ends: 1)
    }

    @Test(arguments: Kind.allCases) func `FIN_WAIT2 goes there and back`(kind: Kind) throws {
        let pair = try pair(kind)
        let capture = try Capture(pair.world.lab)
        _ = try pair.server.ask("write \(pair.index) greeting")
        _ = try pair.server.ask("shutwr \(pair.index)")
        try waitForState("FIN_WAIT2", pair)
        let adopted = try moveThereAndBack(pair, expecting: "FIN_WAIT2")
        let end = try Held(pair.client.ask("read 0 100"))
        #expect(end.text == "greeting" && end.eof == true, "\(end)")
        _ = try pair.client.ask("write 0 late")
        _ = try pair.client.ask("shutwr 0")
        let heard = try adopted.ask("read 0 100")
        #expect(heard.text == "late" && heard.eof == true, "\(heard)")
        try finish(pair, adopted, capture, ends: 1)
    }

    @Test(arguments: Kind.allCases) func `LAST_ACK goes there and back`(kind: Kind) throws {
        let pair = try pair(kind)
        let capture = try Capture(pair.world.lab)
        _ = try pair.client.ask("write 0 question")
        _ = try pair.client.ask("shutwr 0")
        try waitForState("CLOSE_WAIT", pair)
        let filled = try Held(pair.server.ask("fill \(pair.index)"))
        _ = try pair.server.ask("shutwr \(pair.index)")
        try waitForState("LAST_ACK", pair)
        let adopted = try moveThereAndBack(pair, expecting: "LAST_ACK")
        let heard = try adopted.ask("read 0 100")
        #expect(heard.text == "question" && heard.eof == true, "\(heard)")
        try expectDrained(filled, pair)
        try finish(pair, adopted, capture, ends: 1)
    }

    @Test(arguments: Kind.allCases) func `CLOSING goes there and back`(kind: Kind) throws {
        let pair = try pair(kind)
        let capture = try Capture(pair.world.lab)
        let filled = try Held(pair.server.ask("fill \(pair.index)"))
        _ = try pair.server.ask("shutwr \(pair.index)")
        _ = try pair.client.ask("write 0 question")
        _ = try pair.client.ask("shutwr 0")
        try waitForState("CLOSING", pair)
        let adopted = try moveThereAndBack(pair, expecting: "CLOSING")
        let heard = try adopted.ask("read 0 100")
        #expect(heard.text == "question" && heard.eof == true, "\(heard)")
        try expectDrained(filled, pair)
        try finish(pair, adopted, capture, ends: 1)
    }

    /// The client reads everything the server once wrote, and its end.
    private func expectDrained(_ filled: Held, _ pair: CarriedTests.Pair) throws {
        let drained = try pair.client.drainToEnd(0)
        #expect(drained.isExact && drained.hasEnded && drained.received == filled.sent, "\(drained) of \(filled.sent ?? 0)")
    }
}
