// A verified two-way stream that is moved with one steering driver: what the tests of all drivers have in common.

import Glibc
import Support
import Testing

/// The stream, and whoever has its server's end.
final class SteeredStream {
    let world: TwoHosts
    let family: Family
    let server, client: Child
    private let capture: Capture
    private let name: String
    private let state: String
    private(set) var pid: Int32
    private(set) var host = Lab.Host.a

    /// Starts it between the client and a server on A. `driver` is for the output.
    init(_ driver: String, _ family: Family, split: Bool = false, _ prepare: (Lab) throws -> Void = { _ in }) throws {
        (self.family, name) = (family, driver)
        world = try TwoHosts(split: split, prepare)
        capture = try Capture(world.lab)
        let (program, address) = (Lab.program("sc-stream"), world.lab.serviceAddress(family))
        let pace = ["--seed", "31", "--rate", "3000000"]
        server = try world.lab.spawn(in: .a, [program, "server", address, "7000"] + pace)
        try #require(server.waitForOutputOrError("listening"))
        client = try world.lab.spawn(in: .client, [program, "client", address, "7000", "--seconds", "300"] + pace)
        pid = server.pid
        state = "\(world.lab.folder)/stream-state"
        try writeFile(state, "seed=31\nrate=3000000\n")
        try world.waitForSession(on: .a, pid, port: 7000)
        usleep(100_000)
    }

    var arguments: [String] { ["--peer", world.lab.address(.client, family)] }

    /// Moves it to the other host, and lets it run there for a while.
    func move(_ steer: [String]) throws {
        let target: Lab.Host = host == .a ? .b : .a
        let adopt = ["--state", state, "--exec", "--", Lab.program("sc-stream"), "adopt"]
        let result = try world.migrate(pid, from: host, to: target, arguments + steer + adopt)
        #expect(result.migrated == 1)
        print("\(name) \(family.rawValue) \(host.rawValue)->\(target.rawValue): blackout \(Int(result.blackout_us)) us")
        let former = pid
        if host == .a, former == server.pid { server.terminate() }
        var found: Int32?
        _ = eventually(within: .seconds(10)) {
            found = Lab.processes(in: world.lab.namespace(target)).first {
                $0 != former && readText("/proc/\($0)/comm").hasPrefix("sc-stream")
            }
            return found != nil
        }
        pid = try #require(found, "nobody on \(target.rawValue) has the stream")
        host = target
        usleep(300_000)
    }

    private func acceptor(_ behaviour: String) throws -> (child: Child, path: String) {
        let script = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/acceptor.py"
        let path = "\(world.lab.folder)/acceptor-\(UInt32.random(in: 0...UInt32.max))"
        let child = try world.lab.spawn(in: .b, ["python3", script, behaviour, path])
        try #require(child.waitForOutputOrError("listening"), "\(child.stderr)")
        return (child, path)
    }

    /// Kills the source's process while the flow is frozen; what it has left behind gives the stream back.
    func crash(_ steer: [String]) throws {
        let (acceptor, path) = try acceptor("never-ready")
        let command = ["migrate", String(pid), "--to", "unix:\(try world.receiver(on: .b))"] + arguments + steer + ["--into", path]
        let source = try world.lab.spawn(in: .a, [TwoHosts.program] + command, environment: world.environment(.a))
        try #require(acceptor.waitForOutputOrError("holding"), "\(source.stderr)\(acceptor.stderr)")
        source.signal(SIGKILL)
        try source.wait()
        acceptor.terminate()
        let isOver = eventually(within: .seconds(10)) {
            let tables = try? self.world.lab.run(in: .a, ["nft", "list", "tables"]).stdout
            return tables?.contains("netdev sc_checkpoint") == false
        }
        #expect(isOver, "the rules are still there")
        usleep(300_000)
    }

    /// Expects that an acceptor on B that changes its mind, while the flow is frozen, leaves the stream where it is.
    func decline(_ steer: [String]) throws {
        let (acceptor, path) = try acceptor("late-decline")
        try world.refuses(
            .a, ["migrate", String(pid), "--to", "unix:\(world.receiver(on: .b))"] + arguments + steer + ["--into", path],
            naming: "changed my mind")
        acceptor.terminate()
        usleep(200_000)
    }

    /// Ends the stream at the client: it was whole, no reset was seen, and nothing is left on any machine. `gap` limits the longest silence of
    /// the server that the client saw, in milliseconds; it is generous, as the machine that runs the tests may be busy.
    func finish(gap: Int = 1000, at location: SourceLocation = #_sourceLocation) throws {
        client.signal(SIGUSR1)
        try #expect(client.wait(timeout: .seconds(60)) == 0, "\(client.stdout)\(client.stderr)", sourceLocation: location)
        let report = try StreamReport(client.stdout)
        #expect(report.mismatch == -1 && report.complete && report.errors.isEmpty, "\(report)", sourceLocation: location)
        #expect(report.received > 500_000 && report.sent > 500_000, "\(report)", sourceLocation: location)
        let packets = capture.stop()
        #expect(packets.resetsToClient == 0 && packets.resetsFromClient == 0, "\(packets.segments.filter(\.isRST))", sourceLocation: location)
        let silence = packets.largestGapFromServer
        print("\(name) \(family.rawValue): longest silence \(silence), retransmitted by the client \(packets.retransmissionsFromClient)")
        #expect(silence < .milliseconds(gap), sourceLocation: location)
        server.terminate()
        try world.finish(at: location)
    }
}
