// Many kinds of sessions in one move: megabytes queued both ways, ends already said, one that cannot move, one that two processes share.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct FullQueueTests {
    @Test(arguments: HalfClosedTests.Kind.allCases) func `queues full both ways go there and back`(kind: HalfClosedTests.Kind) throws {
        // Only the source and the client have room for megabytes by default: the target must make it.
        let pair = try CarriedTests.Pair(kind.family, listening: kind == .mapped ? "::" : nil) { lab in
            for host in [Lab.Host.a, .client] { try lab.setting(host, "ipv4/tcp_rmem", "4096 6000000 6000000") }
        }
        let world = pair.world
        let capture = try Capture(world.lab)
        let port = try pair.port
        let down = try Held(pair.server.ask("fill \(pair.index)", timeout: .seconds(30)))
        let up = try Held(pair.client.ask("fill 0", timeout: .seconds(30)))
        let before = try world.json(.a, ["inspect", String(pair.server.pid), "--port", port], as: Inspected.self).channels
        #expect((before.first?.send_queue ?? 0) > 300_000 && (before.first?.receive_queue ?? 0) > 1_000_000, "\(before)")
        let (onB, onA) = (Adopted(world, "b"), Adopted(world, "a"))
        try #expect(world.migrate(pair.server.pid, from: .a, to: .b, ["--port", port] + onB.arguments()).migrated == 1)
        pair.server.terminate()
        let pid = try onB.pid(on: .b)
        let there = try world.json(.b, ["inspect", String(pid), "--port", port], as: Inspected.self).channels
        #expect(there.first?.receive_queue ?? 0 >= before.first?.receive_queue ?? 0, "\(there) \(before)")
        try #expect(world.migrate(pid, from: .b, to: .a, ["--port", port] + onA.arguments()).migrated == 1)
        kill(pid, SIGTERM)
        // The client says its end behind what it wrote, and reads what had been written to it.
        _ = try pair.client.ask("shutwr 0")
        var received: UInt64 = 0
        var hasEnded = false
        for _ in 0..<50 where !hasEnded {
            let answer = try onA.ask("drain 0", timeout: .seconds(30))
            #expect(answer.mismatch == -1 && answer.error == "", "\(answer)")
            received += answer.received ?? 0
            hasEnded = answer.eof == true
        }
        #expect(hasEnded && received == up.sent, "\(received) of \(up.sent ?? 0)")
        try onA.ask("shutwr 0")
        let drained = try pair.client.drainToEnd(0)
        #expect(drained.isExact && drained.hasEnded && drained.received == down.sent, "\(drained) of \(down.sent ?? 0)")
        let packets = capture.stop()
        #expect(packets.resetsToClient == 0 && packets.resetsFromClient == 0, "\(packets.segments.filter(\.isRST))")
        kill(try onA.pid(on: .a), SIGTERM)
        try pair.finish(nil)
    }

    @Test func `sessions of every kind move together, and the one that cannot stays`() throws {
        let pair = try CarriedTests.Pair(.ipv4, connections: 5)
        let world = pair.world
        let capture = try Capture(world.lab)
        // The server's connections are numbered from 1; 0 was the probe. 0: idle, 1: unread data, 2: full, 3: the client has ended, 4: urgent.
        _ = try pair.client.ask("write 1 unread")
        let filled = try Held(pair.server.ask("fill 3"))
        _ = try pair.client.ask("shutwr 3")
        let urgent = try Held(pair.client.ask("state 4")).port
        let ports = try (0..<4).map { try #require(Held(pair.client.ask("state \($0)")).port) }
        try sendUrgent(pair, 4)
        let isUrgent = eventually(within: .seconds(5)) {
            let seen = try? world.json(.a, ["inspect", String(pair.server.pid), "--port", String(urgent ?? 0)], as: Inspected.self)
            return seen?.channels.first?.reason?.contains("urgent") ?? false
        }
        try #require(isUrgent)
        let onB = Adopted(world, "b")
        let result = try world.migrate(pair.server.pid, from: .a, to: .b, ["--peer", "10.78.0.2", "--all"] + onB.arguments())
        #expect(result.migrated >= 4 && result.refused >= 1, "\(result)")
        // Which descriptor is which connection is told by the client's port.
        var index: [UInt16: Int] = [:]
        let moved = try world.json(.b, ["inspect", String(onB.pid(on: .b))], as: Inspected.self).channels.filter { $0.kind == "tcp" }
        for (number, channel) in moved.enumerated() { index[UInt16(channel.peer.split(separator: ":").last ?? "") ?? 0] = number }
        func place(_ client: Int) throws -> Int { try #require(index[ports[client]], "\(moved)") }
        try onB.ask("write \(place(0)) hello")
        try #expect(Held(pair.client.ask("read 0 5")).text == "hello")
        try #expect(onB.ask("read \(place(1)) 6").text == "unread")
        try onB.ask("shutwr \(place(2))")
        let drained = try pair.client.drainToEnd(2)
        #expect(drained.isExact && drained.hasEnded && drained.received == filled.sent, "\(drained) of \(filled.sent ?? 0)")
        try #expect(onB.ask("read \(place(3)) 1").eof == true)
        try onB.ask("write \(place(3)) farewell")
        try #expect(Held(pair.client.ask("read 3 8")).text == "farewell")
        // The one with urgent data is served by A as before.
        _ = try pair.server.ask("write 5 stayed")
        try #expect(Held(pair.client.ask("read 4 6")).text == "stayed")
        let packets = capture.stop()
        #expect(packets.resetsToClient == 0 && packets.resetsFromClient == 0, "\(packets.segments.filter(\.isRST))")
        kill(try onB.pid(on: .b), SIGTERM)
        try pair.finish(nil)
    }

    /// Sends one urgent byte on a connection of the client, through a copy of its descriptor in another process.
    private func sendUrgent(_ pair: CarriedTests.Pair, _ index: Int) throws {
        let port = try #require(Held(pair.client.ask("state \(index)")).port)
        let script = """
            import ctypes, os, socket, sys
            libc = ctypes.CDLL(None)
            pidfd = os.pidfd_open(int(sys.argv[1]))
            for fd in map(int, os.listdir(f"/proc/{sys.argv[1]}/fd")):
                copy = libc.syscall(438, pidfd, fd, 0)
                try: end = socket.socket(fileno=copy)
                except OSError: continue
                if end.family == socket.AF_INET and end.getsockname()[1] == int(sys.argv[2]): end.send(b"!", socket.MSG_OOB)
            """
        try pair.world.lab.check(in: .client, ["python3", "-c", script, String(pair.client.pid), String(port)])
    }

    @Test func `a connection that two processes share is taken from both`() throws {
        let world = try TwoHosts()
        let capture = try Capture(world.lab)
        // Parent and child both wait for the client's words; after the move neither may hear or say anything.
        let script = """
            import os, socket
            server = socket.socket(); server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("10.77.0.100", 7600)); server.listen()
            print("listening", flush=True)
            session, _ = server.accept()
            child = os.fork()
            while True:
                try: data = session.recv(100)
                except OSError as error: data = error.strerror.encode()
                if not data or not data.startswith(b"say"):
                    print("parent" if child else "child", data.decode() or "end", flush=True)
                    break
                session.send(data)
            if child: os.waitpid(child, 0)
            """
        let server = try world.lab.spawn(in: .a, ["python3", "-c", script])
        try #require(server.waitForOutputOrError("listening"), "\(server.stderr)")
        let client = try world.lab.spawn(in: .client, ["nc", "10.77.0.100", "7600"], stdin: .pipe)
        try client.send("say before")
        try client.waitForOutput("say before")
        let result = try world.migrate(server.pid, from: .a, to: .b, ["--peer", "10.78.0.2", "--exec", "--", "socat", "FD:3", "EXEC:cat"])
        #expect(result.migrated == 1)
        try client.send("after")
        try client.waitForOutput("after")
        _ = try server.wait()
        #expect(server.stdout.contains("parent") && server.stdout.contains("child") && !server.stdout.contains("after"), "\(server.stdout)")
        #expect(capture.stop().resetsToClient == 0)
        client.terminate()
        try world.finish()
    }

    @Test func `nc's connection moves to socat, and the two files are the whole`() throws {
        let world = try TwoHosts()
        let capture = try Capture(world.lab)
        let file = try world.lab.makeFile("sent", bytes: 3_000_000)
        let server = try world.lab.spawn(in: .a, ["nc", "-l", "10.77.0.100", "7700"])
        let isListening = eventually(within: .seconds(5)) {
            (try? world.tool(.a, ["inspect", String(server.pid), "--port", "7700"]).stdout.contains("LISTEN")) ?? false
        }
        try #require(isListening, "\(server.stderr)")
        // Slow enough that the move falls into its middle: the second half is sent when the test says so.
        let go = "\(world.lab.folder)/go"
        let sender = "dd if=\(file.path) bs=1000 count=1500; until [ -e \(go) ]; do sleep 0.02; done; dd if=\(file.path) bs=1000 skip=1500"
        let client = try world.lab.spawn(in: .client, ["sh", "-c", "(\(sender)) 2>/dev/null | nc -N 10.77.0.100 7700"])
        try #require(eventually(within: .seconds(10)) { readBytes(server.stdoutPath).count > 500_000 })
        let received = "\(world.lab.folder)/received"
        let result = try world.migrate(
            server.pid, from: .a, to: .b, ["--peer", "10.78.0.2", "--exec", "--", "socat", "-u", "FD:3", "CREATE:\(received)"])
        #expect(result.migrated == 1)
        try writeFile(go, "")
        try #expect(client.wait() == 0, "\(client.stderr)")
        // nc has read what it had read, and is an aborted server now.
        _ = try server.wait()
        #expect(eventually(within: .seconds(10)) { readBytes(server.stdoutPath).count + readBytes(received).count == 3_000_000 })
        #expect(readBytes(server.stdoutPath) + readBytes(received) == file.content(at: 0, count: 3_000_000))
        let packets = capture.stop()
        #expect(packets.resetsToClient == 0 && packets.resetsFromClient == 0)
        try world.finish()
    }
}
