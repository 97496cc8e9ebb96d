// Many moves in a row of one live two-way stream, with the client's largest gap of each.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct ManyMovesTests {
    /// SC_MOVES sets the number (`make moves`: 1,000).
    private static let count = getenv("SC_MOVES").flatMap { Int(String(cString: $0)) } ?? 60
    /// Between two messages. What the client measures is at worst too much by one such period.
    private static let period = getenv("SC_PERIOD_US").map { String(cString: $0) } ?? "200"
    /// Client, source and target have a machine of their own everywhere but here: each runs as soon as it has something to do.
    private static let atOnce = ["chrt", "--fifo", "10"]

    @Test func `a stream of thousands of small messages a second is moved back and forth`() throws {
        let world = try TwoHosts()
        let capture = try Capture(world.lab)
        let stream = Lab.program("sc-stream")
        let pace = ["--period-us", Self.period, "--chunk", "64"]
        let server = try world.lab.spawn(in: .a, Self.atOnce + [stream, "server", world.lab.serviceAddress(.ipv4), "7000", "--seed", "3"] + pace)
        try #require(server.waitForOutputOrError("listening"))
        let client = try world.lab.spawn(
            in: .client, Self.atOnce + [stream, "client", world.lab.serviceAddress(.ipv4), "7000", "--seed", "3", "--seconds", "3000"] + pace)
        try world.waitForSession(on: .a, server.pid, port: 7000)
        let state = "\(world.lab.folder)/state"
        try writeFile(state, "seed=3\nperiod-us=\(Self.period)\nchunk=64\n")
        // A receiver that runs already: a move then has no fork or exec of a server in it.
        var sockets: [Lab.Host: String] = [:]
        for host in [Lab.Host.a, .b] {
            let socket = "\(world.lab.folder)/acceptor-\(host.rawValue)"
            let acceptor = try world.lab.spawn(in: host, Self.atOnce + [stream, "accept", socket])
            try #require(acceptor.waitForOutputOrError("listening"), "\(acceptor.stderr)")
            sockets[host] = socket
        }
        let control = try gaps(of: client, 20) {}
        var pid = server.pid
        var blackouts: [Int] = []
        var stages: [(name: String, microseconds: [Int])] = []
        let gaps = try gaps(of: client, Self.count) {
            let (source, target): (Lab.Host, Lab.Host) = blackouts.count.isMultiple(of: 2) ? (.a, .b) : (.b, .a)
            let moved = try world.migrate(
                pid, from: source, to: target,
                ["--peer", world.lab.address(.client, .ipv4), "--state", state, "--into", sockets[target]!])
            #expect(moved.migrated == 1)
            if blackouts.isEmpty { server.terminate() }
            blackouts.append(Int(moved.blackout_us))
            if stages.isEmpty { stages = moved.stages.map { ($0.name, []) } }
            for (index, stage) in moved.stages.enumerated() { stages[index].microseconds.append(Int(stage.duration_us)) }
            pid = try holder(world, on: target, not: pid)
        }
        client.signal(SIGUSR1)
        try #expect(client.wait(timeout: .seconds(20)) == 0, "\(client.stdout.suffix(500))\(client.stderr)")
        let report = try StreamReport(client.stdout)
        #expect(report.mismatch == -1 && report.complete && report.errors.isEmpty, "\(report)")
        let packets = capture.stop()
        #expect(packets.resetsToClient == 0 && packets.resetsFromClient == 0)
        Self.print("the client's largest gap in the time of each move", gaps)
        Self.print("of those from A to B", gaps.enumerated().filter { $0.offset.isMultiple(of: 2) }.map(\.element))
        Self.print("of those from B to A", gaps.enumerated().filter { !$0.offset.isMultiple(of: 2) }.map(\.element))
        Self.print("the same without a move", control)
        Self.print("the tool's own figure (park to release)", blackouts)
        let medians = stages.map { "\($0.name) \($0.microseconds.sorted()[$0.microseconds.count / 2])" }
        Swift.print("\nmedian of each stage, in us: " + medians.joined(separator: ", "))
        try world.finish()
    }

    /// The largest gap, in microseconds, that the client saw around each run of `body`.
    private func gaps(of client: Child, _ count: Int, _ body: () throws -> Void) throws -> [Int] {
        func ask() throws -> Int {
            let before = client.stdout.split(separator: "\n").count
            client.signal(SIGUSR2)
            try #require(eventually(within: .seconds(5)) { client.stdout.split(separator: "\n").count > before && client.stdout.hasSuffix("\n") })
            return Int(client.stdout.split(separator: "\n").last?.split(separator: " ").last ?? "") ?? -1
        }
        _ = try ask()
        return try (0..<count).map { _ in
            try body()
            usleep(30_000)
            return try ask()
        }
    }

    private func holder(_ world: TwoHosts, on host: Lab.Host, not former: Int32) throws -> Int32 {
        var found: Int32?
        _ = eventually(within: .seconds(5)) {
            found = Lab.processes(in: world.lab.namespace(host)).first { pid in
                pid != former && readText("/proc/\(pid)/comm").hasPrefix("sc-stream")
                    && world.channels(host, of: pid, port: 7000).contains { $0.movable }
            }
            return found != nil
        }
        return try #require(found)
    }

    private static func print(_ title: String, _ values: [Int]) {
        let sorted = values.sorted()
        guard !sorted.isEmpty else { return }
        func at(_ share: Double) -> Int { sorted[min(sorted.count - 1, Int(Double(sorted.count) * share))] }
        Swift.print("\n\(title), in us, \(sorted.count) times: median \(at(0.5)), 90 % \(at(0.9)), 99 % \(at(0.99)), largest \(sorted.last!)")
        for (low, high) in [
            (0, 1000), (1000, 1500), (1500, 2000), (2000, 3000), (3000, 5000), (5000, 10000), (10000, 20000), (20000, 100_000), (100_000, 10_000_000),
        ] {
            let count = sorted.filter { $0 >= low && $0 < high }.count
            if count > 0 { Swift.print("  \(low) to \(high): \(count) \(String(repeating: "#", count: max(1, count * 60 / sorted.count)))") }
        }
    }
}
