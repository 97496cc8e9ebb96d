// What a transaction has to stand that no stage's fault shows: a full disk under the journal, a clock that jumps, moves that meet each other, a target that
// falls silent, an image altered in flight. Each has one exact outcome.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct TransactionTests {
    private static let folder = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined()
    private let adopt = ["--exec", "--", Lab.program("sc-hold"), "adopt", "--echo"]

    private func expectAlive(_ pair: CarriedTests.Pair, at location: SourceLocation = #_sourceLocation) throws {
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)", sourceLocation: location)
    }

    private func finish(_ pair: CarriedTests.Pair, _ capture: Capture?, _ others: Child...) throws {
        for child in others { child.terminate() }
        for host in [Lab.Host.a, .b] {
            for pid in Lab.processes(in: pair.world.lab.namespace(host)) where readText("/proc/\(pid)/comm").hasPrefix("sc-hold") {
                kill(pid, SIGTERM)
            }
        }
        try pair.finish(capture)
    }

    @Test(arguments: [Lab.Host.a, .b]) func `a full disk under the journal refuses the move before anything is touched`(host: Lab.Host) throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let (world, lab) = (pair.world, pair.world.lab)
        let full = "\(lab.folder)/full"
        try lab.check(in: nil, ["mkdir", full])
        let mount = "mount -t tmpfs -o size=16k none \(full) && dd if=/dev/zero of=\(full)/filler bs=4k status=none 2>/dev/null; exec \"$@\""
        let path = "\(lab.folder)/receive"
        func command(_ words: [String], _ isFull: Bool) -> [String] { isFull ? ["unshare", "-m", "sh", "-c", mount, "sh"] + words : words }
        let receiver = try lab.spawn(
            in: .b, command([TwoHosts.program, "receive", "--listen", path], host == .b),
            environment: world.environment(.b).merging(host == .b ? ["SC_STATE_DIR": full] : [:]) { $1 })
        try #require(receiver.waitForOutputOrError("listening"), "\(receiver.stderr)")
        let output = try lab.run(
            in: .a, command([TwoHosts.program, "migrate", String(pair.server.pid), "--port", pair.port, "--to", "unix:\(path)"] + adopt, host == .a),
            environment: world.environment(.a).merging(host == .a ? ["SC_STATE_DIR": full] : [:]) { $1 })
        #expect(output.status == 1 && output.stderr.contains("(ENOSPC)") && output.stderr.contains("journal"), "\(output.stderr)")
        try expectAlive(pair)
        try finish(pair, capture, receiver)
    }

    @Test(arguments: ["+10 years", "-10 years"]) func `a clock that jumps in the middle of a move changes nothing`(jump: String) throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let world = pair.world
        // libfaketime reads the offset anew each second; the monotonic clock stays, as in a jump.
        let clock = "\(world.lab.folder)/clock"
        try writeFile(clock, "+0\n")
        let libraries = ["x86_64", "aarch64"].map { "/usr/lib/\($0)-linux-gnu/faketime/libfaketime.so.1" }
        let found: String? = libraries.first { access($0, R_OK) == 0 }
        let library = try #require(found)
        let preload =
            ["env", "LD_PRELOAD=\(library)", "FAKETIME_TIMESTAMP_FILE=\(clock)", "FAKETIME_NO_CACHE=1", "DONT_FAKE_MONOTONIC=1"]
            // The library changes the environment's place when it is loaded first, and Swift would not find the arguments; the shell takes that on.
            + ["sh", "-c", "exec \"$@\"", "sh"]
        let environment = world.environment(.a).merging(["SC_FAULT": "capture-after:run:echo '\(jump)' > \(clock)"]) { $1 }
        let output = try world.lab.run(
            in: .a,
            preload + [TwoHosts.program, "migrate", String(pair.server.pid), "--port", pair.port, "--to", "unix:\(world.receiver(on: .b))"] + adopt,
            environment: environment)
        #expect(output.status == 0, "\(output.stderr)")
        pair.server.terminate()
        try expectAlive(pair)
        try finish(pair, nil)
    }

    @Test func `two moves of one session at once: one moves it, the other one is refused`() throws {
        for round in 0..<5 {
            let pair = try CarriedTests.Pair(.ipv4, echo: true)
            let world = pair.world
            let command =
                [TwoHosts.program, "migrate", String(pair.server.pid), "--port", try pair.port, "--to", "unix:\(try world.receiver(on: .b))"] + adopt
            let movers = try (0..<2).map { _ in try world.lab.spawn(in: .a, command, environment: world.environment(.a)) }
            let status = try movers.map { try $0.wait(timeout: .seconds(20)) }
            #expect(status.sorted() == [0, 1], "round \(round): \(status) \(movers.map(\.stderr))")
            pair.server.terminate()
            try expectAlive(pair)
            try finish(pair, nil)
        }
    }

    @Test func `A to B while B to A: both end, and every session has one owner`() throws {
        let world = try TwoHosts()
        let (hold, service) = (Lab.program("sc-hold"), world.lab.serviceAddress(.ipv4))
        let onA = try world.lab.spawn(in: .a, [hold, "server", service, "7100", "--echo"], stdin: .pipe)
        try #require(world.lab.waitUntilAccepting(.client, service, 7100))
        let first = try world.lab.spawn(in: .client, [hold, "client", service, "7100", "1"], stdin: .pipe)
        try #expect(Held(first.ask("ping 0")).good == 1)
        let onAToo = try world.lab.spawn(in: .a, [hold, "server", service, "7200", "--echo"], stdin: .pipe)
        try #require(world.lab.waitUntilAccepting(.client, service, 7200))
        let second = try world.lab.spawn(in: .client, [hold, "client", service, "7200", "1"], stdin: .pipe)
        try #expect(Held(second.ask("ping 0")).good == 1)
        let capture = try Capture(world.lab)
        // The second session is at B already, by way of A; it comes back while the first one goes there.
        let paths = try (world.receiver(on: .a), world.receiver(on: .b))
        try world.migrate(onAToo.pid, from: .a, to: .b, ["--peer", "10.78.0.2"] + adopt)
        let holder = try #require(
            Lab.processes(in: world.lab.namespace(.b)).first { readText("/proc/\($0)/comm").hasPrefix("sc-hold") })
        let there = try world.lab.spawn(
            in: .a, [TwoHosts.program, "migrate", String(onA.pid), "--peer", "10.78.0.2", "--to", "unix:\(paths.1)"] + adopt,
            environment: world.environment(.a))
        let back = try world.lab.spawn(
            in: .b, [TwoHosts.program, "migrate", String(holder), "--peer", "10.78.0.2", "--to", "unix:\(paths.0)"] + adopt,
            environment: world.environment(.b))
        // Each needs the other host's steering for a moment; one of them may be told to come again.
        let status = try (there.wait(timeout: .seconds(30)), back.wait(timeout: .seconds(30)))
        #expect((status.0 == 0 || status.1 == 0) && status.0 <= 1 && status.1 <= 1, "\(status) \(there.stderr)\(back.stderr)")
        try #expect(Held(second.ask("ping 0")).good == 1)
        try #expect(Held(first.ask("ping 0")).good == 1)
        let packets = capture.stop()
        #expect(packets.resetsToClient == 0, "\(packets.segments.filter { $0.isRST || $0.isFIN })")
        for host in [Lab.Host.a, .b] {
            for pid in Lab.processes(in: world.lab.namespace(host)) where readText("/proc/\(pid)/comm").hasPrefix("sc-hold") { kill(pid, SIGTERM) }
        }
        for child in [first, second, onA, onAToo] { child.terminate() }
        try world.finish()
    }

    @Test func `an image that is altered in flight is refused, and the session stays`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let world = pair.world
        for offset in stride(from: 40, to: 440, by: 80) {
            let path = "\(world.lab.folder)/link-\(offset)"
            let link = try world.lab.spawn(
                in: .b, ["python3", Self.folder + "/cutter.py", path, world.receiver(on: .b), "up", String(offset), "flip"])
            try #require(link.waitForOutputOrError("listening"), "\(link.stderr)")
            let output = try world.tool(
                .a, ["migrate", String(pair.server.pid), "--port", pair.port, "--to", "unix:\(path)", "--deadline", "1500"] + adopt)
            #expect(output.status == 1, "\(offset): \(output.stderr)")
            link.terminate()
            unlink(path)
            try expectAlive(pair)
        }
        try finish(pair, capture)
    }

    @Test func `a session whose target vanishes in the decision is silent for as long as may be, and then ended`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let (world, lab) = (pair.world, pair.world.lab)
        let path = "\(lab.folder)/receive"
        let receiver = try lab.spawn(in: .b, [TwoHosts.program, "receive", "--listen", path], environment: world.environment(.b))
        try #require(receiver.waitForOutputOrError("listening"), "\(receiver.stderr)")
        // Everything of the tool on B ends, keepers too, as when the host went away.
        let vanish = """
            for p in $(ip netns pids \(lab.namespace(.b))); do
                grep -qx -e sc-checkpoint -e sc-keeper /proc/$p/comm && kill -9 $p
            done; rm -f \(path)
            """
        let mover = try lab.run(
            in: .a,
            [TwoHosts.program, "migrate", String(pair.server.pid), "--port", pair.port, "--to", "unix:\(path)", "--deadline", "1000"] + adopt,
            environment: world.environment(.a).merging(["SC_FAULT": "decide-before:run:\(vanish)", "SC_HOLD_SECONDS": "4"]) { $1 })
        #expect(mover.status == 3, "\(mover.stderr)")
        let listed = try world.tool(.a, ["recover", "--list"])
        #expect(listed.stdout.contains("source"), "\(listed.stdout)")
        let end = try Held(pair.client.ask("read 0 1", timeout: .seconds(20)))
        #expect(end.eof == true || end.error == "ECONNRESET", "\(end)")
        #expect(eventually(within: .seconds(10)) { (try? world.tool(.a, ["recover", "--list"]).stdout) == "nothing to recover\n" })
        // The server goes on without it.
        #expect(pair.server.poll() == nil)
        // B's journal is of a process that ended together with its keeper.
        _ = try world.tool(.b, ["recover"])
        try finish(pair, nil)
    }

    @Test func `a fence that another host holds, or that does not answer, keeps the session where it is`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let lab = pair.world.lab
        let capture = try Capture(lab)
        let address = "\(lab.address(.b, .ipv4)):2379"
        var etcd = try startEtcd(lab, address)
        let target = "unix:\(try pair.world.receiver(on: .b))"
        let port = try pair.port
        let base = ["migrate", String(pair.server.pid), "--port", port, "--to", target, "--fence", "etcd://\(address)/sc"]
        // Whoever knows the session's name can hold it.
        let key = "sc/\(lab.address(.client, .ipv4)):\(port)-\(lab.serviceAddress(.ipv4)):7100"
        func etcdctl(_ words: String...) throws -> String {
            try lab.run(in: .b, ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", "http://\(address)"] + words).stdout
        }
        _ = try etcdctl("put", key, "{\"owner\":\"hostc\",\"migration\":\"x\"}")
        try pair.world.refuses(.a, base + adopt, naming: "hostc")
        try expectAlive(pair)
        _ = try etcdctl("del", key)
        etcd.terminate()
        try pair.world.refuses(.a, base + adopt, naming: "fence")
        try expectAlive(pair)
        etcd = try startEtcd(lab, address)
        let moved = try pair.world.tool(.a, base + adopt)
        #expect(moved.status == 0, "\(moved.stderr)")
        #expect(try etcdctl("get", key).contains("owner"))
        pair.server.terminate()
        try expectAlive(pair)
        try finish(pair, capture, etcd)
    }

    private func startEtcd(_ lab: Lab, _ address: String) throws -> Child {
        let folder = "\(lab.folder)/etcd-\(UInt32.random(in: 0...UInt32.max))"
        let etcd = try lab.spawn(
            in: .b,
            [
                "etcd", "--name", "t", "--data-dir", folder, "--listen-client-urls", "http://\(address)", "--advertise-client-urls",
                "http://\(address)",
                "--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380", "--initial-cluster",
                "t=http://127.0.0.1:2380", "--logger", "zap",
            ])
        let isUp = eventually(within: .seconds(20)) {
            (try? lab.run(in: .b, ["curl", "-s", "http://\(address)/health"]).stdout.contains("true")) == true
        }
        try #require(isUp, "\(etcd.stderr)")
        return etcd
    }

    @Test func `nobody recovers what is not broken`() throws {
        let world = try TwoHosts()
        let output = try world.tool(.a, ["recover"])
        #expect(output.status == 0 && output.stdout == "nothing to recover\n", "\(output)")
        try world.finish()
    }
}
