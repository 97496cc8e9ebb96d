// Batches of sessions of which some close, or do not park, while the batch moves: the others move, and each of those has its reason.

import FoundationEssentials
import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct LeftOutTests {
    private struct Document: Decodable {
        struct Kept: Decodable { var peer, reason, outcome: String }
        struct Session: Decodable { var peer: String }
        var migrated, refused: Int
        var sessions: [Session]
        var refusals: [Kept]
    }

    private struct Closed: Decodable { var closed, unknown: [Int] }

    private struct Seen: Decodable {
        var ended, living: [Int]
        var broken: [String: [Int]]
    }

    /// A server on A that closes its connections one after the other, their client, and an acceptor on B.
    private final class Closing {
        let world: TwoHosts
        let capture: Capture
        let server, client, acceptor: Child
        let socket: String
        let count: Int
        private static let folder = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined()

        init(_ count: Int) throws {
            self.count = count
            world = try TwoHosts()
            capture = try Capture(world.lab)
            socket = "\(world.lab.folder)/acceptor.sock"
            let address = world.lab.serviceAddress(.ipv4)
            server = try world.lab.spawn(in: .a, ["python3", "\(Self.folder)/closing_server.py", address, "7500"], stdin: .pipe)
            try #require(server.waitForOutputOrError("listening"), "\(server.stderr)")
            acceptor = try world.lab.spawn(in: .b, ["python3", "\(Self.folder)/drain_acceptor.py", socket])
            try #require(acceptor.waitForOutputOrError("listening"), "\(acceptor.stderr)")
            client = try world.lab.spawn(
                in: .client, ["python3", "\(Self.folder)/closing_client.py", address, "7500", String(count)], stdin: .pipe)
            try #require(client.waitForOutputOrError("connected"), "\(client.stderr)")
        }

        var target: [String] { get throws { ["--to", "unix:\(try world.receiver(on: .b))", "--into", socket] } }

        private func answer<Value: Decodable>(_ child: Child, _ word: String, as type: Value.Type) throws -> Value {
            try child.send(word)
            let line = { child.stdout.split(separator: "\n").last { $0.hasPrefix("{") } }
            try #require(eventually(within: .seconds(30)) { line() != nil }, "\(child.stderr)")
            return try JSONDecoder().decode(type, from: Data(line()!.utf8))
        }

        /// Every connection that the server closed has ended at its client, and every other one answers, wherever it is now.
        func finish(aborted: Int = 0, at location: SourceLocation = #_sourceLocation) throws {
            let told = try answer(server, "stop", as: Closed.self)
            // What ended in a batch's middle ends for its client with the batch.
            usleep(300_000)
            let seen = try answer(client, "look", as: Seen.self)
            #expect(seen.broken.isEmpty && seen.ended.count + seen.living.count == count - aborted, "\(seen)", sourceLocation: location)
            let (closed, unknown, ended) = (Set(told.closed), Set(told.unknown), Set(seen.ended))
            #expect(closed.isSubset(of: ended), "alive although closed: \(closed.subtracting(ended))", sourceLocation: location)
            #expect(ended.isSubset(of: closed.union(unknown)), "ended by nobody: \(ended.subtracting(closed))", sourceLocation: location)
            let packets = capture.stop()
            #expect(packets.resetsToClient == 0, "\(packets)", sourceLocation: location)
            if getenv("SC_FIGURES") != nil { print("closed \(closed.count), unknown \(unknown.count), living \(seen.living.count)") }
            for child in [client, server, acceptor] { child.terminate() }
            try world.finish(at: location)
        }
    }

    @Test func `all of a server's sessions move while it closes some of them`() throws {
        let scene = try Closing(500)
        try scene.server.send("go 400")
        usleep(100_000)
        let output = try scene.world.tool(.a, ["migrate", String(scene.server.pid), "--all", "--json"] + scene.target)
        #expect(output.status == 0, "\(output.stdout)\(output.stderr)")
        let moved = try JSONDecoder().decode(Document.self, from: Data(output.stdoutBytes))
        // It closes some in every hundredth of a second, so the batch must have met some.
        #expect(moved.migrated > 100 && moved.migrated == moved.sessions.count && !moved.refusals.isEmpty && moved.refused == moved.refusals.count)
        #expect(moved.refusals.allSatisfy { $0.outcome == "ended" && !$0.reason.isEmpty }, "\(moved.refusals)")
        #expect(Set(moved.sessions.map(\.peer)).isDisjoint(with: moved.refusals.map(\.peer)))
        if getenv("SC_FIGURES") != nil { print("moved \(moved.migrated), ended \(moved.refusals.map(\.reason))") }
        try scene.finish()
    }

    @Test func `a snapshot of all sessions goes on without those that close meanwhile`() throws {
        struct Snapshot: Decodable {
            struct Skipped: Decodable { var peer, reason: String }
            var sessions: [String]
            var refused: [Skipped]
        }
        let scene = try Closing(500)
        try scene.server.send("go 1000")
        usleep(50_000)
        let image = "\(scene.world.lab.folder)/all.sci"
        let snapshot = try scene.world.json(.a, ["snapshot", String(scene.server.pid), "--all", "-o", image], as: Snapshot.self)
        #expect(snapshot.sessions.count > 100 && !snapshot.refused.isEmpty && snapshot.refused.allSatisfy { $0.peer.hasPrefix("10.78.0.2:") })
        #expect(try scene.world.tool(.a, ["verify", image]).status == 0)
        try scene.finish()
    }

    @Test func `what cannot be read in the cut stays, and goes on where it is`() throws {
        let scene = try Closing(20)
        var environment = scene.world.environment(.a)
        // The server stands still; its sockets hear until they are frozen.
        environment["SC_FAULT"] = "park-after:run:kill -USR1 \(scene.client.pid); sleep 0.1"
        let output = try scene.world.lab.run(
            in: .a, [TwoHosts.program, "migrate", String(scene.server.pid), "--all", "--json"] + scene.target, environment: environment)
        #expect(output.status == 1, "\(output.stdout)\(output.stderr)")
        let moved = try JSONDecoder().decode(Document.self, from: Data(output.stdoutBytes))
        #expect(moved.migrated == 18 && moved.refusals.map(\.outcome).sorted() == ["ended", "stayed"], "\(moved)")
        try scene.finish(aborted: 1)
    }

    @Test func `a drain in large batches empties a server that closes its connections`() throws {
        let scene = try Closing(600)
        try scene.server.send("go 200")
        let output = try scene.world.tool(.a, ["drain", String(scene.server.pid), "--json", "--max-in-flight", "100"] + scene.target)
        #expect(output.status == 0, "\(output.stdout)\(output.stderr)")
        let result = try JSONDecoder().decode(Drained.self, from: Data(output.stdoutBytes))
        #expect(result.stayed == 0 && result.unknown == 0 && result.ended > 0 && result.moved + result.ended == result.sessions.count)
        // None of the batches failed for the sake of one session.
        #expect(result.batches <= 7, "\(result.batches) batches for \(result.sessions.count) sessions")
        try scene.finish()
    }

    @Test func `sessions that their server does not park stay, and the others of the batch move`() throws {
        let scene = try SurvivalTests.Scene()
        try scene.serve(.a, "holds")
        try scene.serve(.b)
        try scene.connect(9)
        let pid = String(scene.servers[.a]![0].pid)
        let output = try scene.agents.tool(.a, ["migrate", pid, "--all", "--to", "tls://b", "--service", "logged", "--json"])
        #expect(output.status == 1, "\(output.stderr)\(scene.agents.log(.a))\(scene.agents.log(.b))")
        let moved = try JSONDecoder().decode(Document.self, from: Data(output.stdoutBytes))
        #expect(moved.migrated == 6 && moved.refusals.count == 3, "\(moved)")
        #expect(moved.refusals.allSatisfy { $0.outcome == "stayed" && $0.reason.contains("it is counting") }, "\(moved)")
        try scene.waitForSessions(3, on: .a)
        try scene.waitForSessions(6, on: .b)
        let again = try scene.agents.tool(.a, ["migrate", pid, "--all", "--to", "tls://b", "--service", "logged"])
        #expect(again.status == 1 && again.stderr.contains("it is counting"), "\(again.stderr)")
        let drained = try scene.agents.tool(.a, ["drain", pid, "--json", "--to", "tls://b", "--service", "logged"])
        let result = try JSONDecoder().decode(Drained.self, from: Data(drained.stdoutBytes))
        #expect(
            drained.status == 1 && result.stayed == 3 && result.sessions.allSatisfy { $0.reason?.contains("it is counting") == true }, "\(result)")
        usleep(100_000)
        expectWhole(try scene.finish())
    }

    @Test(arguments: ["tls://b", "self"]) func `a drain tries sessions again that were not parked at once`(target: String) throws {
        let scene = try SurvivalTests.Scene()
        try scene.serve(.a, "wavers")
        try scene.connect(12)
        // It listens beside the other one.
        try scene.serve(target == "self" ? .a : .b)
        let drained = try scene.agents.tool(.a, ["drain", String(scene.servers[.a]![0].pid), "--json", "--to", target, "--service", "logged"])
        #expect(drained.status == 0, "\(drained.stdout)\(drained.stderr)")
        let result = try JSONDecoder().decode(Drained.self, from: Data(drained.stdoutBytes))
        // The batch, and the four that it left out, each alone.
        #expect(result.moved == 12 && result.batches == 5, "\(result)")
        usleep(100_000)
        expectWhole(try scene.finish())
    }

    @Test(arguments: ["freeze-after", "capture-after", "transfer-after", "decide-after", "activate-after"])
    func `a mover that dies after it has left some out leaves every session with one owner`(moment: String) throws {
        let scene = try SurvivalTests.Scene()
        try scene.serve(.a, "holds")
        try scene.serve(.b)
        try scene.connect(9)
        var environment = scene.agents.environment(.a)
        environment["SC_FAULT"] = moment + ":kill"
        let output = try scene.world.lab.run(
            in: .a,
            [TwoHosts.program, "migrate", String(scene.servers[.a]![0].pid), "--all", "--to", "unix:\(try scene.world.receiver(on: .b))"]
                + ["--into", "\(scene.world.lab.folder)/run-b/servers/logged.sock"], environment: environment)
        #expect(output.status != 0 && output.status != 1, "\(output.status) \(output.stderr)")
        let hasMoved = ["decide-after", "activate-after"].contains(moment)
        try scene.waitForSessions(hasMoved ? 3 : 9, on: .a)
        if hasMoved { try scene.waitForSessions(6, on: .b) }
        usleep(200_000)
        expectWhole(try scene.finish())
    }

    private func expectWhole(_ answers: SurvivalTests.Answers, at location: SourceLocation = #_sourceLocation) {
        #expect(
            answers.mismatch == 0 && answers.failed == 0 && answers.received == answers.sent && answers.sent > 10_000, "\(answers)",
            sourceLocation: location)
    }
}
