// The other half of the fault matrix: moves between agents, in which an agent or the command that asked for the move is killed before and after every
// stage. The workers go on: the target serves in every cell, and the client's stream is exact.

import Glibc
import Support
import Testing

import enum SCEngine.Fault
import enum SCEngine.Stage

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct AgentFaultTests {
    private enum Victim: String, CaseIterable {
        case sourceAgent = "source agent"
        case targetAgent = "target agent"
        case command
    }

    @Test func `an agent or the command may be killed at every stage`() throws {
        let world = try TwoHosts()
        let stream = Lab.program("sc-stream")
        let socket = "\(world.lab.folder)/acceptor.sock"
        let agents = try Agents(
            world, services: "{stream: {ports: [7000], peers: [\"a\", \"b\"], accept: [{into: \"\(socket)\"}]}}", limits: "{offers_per_second: 1000}")
        let acceptor = try world.lab.spawn(in: .b, [stream, "accept", socket])
        try #require(acceptor.waitForOutputOrError("listening"), "\(acceptor.stderr)")
        try agents.start(.a)
        var target = try agents.start(.b)
        try agents.join()
        let state = "\(world.lab.folder)/state"
        try writeFile(state, "seed=5\nrate=1000000\n")
        let capture = try Capture(world.lab)
        var cells = 0
        for stage in Stage.allCases {
            for moment in [Fault.Moment.before, .after] {
                for victim in Victim.allCases {
                    let cell = "\(victim.rawValue) killed \(moment.rawValue) \(stage.rawValue)"
                    let file = "\(world.lab.folder)/victim"
                    unlink(file)
                    agents.end(.a)
                    let kill = "while [ ! -s \(file) ]; do sleep 0.01; done; kill -9 $(cat \(file)); true"
                    let source = try agents.start(.a, ["SC_FAULT": "\(stage.rawValue)-\(moment.rawValue):run:\(kill)"])
                    let (server, client) = try start(world)
                    let mover = try world.lab.spawn(
                        in: .a,
                        [
                            TwoHosts.program, "migrate", String(server.pid), "--peer", world.lab.address(.client, .ipv4), "--to", "tls://b",
                            "--service",
                            "stream", "--state", state,
                        ], environment: agents.environment(.a))
                    let pid =
                        switch victim {
                        case .sourceAgent: source.pid
                        case .targetAgent: target.pid
                        case .command: mover.pid
                        }
                    try writeFile(file, "\(pid)\n")
                    let status = try mover.wait(timeout: .seconds(20))
                    #expect(status == (victim == .targetAgent ? 0 : victim == .command ? 128 + SIGKILL : 3), "\(cell): \(status) \(mover.stderr)")
                    let isServed = eventually(within: .seconds(10)) {
                        Lab.processes(in: world.lab.namespace(.b)).contains { !world.channels(.b, of: $0, port: 7000).filter(\.movable).isEmpty }
                    }
                    #expect(isServed, "\(cell): nobody on b has the session; \(agents.log(.a))")
                    server.terminate()
                    client.signal(SIGUSR1)
                    let end = try client.wait(timeout: .seconds(20))
                    let report = try StreamReport(client.stdout)
                    #expect(end == 0 && report.mismatch == -1 && report.complete && report.errors.isEmpty, "\(cell): \(report)")
                    if victim == .targetAgent {
                        _ = try target.wait()
                        target = try agents.start(.b)
                    }
                    cells += 1
                }
            }
        }
        print("\n\(cells) moves between agents, one process killed in each: every one was finished by its workers, every byte was right\n")
        #expect(capture.stop().resetsToClient == 0)
        acceptor.terminate()
        agents.stop()
        for host in [Lab.Host.a, .b] { try world.lab.check(in: host, [TwoHosts.program, "recover"]) }
        try world.finish()
    }

    private func start(_ world: TwoHosts) throws -> (server: Child, client: Child) {
        let (stream, address) = (Lab.program("sc-stream"), world.lab.serviceAddress(.ipv4))
        let server = try world.lab.spawn(in: .a, [stream, "server", address, "7000", "--seed", "5", "--rate", "1000000"])
        try #require(server.waitForOutputOrError("listening"), "\(server.stderr)")
        let client = try world.lab.spawn(
            in: .client, [stream, "client", address, "7000", "--seed", "5", "--rate", "1000000", "--seconds", "300"])
        let isThere = eventually(within: .seconds(10)) { world.channels(.a, of: server.pid, port: 7000).contains { $0.movable } }
        try #require(isThere, "the server has no session")
        return (server, client)
    }
}
