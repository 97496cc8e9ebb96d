// Sessions carried by hand: taken, copied, restored elsewhere and released, or given back; in every state a connection can be moved in.

import FoundationEssentials
import Glibc
import Support
import Testing

/// One answer of sc-hold.
struct Held: Decodable {
    var good, failed: Int?
    var received, sent: UInt64?
    var mismatch: Int64?
    var eof: Bool?
    var text, state, error: String?
    var port: UInt16?

    init(_ line: String) throws { self = try JSONDecoder().decode(Held.self, from: Data(line.utf8)) }
}

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct CarriedTests {
    /// A server on A and a client, both of sc-hold, with one connection.
    struct Pair {
        let world: TwoHosts
        let server, client: Child
        let image: String
        let family: Family

        init(
            _ family: Family, listening address: String? = nil, connections: Int = 1, echo: Bool = false,
            _ prepare: (Lab) throws -> Void = { _ in }
        ) throws {
            world = try TwoHosts(prepare)
            self.family = family
            let hold = Lab.program("sc-hold")
            let service = world.lab.serviceAddress(family)
            server = try world.lab.spawn(in: .a, [hold, "server", address ?? service, "7100"] + (echo ? ["--echo"] : []), stdin: .pipe)
            try #require(world.lab.waitUntilAccepting(.client, service, 7100))
            client = try world.lab.spawn(in: .client, [hold, "client", service, "7100", String(connections)], stdin: .pipe)
            image = "\(world.lab.folder)/session.sci"
            #expect(eventually(within: .seconds(5)) { (try? ask(client, "count").contains("\(connections)")) ?? false })
        }

        /// The server accepted a probe before; the session is its connection with the client's port.
        var port: String {
            get throws {
                let channels = try world.json(.a, ["inspect", String(server.pid)], as: Inspected.self).channels
                let session = try #require(channels.last { $0.kind == "tcp" && $0.state != "LISTEN" })
                return String(try #require(session.peer.split(separator: ":").last))
            }
        }

        /// Index of the session among the server's connections.
        let index = 1

        func ask(_ child: Child, _ line: String) throws -> String { try child.ask(line) }

        /// Takes the session on A, restores it on B, switches the route, releases it on A. Returns B's process.
        func carry(echo: Bool = false) throws -> Child {
            let took = try world.tool(.a, ["snapshot", String(server.pid), "--port", try port, "--take", "-o", image])
            try #require(took.status == 0, "\(took.stderr)")
            let verified = try world.tool(.b, ["verify", image])
            #expect(verified.status == 0, "\(verified.stderr)")
            let restored = try world.lab.spawn(
                in: .b, [TwoHosts.program, "restore", image, "--exec", "--", Lab.program("sc-hold"), "adopt"] + (echo ? ["--echo"] : []),
                stdin: .pipe, environment: world.environment(.b))
            try #require(eventually(within: .seconds(5)) { readText("/proc/\(restored.pid)/comm").hasPrefix("sc-hold") }, "\(restored.stderr)")
            try world.lab.routeService(to: .b)
            let released = try world.tool(.a, ["release", image])
            #expect(released.status == 0, "\(released.stderr)")
            return restored
        }

        func finish(_ capture: Capture?, _ others: Child...) throws {
            if let packets = capture?.stop() { #expect(packets.resetsToClient == 0, "\(packets)") }
            for child in [client, server] + others { child.terminate() }
            try world.lab.routeService(to: .a)
            try world.finish()
        }
    }

    @Test(arguments: Family.allCases) func `CLOSE_WAIT: what the client sent and its end arrive, and the answer goes back`(family: Family) throws {
        let pair = try Pair(family)
        let capture = try Capture(pair.world.lab)
        _ = try pair.client.ask("write 0 question")
        _ = try pair.client.ask("shutwr 0")
        try expectState("CLOSE_WAIT", pair)
        let restored = try pair.carry()
        let heard = try Held(restored.ask("read 0 100"))
        #expect(heard.text == "question" && heard.eof == true, "\(heard)")
        _ = try restored.ask("write 0 answer")
        _ = try restored.ask("close 0")
        let answer = try Held(pair.client.ask("read 0 100"))
        #expect(answer.text == "answer" && answer.eof == true, "\(answer)")
        try pair.finish(capture, restored)
    }

    @Test func `FIN_WAIT1: a full queue and the FIN behind it arrive`() throws {
        let pair = try Pair(.ipv4)
        let capture = try Capture(pair.world.lab)
        let filled = try Held(pair.server.ask("fill \(pair.index)"))
        _ = try pair.server.ask("shutwr \(pair.index)")
        try expectState("FIN_WAIT1", pair)
        let restored = try pair.carry()
        try expectDrained(filled.sent, pair)
        try pair.finish(capture, restored)
    }

    @Test(arguments: Family.allCases) func `FIN_WAIT2: what the client still says is heard`(family: Family) throws {
        let pair = try Pair(family)
        let capture = try Capture(pair.world.lab)
        _ = try pair.server.ask("shutwr \(pair.index)")
        try expectState("FIN_WAIT2", pair)
        let restored = try pair.carry()
        let end = try Held(pair.client.ask("read 0 10"))
        #expect(end.eof == true && end.received == 0, "\(end)")
        _ = try pair.client.ask("write 0 late")
        _ = try pair.client.ask("close 0")
        let heard = try Held(restored.ask("read 0 100"))
        #expect(heard.text == "late" && heard.eof == true, "\(heard)")
        try pair.finish(capture, restored)
    }

    @Test func `LAST_ACK: the rest arrives after both have said their end`() throws {
        let pair = try Pair(.ipv4)
        let capture = try Capture(pair.world.lab)
        _ = try pair.client.ask("shutwr 0")
        try expectState("CLOSE_WAIT", pair)
        let filled = try Held(pair.server.ask("fill \(pair.index)"))
        _ = try pair.server.ask("shutwr \(pair.index)")
        try expectState("LAST_ACK", pair)
        let restored = try pair.carry()
        try expectDrained(filled.sent, pair)
        try pair.finish(capture, restored)
    }

    @Test func `CLOSING: both ends cross, and the rest arrives`() throws {
        let pair = try Pair(.ipv4)
        let capture = try Capture(pair.world.lab)
        let filled = try Held(pair.server.ask("fill \(pair.index)"))
        _ = try pair.server.ask("shutwr \(pair.index)")
        _ = try pair.client.ask("shutwr 0")
        try expectState("CLOSING", pair)
        let restored = try pair.carry()
        try expectDrained(filled.sent, pair)
        try pair.finish(capture, restored)
    }

    @Test func `an IPv4 client of an IPv6 socket is carried`() throws {
        let pair = try Pair(.ipv4, listening: "::", echo: true)
        let capture = try Capture(pair.world.lab)
        let channels = try pair.world.json(.a, ["inspect", String(pair.server.pid), "--port", pair.port], as: Inspected.self).channels
        #expect(channels.first?.local.hasPrefix("[::ffff:10.77.0.100]:") == true, "\(channels)")
        let restored = try pair.carry(echo: true)
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)")
        try pair.finish(capture, restored)
    }

    @Test func `a taken session is given back`() throws {
        let pair = try Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let port = try pair.port
        let took = try pair.world.tool(.a, ["snapshot", String(pair.server.pid), "--port", port, "--take", "-o", pair.image])
        try #require(took.status == 0, "\(took.stderr)")
        try pair.world.refuses(.a, ["snapshot", String(pair.server.pid), "--port", port, "--take", "-o", pair.image + "2"], naming: "repair mode")
        try pair.client.send("ping 0")
        usleep(300_000)
        let resumed = try pair.world.tool(.a, ["resume", pair.image])
        #expect(resumed.status == 0, "\(resumed.stderr)")
        #expect(eventually(within: .seconds(5)) { pair.client.stdout.contains("\"good\":1") }, "\(pair.client.stdout)")
        try pair.world.refuses(.a, ["resume", pair.image], naming: "is not held", "ENOENT")
        try pair.world.refuses(.a, ["release", pair.image], naming: "is not held", "ENOENT")
        try pair.finish(capture)
    }

    @Test func `a taken session is restored into another process of the same host`() throws {
        let pair = try Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let took = try pair.world.tool(.a, ["snapshot", String(pair.server.pid), "--port", pair.port, "--take", "-o", pair.image])
        try #require(took.status == 0, "\(took.stderr)")
        let restored = try pair.world.lab.spawn(
            in: .a, [TwoHosts.program, "restore", pair.image, "--exec", "--", Lab.program("sc-hold"), "adopt", "--echo"], stdin: .pipe,
            environment: pair.world.environment(.a))
        try #require(eventually(within: .seconds(5)) { readText("/proc/\(restored.pid)/comm").hasPrefix("sc-hold") }, "\(restored.stderr)")
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)")
        try pair.finish(capture, restored)
    }

    private func expectState(_ state: String, _ pair: Pair) throws {
        #expect(
            eventually(within: .seconds(3)) { (try? Held(pair.server.ask("state \(pair.index)")).state) == state },
            "\((try? pair.server.ask("state \(pair.index)")) ?? "")")
    }

    private func expectDrained(_ sent: UInt64?, _ pair: Pair) throws {
        let drained = try Held(pair.client.ask("drain 0"))
        #expect(drained.received == sent && drained.mismatch == -1 && drained.eof == true, "\(drained) of \(sent ?? 0)")
    }
}
