// Bad input and bad luck: one clear error, the right exit status, the session alive where it was, and nothing left behind.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct RefusalTests {
    /// Expects the pair's session to answer still, and ends the test.
    private func expectAlive(_ pair: CarriedTests.Pair, _ capture: Capture, _ others: Child...) throws {
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)")
        for child in others { child.terminate() }
        try pair.finish(capture)
    }

    @Test func `processes and descriptors that are not there`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let world = pair.world
        let pid = String(pair.server.pid)
        let ended = try world.lab.spawn(in: .a, ["true"])
        _ = try ended.wait()
        try world.refuses(.a, ["inspect", String(ended.pid)], naming: "ESRCH")
        try world.refuses(.a, ["snapshot", "0", "--all", "-o", pair.image], naming: "EINVAL")
        try world.refuses(.a, ["snapshot", pid, "--fd", "77", "-o", pair.image], naming: "no descriptor 77", "EBADF")
        try world.refuses(.a, ["snapshot", pid, "--fd", "1", "-o", pair.image], naming: "not a TCP socket", "ENOTSOCK")
        try world.refuses(.a, ["snapshot", pid, "--peer", "192.0.2.1", "-o", pair.image], naming: "--peer 192.0.2.1", "ENOENT")
        let listener = try world.json(.a, ["inspect", pid], as: Inspected.self).channels.first { $0.state == "LISTEN" }
        try world.refuses(.a, ["snapshot", pid, "--fd", String(listener?.fd ?? -1), "-o", pair.image], naming: "listening socket", "EOPNOTSUPP")
        try world.refuses(.a, ["snapshot", pid, "-o", pair.image], status: 2, naming: "no session is named")
        try world.refuses(.a, ["snapshot", pid, "--peer", "nonsense", "-o", pair.image], status: 2, naming: "--peer nonsense")
        try world.refuses(.a, ["migrate", pid, "--all", "--to=-oProxyCommand=x", "--exec", "--", "true"], status: 2, naming: "is no target")
        try world.refuses(.a, ["restore", pair.image, "--exec", "--", "true"], naming: "ENOENT")
        try world.refuses(.a, ["snapshot"], status: 2, naming: "the command line cannot be understood")
        try expectAlive(pair, capture)
    }

    @Test func `a user without rights is told which capability is missing`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let output = try pair.world.lab.run(
            in: .a, ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", TwoHosts.program, "inspect", String(pair.server.pid)])
        #expect(output.status == 1)
        #expect(output.stderr.contains("CAP_SYS_PTRACE"), "\(output.stderr)")
        try expectAlive(pair, capture)
    }

    @Test func `a full disk`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let port = try pair.port
        let pid = String(pair.server.pid)
        try pair.world.refuses(.a, ["snapshot", pid, "--port", port, "-o", "/dev/full"], naming: "ENOSPC")
        try pair.world.refuses(.a, ["snapshot", pid, "--port", port, "--take", "-o", "/dev/full"], naming: "ENOSPC")
        try pair.world.refuses(.a, ["snapshot", pid, "--port", port, "--take", "-o", "/nowhere/session.sci"], naming: "ENOENT")
        try expectAlive(pair, capture)
    }

    @Test func `images that are no good`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let world = pair.world
        let wrote = try world.tool(.a, ["snapshot", String(pair.server.pid), "--port", pair.port, "-o", pair.image])
        try #require(wrote.status == 0, "\(wrote.stderr)")
        let good = readBytes(pair.image)
        let restore = ["restore", pair.image + ".bad", "--exec", "--", "true"]
        func refused(_ bytes: [UInt8], _ words: String) throws {
            try writeFile(pair.image + ".bad", bytes)
            try world.refuses(.b, restore, naming: words)
            try world.refuses(.b, ["verify", pair.image + ".bad"], naming: words)
            try world.refuses(.b, ["show", pair.image + ".bad", "--json"], naming: words)
        }
        try refused(Array(good.dropLast(1)), "cut off")
        try refused(Array(good.prefix(30)), "cut off")
        try refused([], "cut off")
        try refused(Array("GIF89a, which is no image at all".utf8), "not those of a continuation image")
        var altered = good
        altered[good.count / 2] ^= 1
        try refused(altered, "checksum")
        var newer = good
        (newer[8], newer[10]) = (2, 2)
        try refused(newer, "EPROTONOSUPPORT")
        try expectAlive(pair, capture)
    }

    @Test func `targets that cannot receive`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let world = pair.world
        let receiver = try world.receiver(on: .b)
        func migrate(_ to: String, _ handover: [String]) throws -> [String] {
            ["migrate", String(pair.server.pid), "--port", try pair.port, "--deadline", "1500", "--to", to] + handover
        }
        try world.refuses(.a, migrate("unix:/nowhere/socket", ["--exec", "--", "true"]), naming: "ENOENT")
        try world.refuses(.a, migrate("unix:\(receiver)", ["--exec", "--", "/nowhere/program"]), naming: "/nowhere/program", "ENOENT")
        try world.refuses(.a, migrate("unix:\(receiver)", ["--into", "/nowhere/acceptor"]), naming: "acceptor", "ENOENT")
        try world.refuses(.a, migrate("unix:\(receiver)", ["--onto", "999999", "--adapter", "http"]), naming: "ESRCH")
        try world.refuses(.a, migrate("unix:\(receiver)", ["--onto", "1"]), status: 2, naming: "needs an adapter")
        try world.refuses(.a, migrate("unix:\(receiver)", []), status: 2, naming: "who gets the session")
        try world.lab.check(in: .b, ["ip", "address", "delete", "10.77.0.100/32", "dev", "lo"])
        try world.refuses(
            .a, migrate("unix:\(receiver)", ["--exec", "--", "true"]), naming: "does not have the address 10.77.0.100", "EADDRNOTAVAIL")
        try world.lab.check(in: .b, ["ip", "address", "add", "10.77.0.100/32", "dev", "lo"])
        let routes = try world.lab.check(in: .b, ["ip", "route", "show", "default"])
        try world.lab.check(in: .b, ["ip", "route", "delete", "default"])
        try world.refuses(.a, migrate("unix:\(receiver)", ["--exec", "--", "true"]), naming: "no route to the client", "ENETUNREACH")
        try world.lab.check(
            in: .b, ["ip", "route", "add"] + routes.split(separator: " ").map { String($0.filter { $0 != "\n" }) }.filter { !$0.isEmpty })
        try expectAlive(pair, capture)
    }

    @Test func `a target on which the 4-tuple is taken refuses before the session is touched`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let world = pair.world
        // A twin of the session on B, whose packets never leave B.
        let mute = "table inet twin { chain out { type filter hook output priority 0; tcp sport 7100 drop; }; }"
        try world.lab.check(in: .b, ["nft", mute])
        let port = try pair.port
        try #expect(world.tool(.a, ["snapshot", String(pair.server.pid), "--port", port, "-o", pair.image]).status == 0)
        let twin = try world.tool(.b, ["restore", pair.image, "--detach", "--exec", "--", Lab.program("sc-hold"), "adopt"])
        #expect(twin.status == 0, "\(twin.stderr)")
        try world.refuses(
            .a,
            ["migrate", String(pair.server.pid), "--port", port, "--to", "unix:\(world.receiver(on: .b))", "--exec", "--", "true"],
            naming: "addresses and ports already", "EADDRINUSE")
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)")
        for pid in Lab.processes(in: world.lab.namespace(.b)) where readText("/proc/\(pid)/comm").hasPrefix("sc-hold") { kill(pid, SIGKILL) }
        try world.lab.check(in: .b, ["nft", "delete table inet twin"])
        try pair.finish(capture)
    }

    @Test func `receivers that hang, babble or die`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let world = pair.world
        let path = "\(world.lab.folder)/false.sock"
        for (program, word) in [
            ("SYSTEM:sleep 60", "ETIMEDOUT"), ("SYSTEM:echo hello this is no receiver at all; sleep 60", "EPROTO"), ("SYSTEM:exit 1", "ECONNRESET"),
        ] {
            let false_ = try world.lab.spawn(in: .b, ["socat", "UNIX-LISTEN:\(path),unlink-early", program])
            _ = eventually(within: .seconds(3)) { access(path, F_OK) == 0 }
            try world.refuses(
                .a,
                ["migrate", String(pair.server.pid), "--port", pair.port, "--deadline", "1000", "--to", "unix:\(path)", "--exec", "--", "true"],
                naming: word)
            false_.terminate()
            unlink(path)
        }
        try expectAlive(pair, capture)
    }

    @Test func `a receiver that dies between the freeze and the decision gives the session back`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let world = pair.world
        // The acceptor takes the offer and then never says ready; meanwhile the receiver is killed.
        let script = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/acceptor.py"
        let socket = "\(world.lab.folder)/acceptor.sock"
        let acceptor = try world.lab.spawn(in: .b, ["python3", script, "never-ready", socket])
        try #require(acceptor.waitForOutputOrError("listening"), "\(acceptor.stderr)")
        let path = "\(world.lab.folder)/receive"
        let receiver = try world.lab.spawn(in: .b, [TwoHosts.program, "receive", "--listen", path], environment: world.environment(.b))
        try #require(receiver.waitForOutputOrError("listening"))
        let mover = try world.lab.spawn(
            in: .a,
            [TwoHosts.program, "migrate", String(pair.server.pid), "--port", pair.port, "--to", "unix:\(path)", "--into", socket],
            environment: world.environment(.a))
        #expect(acceptor.waitForOutputOrError("holding"), "\(acceptor.stderr)")
        // The receiver, and the process that it has started for this move.
        for pid in Lab.processes(in: world.lab.namespace(.b)) where readText("/proc/\(pid)/cmdline").contains("\0receive\0") { kill(pid, SIGKILL) }
        try #expect(mover.wait(timeout: .seconds(15)) == 1)
        #expect(mover.stderr.contains("ECONNRESET"), "\(mover.stderr)")
        unlink(path)
        try expectAlive(pair, capture, acceptor, receiver)
    }

    @Test func `the same session asked for twice at once moves once`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let world = pair.world
        let receiver = try world.receiver(on: .b)
        let command =
            [TwoHosts.program, "migrate", String(pair.server.pid), "--port", try pair.port, "--to", "unix:\(receiver)", "--exec", "--"]
            + [Lab.program("sc-hold"), "adopt", "--echo"]
        let movers = try (0..<2).map { _ in try world.lab.spawn(in: .a, command, environment: world.environment(.a)) }
        let results = try movers.map { try $0.wait(timeout: .seconds(30)) }
        #expect(results.filter { $0 == 0 }.count == 1, "\(results) \(movers.map(\.stderr))")
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)")
        for pid in Lab.processes(in: world.lab.namespace(.b)) where readText("/proc/\(pid)/comm").hasPrefix("sc-hold") { kill(pid, SIGTERM) }
        try pair.finish(capture)
    }

    @Test(arguments: ["urgent", "locked", "mptcp", "md5"]) func `sockets that cannot be carried whole are refused by name`(kind: String) throws {
        let world = try TwoHosts()
        let script = """
            import socket, sys, time
            kind = sys.argv[1]
            server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262 if kind == "mptcp" else 0)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("10.77.0.100", 7300)); server.listen()
            client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262 if kind == "mptcp" else 0)
            if kind == "md5":
                import struct
                client.bind(("10.77.0.100", 7301))
                for one, port in ((server, 7301), (client, 7300)):
                    peer = struct.pack("!HH4s", socket.AF_INET << 8, port, socket.inet_aton("10.77.0.100"))
                    one.setsockopt(6, 14, struct.pack("128sBBHI80s", peer, 0, 0, 3, 0, b"key"))
            client.connect(("10.77.0.100", 7300))
            session, _ = server.accept()
            if kind == "urgent": client.send(b"x"); client.send(b"!", socket.MSG_OOB)
            if kind == "locked": session.setsockopt(socket.SOL_SOCKET, 44, 1)
            print("fd", session.fileno(), flush=True)
            time.sleep(60)
            """
        try world.lab.setting(.a, "mptcp/enabled", "1")
        let child = try world.lab.spawn(in: .a, ["python3", "-c", script, kind])
        try #require(child.waitForOutputOrError("fd "), "\(child.stderr)")
        let fd = String(child.stdout.split(separator: " ").last?.prefix { $0 != "\n" } ?? "")
        usleep(100_000)
        let words = ["urgent": "urgent data", "locked": "SO_LOCK_FILTER", "mptcp": "MPTCP", "md5": "TCP MD5 signatures"]
        try world.refuses(.a, ["snapshot", String(child.pid), "--fd", fd, "-o", "\(world.lab.folder)/image"], naming: words[kind]!, "EOPNOTSUPP")
        child.terminate()
        try world.finish()
    }
}
