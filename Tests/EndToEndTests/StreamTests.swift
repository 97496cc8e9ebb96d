// Two-way random streams whose senders never stop, moved while every byte is checked at both ends.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct MovedStreamTests {
    /// Starts a verified stream between the client and a server on A.
    private func start(_ world: TwoHosts, _ family: Family, _ server: [String], _ client: [String]) throws -> (server: Child, client: Child) {
        let address = world.lab.serviceAddress(family)
        let stream = Lab.program("sc-stream")
        let serverChild = try world.lab.spawn(in: .a, [stream, "server", address, "7000", "--seed", "11"] + server)
        try #require(serverChild.waitForOutputOrError("listening"))
        let clientChild = try world.lab.spawn(in: .client, [stream, "client", address, "7000", "--seed", "11"] + client)
        try world.waitForSession(on: .a, serverChild.pid, port: 7000)
        return (serverChild, clientChild)
    }

    private func adopter(_ world: TwoHosts, _ options: [String] = []) throws -> [String] {
        let state = "\(world.lab.folder)/stream-state"
        try writeFile(state, (["seed=11"] + options).joined(separator: "\n") + "\n")
        return ["--state", state, "--exec", "--", Lab.program("sc-stream"), "adopt"]
    }

    /// The process on a host that has the stream's connection.
    private func holder(_ world: TwoHosts, on host: Lab.Host) throws -> Int32 {
        var found: Int32?
        _ = eventually(within: .seconds(5)) {
            found = Lab.processes(in: world.lab.namespace(host)).first { readText("/proc/\($0)/comm").hasPrefix("sc-stream") }
            return found != nil
        }
        return try #require(found)
    }

    @Test(arguments: Family.allCases) func `a stream is moved twenty times in a row`(family: Family) throws {
        let world = try TwoHosts()
        let capture = try Capture(world.lab)
        let (server, client) = try start(world, family, ["--rate", "3000000"], ["--rate", "3000000", "--seconds", "300"])
        var pid = server.pid
        let command = try adopter(world, ["rate=3000000"])
        for move in 0..<20 {
            let (source, target): (Lab.Host, Lab.Host) = move.isMultiple(of: 2) ? (.a, .b) : (.b, .a)
            let result = try world.migrate(pid, from: source, to: target, ["--peer", world.lab.address(.client, family)] + command)
            #expect(result.migrated == 1)
            if move == 0 { server.terminate() }
            #expect(
                eventually(within: .seconds(5)) {
                    Lab.processes(in: world.lab.namespace(source)).allSatisfy { !readText("/proc/\($0)/comm").hasPrefix("sc-stream") }
                })
            pid = try holder(world, on: target)
        }
        client.signal(SIGUSR1)
        try #expect(client.wait(timeout: .seconds(40)) == 0, "\(client.stdout)\(client.stderr)")
        let report = try StreamReport(client.stdout)
        #expect(report.mismatch == -1 && report.complete && report.errors.isEmpty, "\(report)")
        #expect(report.received > 1_000_000)
        let packets = capture.stop()
        #expect(packets.resetsToClient == 0 && packets.resetsFromClient == 0)
        // The server's own FIN, once, after the client's.
        #expect(packets.endsFromServer >= 1 && packets.endsFromClient >= 1)
        try world.finish()
    }

    @Test func `full queues both ways arrive whole`() throws {
        let world = try TwoHosts()
        let (server, client) = try start(world, .ipv4, [], ["--seconds", "4"])
        let peer = world.lab.address(.client, .ipv4)
        // Neither end reads for a while: both queues, of both ends, fill up.
        client.signal(SIGSTOP)
        server.signal(SIGSTOP)
        usleep(300_000)
        server.signal(SIGCONT)
        usleep(700_000)
        let channels = try world.json(.a, ["inspect", String(server.pid), "--peer", peer], as: Inspected.self).channels
        #expect((channels.first?.send_queue ?? 0) > 100_000, "\(channels)")
        let result = try world.migrate(server.pid, from: .a, to: .b, ["--peer", world.lab.address(.client, .ipv4)] + adopter(world))
        #expect(result.migrated == 1)
        client.signal(SIGCONT)
        try #expect(client.wait(timeout: .seconds(40)) == 0, "\(client.stdout)\(client.stderr)")
        let report = try StreamReport(client.stdout)
        #expect(report.mismatch == -1 && report.complete && report.errors.isEmpty, "\(report)")
        server.terminate()
        try world.finish()
    }
}

/// What `inspect --json` prints.
struct Inspected: Decodable {
    struct Channel: Decodable {
        var fd: Int32
        var kind, state, local, peer: String
        var receive_queue, send_queue: Int
        var movable: Bool
        var reason: String?
    }
    var pid: Int32
    var command: String
    var channels: [Channel]
}
