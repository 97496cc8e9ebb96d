// Snapshots that disturb nothing, what they hold, and how they are looked at.

import FoundationEssentials
import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct SnapshotTests {
    private struct Shown: Decodable {
        struct Session: Decodable {
            struct Channel: Decodable {
                var kind, state, local, peer: String
                var receive_queue, send_queue: Int
                var receive_queue_sha256, send_queue_sha256: String
            }
            var id: String
            var state_bytes: Int
            var channels: [Channel]
        }
        var format_version: Int
        var complete: Bool
        var sessions: [Session]
    }

    @Test func `a busy stream is snapshotted again and again and notices nothing`() throws {
        let world = try TwoHosts()
        let capture = try Capture(world.lab)
        let stream = Lab.program("sc-stream")
        let server = try world.lab.spawn(in: .a, [stream, "server", "10.77.0.100", "7000", "--seed", "3"])
        try #require(server.waitForOutputOrError("listening"))
        let client = try world.lab.spawn(
            in: .client, [stream, "client", "10.77.0.100", "7000", "--seed", "3", "--seconds", "8", "--rate", "5000000"])
        try world.waitForSession(on: .a, server.pid, port: 7000)
        let image = "\(world.lab.folder)/busy.sci"
        // As many as fit into the first half of the stream's life.
        let end = ContinuousClock.now + .seconds(4)
        var count = 0
        while ContinuousClock.now < end {
            let wrote = try world.tool(.a, ["snapshot", String(server.pid), "--peer", "10.78.0.2", "-o", image])
            #expect(wrote.status == 0, "\(wrote.stderr)")
            count += 1
        }
        #expect(count > 3)
        #expect(try world.tool(.a, ["verify", image]).status == 0)
        try #expect(client.wait(timeout: .seconds(20)) == 0, "\(client.stdout)\(client.stderr)")
        let report = try StreamReport(client.stdout)
        #expect(report.mismatch == -1 && report.complete, "\(report)")
        #expect(capture.stop().resetsToClient == 0)
        server.terminate()
        try world.finish()
    }

    @Test func `queues and application state are in the image, and come out again`() throws {
        let pair = try CarriedTests.Pair(.ipv4)
        let world = pair.world
        _ = try pair.client.ask("write 0 unread-question")
        let state = "\(world.lab.folder)/state"
        try writeFile(state, "what the application says")
        let port = try pair.port
        let wrote = try world.tool(.a, ["snapshot", String(pair.server.pid), "--port", port, "--state", state, "-o", pair.image])
        try #require(wrote.status == 0, "\(wrote.stderr)")
        let shown = try world.json(.b, ["show", pair.image], as: Shown.self)
        #expect(shown.format_version == 1 && shown.complete && shown.sessions.count == 1)
        let session = try #require(shown.sessions.first)
        #expect(session.state_bytes == 25)
        #expect(session.channels.first?.receive_queue == 15 && session.channels.first?.state == "ESTABLISHED")
        let sum = try world.lab.run(in: .b, ["sha256sum"], stdin: .text("unread-question")).stdout.prefix(64)
        #expect(session.channels.first?.receive_queue_sha256 == String(sum))
        try #expect(world.tool(.b, ["show", pair.image, "--extract", "0:in"]).stdout == "unread-question")
        try #expect(world.tool(.b, ["show", pair.image, "--data"]).stdout.contains("|unread-question"))
        try world.refuses(.b, ["show", pair.image, "--extract", "7:in"], status: 2, naming: "no queue 7:in")
        let rehearsed = try world.tool(.b, ["restore", pair.image, "--dry-run"])
        #expect(rehearsed.status == 0 && rehearsed.stdout.contains("can be rebuilt"), "\(rehearsed.stdout)\(rehearsed.stderr)")
        // The session is still the server's.
        let heard = try Held(pair.server.ask("read \(pair.index) 15"))
        #expect(heard.text == "unread-question", "\(heard)")
        try pair.finish(nil)
    }

    @Test func `a snapshot puts back what it borrows`() throws {
        let world = try TwoHosts()
        // SO_REUSEADDR, a classic filter and the buffer lock are what leaving repair mode or the lock would change.
        let script = """
            import ctypes, socket, struct, sys
            server = socket.socket()
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("10.77.0.100", 7400)); server.listen()
            print("listening", flush=True)
            session, _ = server.accept()
            session.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100000)
            code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xffffffff))
            session.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", 1, ctypes.addressof(code)))
            def facts():
                return [session.getsockopt(socket.SOL_SOCKET, o) for o in (socket.SO_REUSEADDR, 72, socket.SO_RCVBUF, socket.SO_SNDBUF)] + [session.getsockopt(6, 19)]
            before = facts()
            print("fd", session.fileno(), flush=True)
            session.recv(1)
            print("same" if facts() == before else f"{before} became {facts()}", flush=True)
            """
        let server = try world.lab.spawn(in: .a, ["python3", "-c", script])
        try #require(server.waitForOutputOrError("listening"), "\(server.stderr)")
        let client = try world.lab.connect(from: .client, to: "10.77.0.100", 7400)
        defer { close(client) }
        try server.waitForOutput("fd ")
        let fd = String(server.stdout.split(separator: " ").last?.prefix { $0 != "\n" } ?? "")
        for _ in 0..<3 {
            let wrote = try world.tool(.a, ["snapshot", String(server.pid), "--fd", fd, "-o", "/dev/null"])
            #expect(wrote.status == 0, "\(wrote.stderr)")
        }
        let took = try world.tool(.a, ["snapshot", String(server.pid), "--fd", fd, "--take", "-o", "\(world.lab.folder)/taken.sci"])
        #expect(took.status == 0, "\(took.stderr)")
        try #expect(world.tool(.a, ["resume", "\(world.lab.folder)/taken.sci"]).status == 0)
        #expect(write(client, "x", 1) == 1)
        #expect(server.waitForOutputOrError("same"), "\(server.stdout)\(server.stderr)")
        server.terminate()
        try world.finish()
    }

    @Test func `a process with twenty thousand descriptors in another namespace is inspected`() throws {
        let world = try TwoHosts()
        let script = """
            import os, resource, socket, time
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            listener = socket.socket(); listener.bind(("10.77.0.100", 7500)); listener.listen()
            pairs = socket.socketpair()
            pipe = os.pipe()
            held = []
            while len(held) < min(hard, 20000) - 50: held.append(os.dup(0))
            print("ready", len(held), flush=True)
            time.sleep(60)
            """
        let child = try world.lab.spawn(in: .a, ["python3", "-c", script])
        try #require(child.waitForOutputOrError("ready", timeout: .seconds(30)), "\(child.stderr)")
        // Run from outside of every namespace of the lab.
        let output = try world.lab.run(in: nil, [TwoHosts.program, "inspect", String(child.pid), "--json"])
        let seen = try JSONDecoder().decode(Inspected.self, from: Data(output.stdoutBytes))
        #expect(seen.channels.count > 900)
        #expect(seen.channels.contains { $0.kind == "tcp" && $0.state == "LISTEN" && $0.local == "10.77.0.100:7500" && !$0.movable })
        #expect(seen.channels.filter { $0.kind == "unix" && $0.state == "ESTABLISHED" }.count == 2)
        #expect(seen.channels.filter { $0.kind == "pipe" }.count >= 2)
        let graph = try world.lab.run(in: nil, [TwoHosts.program, "inspect", String(child.pid), "--dot", "--port", "7500"]).stdout
        #expect(graph.hasPrefix("graph session {") && graph.contains("p\(child.pid) [shape=box"), "\(graph)")
        child.terminate()
        try world.finish()
    }
}
