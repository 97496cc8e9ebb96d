// A session of three processes, joined by a connection, a pair of Unix sockets and a pipe with bytes in all of them, is moved as one.

import FoundationEssentials
import Glibc
import Support
import Testing

/// examples/fileserver on host A, a client that compares every byte, and a log on each host.
final class FileServer {
    let world: TwoHosts
    private let capture: Capture
    private let server: Child
    let client: Child
    private(set) var front: Int32 = 0
    private(set) var host = Lab.Host.a
    private var acceptors: [Lab.Host: String] = [:]

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
        var group: Group
    }

    init(rate: Int = 4_000_000, slowLog: Int = 30) throws {
        world = try TwoHosts()
        capture = try Capture(world.lab)
        let files = "\(world.lab.folder)/files"
        for directory in [files, "\(world.lab.folder)/state"] { mkdir(directory, 0o700) }
        var random = SystemRandomNumberGenerator()
        for index in 0..<40 {
            let size = index == 0 ? 0 : Int.random(in: 1...(index.isMultiple(of: 10) ? 1_000_000 : 60_000))
            try writeFile("\(files)/f\(index)", (0..<size).map { _ in UInt8(truncatingIfNeeded: random.next()) })
        }
        self.slowLog = slowLog
        let address = world.lab.serviceAddress(.ipv4)
        server = try world.lab.spawn(
            in: .a, [Lab.program("sc-fileserver"), "serve", address, "7400"], environment: Self.environment(world, .a, slowLog))
        try #require(server.waitForOutputOrError("listening"), "\(server.stderr)")
        let script = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/files_client.py"
        client = try world.lab.spawn(in: .client, ["python3", script, address, "7400", files, "5", String(rate)])
        try #require(client.waitForOutputOrError("connected"), "\(client.stderr)")
        front = try findFront()
        usleep(300_000)
    }

    private let slowLog: Int

    private static func environment(_ world: TwoHosts, _ host: Lab.Host, _ slowLog: Int) -> [String: String] {
        [
            "ROOT": "\(world.lab.folder)/files", "LOG": "\(world.lab.folder)/log-\(host.rawValue)", "STATE_DIR": "\(world.lab.folder)/state",
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

    /// The session is on the other host.
    func hasMoved() throws {
        host = target
        front = try findFront(not: front)
    }

    /// Ends the client: no byte was lost, doubled or changed, no request is missing in the logs or in there twice.
    func finish(at location: SourceLocation = #_sourceLocation) throws {
        client.signal(SIGUSR1)
        try #expect(client.wait(timeout: .seconds(60)) == 0, "\(client.stderr)", sourceLocation: location)
        struct Report: Decodable {
            var requests, received: Int
            var error: String?
        }
        let line = try #require(client.stdout.split(separator: "\n").last)
        let report = try JSONDecoder().decode(Report.self, from: Data(line.utf8))
        #expect(report.error == nil && report.requests > 10, "\(report)", sourceLocation: location)
        print("\(report.requests) files, \(report.received) bytes")
        // The pipe may still hold lines: the logger ends when it has written them.
        let isDone = eventually(within: .seconds(20)) {
            [Lab.Host.a, .b].allSatisfy { self.processes(on: $0, named: "logger").isEmpty && self.processes(on: $0, named: "worker").isEmpty }
        }
        #expect(isDone, "a worker or logger is left", sourceLocation: location)
        var seen: [Int: Int] = [:]
        for host in [Lab.Host.a, .b] {
            let numbers = readText("\(world.lab.folder)/log-\(host.rawValue)").split(separator: "\n").compactMap { Int($0.split(separator: " ")[0]) }
            #expect(numbers == numbers.sorted(), "the log on \(host.rawValue) is out of order", sourceLocation: location)
            for number in numbers { seen[number, default: 0] += 1 }
        }
        let wrong = (1...report.requests).filter { seen[$0] != 1 }
        #expect(
            wrong.isEmpty && seen.count == report.requests, "lines lost or doubled: \(wrong.prefix(20)) of \(seen.count)", sourceLocation: location)
        let packets = capture.stop()
        #expect(packets.resetsToClient == 0 && packets.resetsFromClient == 0, sourceLocation: location)
        server.terminate()
        try world.finish(at: location)
    }

    /// The client's longest silence since the last call, in microseconds.
    func gap() throws -> Int {
        let before = client.stdout.split(separator: "\n").count
        client.signal(SIGUSR2)
        try #require(eventually(within: .seconds(5)) { client.stdout.split(separator: "\n").count > before && client.stdout.hasSuffix("\n") })
        return Int(client.stdout.split(separator: "\n").last?.split(separator: " ").last ?? "") ?? -1
    }
}

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct FileServerTests {
    private static let count = getenv("SC_MOVES").flatMap { Int(String(cString: $0)) } ?? 20

    @Test func `three processes are moved back and forth under load`() throws {
        let files = try FileServer()
        var blackouts: [Int] = []
        var gaps: [Int] = []
        var most: [String: Int] = [:]
        var filled: [String: Int] = [:]
        for index in 0..<Self.count {
            _ = try files.gap()
            let moved = try files.move(exec: index == 0, ["--end-processes"])
            #expect(moved.migrated == 1)
            blackouts.append(Int(moved.blackout_us))
            for descriptor in moved.group.descriptors {
                let name = descriptor.name.hasPrefix("worker.file-") ? "worker.file" : descriptor.name
                most[name] = max(most[name] ?? 0, descriptor.queue ?? 0)
                if descriptor.queue ?? 0 > 0 || name == "worker.file" { filled[name, default: 0] += 1 }
            }
            if index == 0 { #expect(moved.group.left_out.contains { $0.contains("open for writing") }, "\(moved.group.left_out)") }
            usleep(UInt32.random(in: 20_000...200_000))
            gaps.append(try files.gap())
        }
        // Bytes were on their way in the pair and in the pipe, and a file was open.
        #expect(filled["front.unix-worker"] ?? 0 > 0 && filled["worker.pipe-to-logger"] ?? 0 > 0 && filled["worker.file"] ?? 0 > 0, "\(filled)")
        print("most bytes in flight: \(most)\nmoves with some: \(filled)")
        print("blackout us, \(blackouts.count) moves: median \(blackouts.sorted()[blackouts.count / 2]), largest \(blackouts.max()!)")
        print("the client's longest silence around a move, us: median \(gaps.sorted()[gaps.count / 2]), largest \(gaps.max()!)")
        try files.finish()
    }
}
