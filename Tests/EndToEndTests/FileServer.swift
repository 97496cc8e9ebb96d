// The example file server of three processes on two hosts, and what its client and its log have seen.

import FoundationEssentials
import Glibc
import Support
import Testing

/// examples/fileserver on host A, a client that compares every byte, and a log on each host.
final class FileServer {
    let world: TwoHosts
    private let capture: Capture
    private let server: Child
    let client: FilesClient
    private(set) var front: Int32 = 0
    private(set) var host = Lab.Host.a
    private var acceptors: [Lab.Host: String] = [:]
    /// The router sends the service's packets to B.
    private var isRouted = false

    /// What `migrate --json` says of the session's descriptors.
    struct Moved: Decodable {
        struct Group: Decodable {
            struct Descriptor: Decodable {
                var name, kind: String
                var queue: Int?
            }
            var descriptors: [Descriptor]
            var left_out: [String]
        }
        var migrated: Int
        var blackout_us: Double
        var stages: [Migrated.Stage]
        var group: Group
    }

    /// `least`: the fewest bytes of a file.
    init(rate: Int = 4_000_000, slowLog: Int = 10, least: Int = 0) throws {
        world = try TwoHosts()
        capture = try Capture(world.lab)
        mkdir("\(world.lab.folder)/state", 0o700)
        try FilesClient.makeFiles(world, least: least)
        self.slowLog = slowLog
        let address = world.lab.serviceAddress(.ipv4)
        server = try world.lab.spawn(
            in: .a, [Lab.program("sc-fileserver"), "serve", address, "7400"], environment: Self.environment(world, .a, slowLog))
        try #require(server.waitForOutputOrError("listening"), "\(server.stderr)")
        client = try FilesClient(world, rate: rate)
        front = try findFront()
        usleep(300_000)
    }

    private let slowLog: Int

    private static func environment(_ world: TwoHosts, _ host: Lab.Host, _ slowLog: Int) -> [String: String] {
        [
            "ROOT": FilesClient.directory(world), "LOG": FilesClient.log(world, host), "STATE_DIR": "\(world.lab.folder)/state",
            "SLOW_LOG": String(slowLog), "SNDBUF": "32768",
        ]
    }

    /// The front that has the connection, once its worker and logger are there.
    private func findFront(not former: Int32 = 0) throws -> Int32 {
        var found: Int32?
        _ = eventually(within: .seconds(10)) {
            found = self.processes(on: self.host, named: "front").first { pid in
                pid != former && self.world.channels(self.host, of: pid, port: 7400).contains { $0.movable }
            }
            guard let found else { return false }
            let children = readText("/proc/\(found)/task/\(found)/children").split(separator: " ").compactMap { Int32($0) }
            return Set(children.map { readText("/proc/\($0)/comm") }) == ["worker\n", "logger\n"]
        }
        return try #require(found, "nobody on \(host.rawValue) has the session")
    }

    func processes(on host: Lab.Host, named name: String) -> [Int32] {
        Lab.processes(in: world.lab.namespace(host)).filter { readText("/proc/\($0)/comm") == name + "\n" }
    }

    /// The Unix socket of the acceptor on a host; started at the first use.
    func acceptor(on host: Lab.Host) throws -> String {
        if let path = acceptors[host] { return path }
        let path = "\(world.lab.folder)/files-\(host.rawValue)"
        let child = try world.lab.spawn(
            in: host, [Lab.program("sc-fileserver"), "accept", path], environment: Self.environment(world, host, slowLog))
        try #require(child.waitForOutputOrError("listening"), "\(child.stderr)")
        acceptors[host] = path
        return path
    }

    var chosen: [String] {
        [
            "--peer", world.lab.address(.client, .ipv4), "--with-ipc", "--park-signal", "USR1", "--state",
            "\(world.lab.folder)/state/\(front).state",
        ]
    }

    var target: Lab.Host { host == .a ? .b : .a }

    /// `migrate` to the other host, but for who receives.
    func command(_ more: [String] = []) throws -> [String] {
        ["migrate", String(front), "--to", "unix:\(try world.receiver(on: target))"] + chosen + more
    }

    /// Moves the session to the acceptor on the other host, or to a new process there.
    @discardableResult
    func move(exec: Bool = false, _ more: [String] = []) throws -> Moved {
        let environment = Self.environment(world, target, slowLog).map { "\($0.key)=\($0.value)" }
        let receiver =
            exec ? ["--exec", "--", "env"] + environment + [Lab.program("sc-fileserver"), "adopt"] : ["--into", try acceptor(on: target)]
        let moved = try world.json(host, command(more) + receiver, as: Moved.self)
        try hasMoved()
        return moved
    }

    /// Moves the session to a new set of processes on the same host, as for an upgrade of the program.
    func replace() throws {
        let moved = try world.json(
            host,
            ["migrate", String(front), "--to", "unix:\(try world.receiver(on: host))"] + chosen
                + ["--steer", "none", "--end-processes", "--into", try acceptor(on: host)], as: Moved.self)
        #expect(moved.migrated == 1)
        front = try findFront(not: front)
    }

    /// The session is on the other host.
    func hasMoved() throws {
        host = target
        front = try findFront(not: front)
    }

    /// Takes the session away with everything that belongs to it, restores it from the image on the other host, and only then lets it go here.
    func carry() throws {
        let image = "\(world.lab.folder)/session.sci"
        let processes = ["front", "worker", "logger"].flatMap { self.processes(on: host, named: $0) }
        let took = try world.tool(host, ["snapshot", String(front), "--take", "-o", image] + chosen)
        try #require(took.status == 0, "\(took.stderr)")
        let verified = try world.tool(host, ["verify", image])
        let shown = try world.tool(host, ["show", image, "--data"])
        #expect(verified.status == 0 && shown.stdout.contains("worker.pipe-to-logger: fd") && shown.stdout.contains("unix seqpacket"), "\(shown)")
        let rehearsed = try world.tool(target, ["restore", image, "--dry-run"])
        #expect(rehearsed.status == 0, "\(rehearsed.stderr)")
        let environment = Self.environment(world, target, slowLog).map { "\($0.key)=\($0.value)" }
        let restored = try world.tool(
            target, ["restore", image, "--detach", "--exec", "--", "env"] + environment + [Lab.program("sc-fileserver"), "adopt"])
        try #require(restored.status == 0, "\(restored.stderr)")
        try world.lab.routeService(to: target)
        isRouted = true
        // A logger that goes on would write what it had not written yet.
        for pid in processes { kill(pid, SIGKILL) }
        _ = try world.tool(host, ["release", image])
        try hasMoved()
    }

    /// Ends the client: no byte was lost, doubled or changed, no request is missing in the logs or in there twice.
    func finish(linesMayRepeat: Bool = false, at location: SourceLocation = #_sourceLocation) throws {
        try client.finish(linesMayRepeat: linesMayRepeat, at: location)
        let areGone = eventually(within: .seconds(20)) {
            [Lab.Host.a, .b].allSatisfy { self.processes(on: $0, named: "logger").isEmpty && self.processes(on: $0, named: "worker").isEmpty }
        }
        #expect(areGone, "a worker or logger is left", sourceLocation: location)
        let packets = capture.stop()
        Self.explain(packets)
        #expect(packets.resetsToClient == 0 && packets.resetsFromClient == 0, sourceLocation: location)
        server.terminate()
        if isRouted { try world.lab.routeService(to: .a) }
        try world.finish(at: location)
    }

    /// Moves the session while `victim` fails at this point (`STAGE-before`, `STAGE-after`): exactly one host has it afterwards, and that is the answer.
    func move(failing victim: Victim, at point: String, exec: Bool = false) throws -> Lab.Host {
        let fault = ["SC_FAULT": "\(point):\(victim == .link ? "cut" : "kill")"]
        let path = "\(world.lab.folder)/receive-\(point)"
        let receiver = try world.lab.spawn(
            in: target, [TwoHosts.program, "receive", "--listen", path],
            environment: world.environment(target).merging(victim == .target ? fault : [:]) { $1 })
        try #require(receiver.waitForOutputOrError("listening"), "\(receiver.stderr)")
        let environment = Self.environment(world, target, slowLog).map { "\($0.key)=\($0.value)" }
        let handover =
            exec ? ["--exec", "--", "env"] + environment + [Lab.program("sc-fileserver"), "adopt"] : ["--into", try acceptor(on: target)]
        let mover = try world.lab.spawn(
            in: host,
            [TwoHosts.program, "migrate", String(front), "--to", "unix:\(path)", "--deadline", "3000"] + chosen + ["--end-processes"] + handover,
            environment: world.environment(host).merging(victim == .target ? [:] : fault) { $1 })
        try mover.wait(timeout: .seconds(20))
        var owners: [(host: Lab.Host, pid: Int32)] = []
        let isSettled = eventually(within: .seconds(10)) {
            owners = [Lab.Host.a, .b].flatMap { host in
                self.processes(on: host, named: "front").filter { pid in
                    self.world.channels(host, of: pid, port: 7400).contains { $0.movable && $0.state == "ESTABLISHED" }
                }.map { (host, $0) }
            }
            let journals = [Lab.Host.a, .b].flatMap { host -> [String] in
                let folder = "\(self.world.lab.folder)/run-\(host.rawValue)/journal"
                return listFolder(folder).filter { !readText("\(folder)/\($0)").contains("\"state\":\"active\"") }
            }
            return owners.count == 1 && journals.isEmpty
        }
        try #require(isSettled, "\(victim) fails at \(point): \(owners) \(mover.stderr)\(receiver.stderr)")
        receiver.terminate()
        (host, front) = owners[0]
        return host
    }

    /// SC_GAPS: prints the packets around the longest silence of the server.
    private static func explain(_ report: CaptureReport) {
        guard getenv("SC_GAPS") != nil else { return }
        let all = report.segments
        let data = all.indices.filter { !all[$0].isOutgoing && all[$0].payload > 0 }
        guard let worst = zip(data, data.dropFirst()).max(by: { all[$0.1].time - all[$0.0].time < all[$1.1].time - all[$1.0].time }) else { return }
        for index in max(0, worst.0 - 12)..<min(all.count, worst.1 + 8) {
            let segment = all[index]
            print(
                "\((Int64(segment.time) - Int64(all[worst.0].time)) / 1000) us \(segment.isOutgoing ? "client" : "server") seq \(segment.sequence) ack \(segment.acknowledgement) len \(segment.payload) win \(segment.window)"
            )
        }
    }

}
