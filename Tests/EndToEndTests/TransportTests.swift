// The ways to a target: the system's ssh, and a receiver in the same namespace.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct TransportTests {
    private let adopt = ["--exec", "--", Lab.program("sc-hold"), "adopt", "--echo"]

    @Test func `ssh carries a session, and a failing ssh leaves it`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let world = pair.world
        let sshd = try Sshd(world.lab, on: .b)
        let command = ["migrate", String(pair.server.pid), "--port", try pair.port, "--to", sshd.target]
        let shell = ["--rsh", "ssh -F \(sshd.configPath)"]
        try world.refuses(.a, command + ["--rsh", "ssh -F \(sshd.configPath) -p 1"] + adopt, naming: "cannot reach")
        try world.refuses(.a, command + shell + ["--remote-program", "/nowhere/sc-checkpoint"] + adopt, naming: "cannot reach", "status 127")
        try world.refuses(.a, command + ["--rsh", "/nowhere/ssh"] + adopt, naming: "/nowhere/ssh", "ENOENT")
        var pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)")
        let result: Migrated = try world.json(
            .a, command + shell + ["--remote-program", "env SC_RUN_DIR=\(world.lab.folder)/run-b \(TwoHosts.program)"] + adopt)
        #expect(result.migrated == 1)
        pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)")
        endAdopted(world, on: .b)
        sshd.stop()
        try pair.finish(nil)
    }

    @Test func `a server is replaced in its own namespace`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let result = try pair.world.migrate(pair.server.pid, from: .a, to: .a, ["--port", pair.port, "--steer", "none"] + adopt)
        #expect(result.migrated == 1)
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)")
        endAdopted(pair.world, on: .a, except: pair.server.pid)
        try pair.finish(capture)
    }

    @Test func `a loopback stream is moved within its namespace`() throws {
        let world = try TwoHosts()
        let stream = Lab.program("sc-stream")
        let server = try world.lab.spawn(in: .a, [stream, "server", "127.0.0.1", "7000", "--seed", "3", "--rate", "2000000"])
        try #require(server.waitForOutputOrError("listening"))
        let client = try world.lab.spawn(in: .a, [stream, "client", "127.0.0.1", "7000", "--seed", "3", "--seconds", "60", "--rate", "2000000"])
        try world.waitForSession(on: .a, server.pid, port: 7000)
        let state = "\(world.lab.folder)/state"
        try writeFile(state, "seed=3\nrate=2000000\n")
        let result = try world.migrate(
            server.pid, from: .a, to: .a, ["--port", "7000", "--steer", "none", "--state", state, "--exec", "--", stream, "adopt"])
        #expect(result.migrated == 1)
        usleep(300_000)
        client.signal(SIGUSR1)
        try #expect(client.wait(timeout: .seconds(20)) == 0, "\(client.stdout)\(client.stderr)")
        try #expect(StreamReport(client.stdout).mismatch == -1)
        server.terminate()
        try world.finish()
    }

    @Test func `a receiver that is told to end removes its socket`() throws {
        let world = try TwoHosts()
        let path = "\(world.lab.folder)/receive"
        for signal in [SIGTERM, SIGINT] {
            let receiver = try world.lab.spawn(in: .b, [TwoHosts.program, "receive", "--listen", path])
            try #require(receiver.waitForOutputOrError("listening"))
            #expect(access(path, F_OK) == 0)
            receiver.signal(signal)
            try #expect(receiver.wait(timeout: .seconds(5)) == 0)
            #expect(access(path, F_OK) != 0)
        }
        try world.finish()
    }

    @Test func `a dry run asks the target and moves nothing`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let result = try pair.world.migrate(pair.server.pid, from: .a, to: .b, ["--port", pair.port, "--dry-run"] + adopt)
        #expect(result.migrated == 0)
        let state = try Held(pair.server.ask("state \(pair.index)"))
        #expect(state.state == "ESTABLISHED", "\(state)")
        try pair.finish(nil)
    }

    private func endAdopted(_ world: TwoHosts, on host: Lab.Host, except: Int32 = 0) {
        for pid in Lab.processes(in: world.lab.namespace(host)) where pid != except && readText("/proc/\(pid)/comm").hasPrefix("sc-hold") {
            kill(pid, SIGTERM)
        }
    }
}
