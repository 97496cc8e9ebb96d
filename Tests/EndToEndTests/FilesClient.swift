// The client of examples/fileserver in tests: the files it may ask for, and what has to be true when it ends.

import FoundationEssentials
import Glibc
import Support
import Testing

/// Asks for files and compares every byte; the servers' logs show each request once.
final class FilesClient {
    let child: Child
    private let world: TwoHosts

    static func directory(_ world: TwoHosts) -> String { "\(world.lab.folder)/files" }
    static func log(_ world: TwoHosts, _ host: Lab.Host) -> String { "\(world.lab.folder)/log-\(host.rawValue)" }

    /// Forty files, small and large ones, before a server is started; none of fewer bytes than `least`.
    static func makeFiles(_ world: TwoHosts, least: Int = 0) throws {
        mkdir(directory(world), 0o700)
        var random = SystemRandomNumberGenerator()
        for index in 0..<40 {
            let size = max(least, index == 0 ? 0 : Int.random(in: 1...(index.isMultiple(of: 10) ? 1_000_000 : 60_000)))
            try writeFile("\(directory(world))/f\(index)", (0..<size).map { _ in UInt8(truncatingIfNeeded: random.next()) })
        }
    }

    /// `rate`: the bytes per second that it reads.
    init(_ world: TwoHosts, rate: Int = 4_000_000) throws {
        self.world = world
        let script = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/files_client.py"
        child = try world.lab.spawn(
            in: .client, ["python3", script, world.lab.serviceAddress(.ipv4), "7400", Self.directory(world), "5", String(rate)])
        try #require(child.waitForOutputOrError("connected"), "\(child.stderr)")
    }

    /// Its longest silence since the last call, in microseconds.
    func gap() throws -> Int {
        let before = child.stdout.split(separator: "\n").count
        child.signal(SIGUSR2)
        try #require(eventually(within: .seconds(5)) { child.stdout.split(separator: "\n").count > before && child.stdout.hasSuffix("\n") })
        return Int(child.stdout.split(separator: "\n").last?.split(separator: " ").last ?? "") ?? -1
    }

    /// Ends it: no byte was lost, doubled or changed, and no request is missing in the logs. `linesMayRepeat`: some may be in there twice.
    func finish(linesMayRepeat: Bool = false, at location: SourceLocation) throws {
        child.signal(SIGUSR1)
        try #expect(child.wait(timeout: .seconds(60)) == 0, "\(child.stderr)", sourceLocation: location)
        struct Report: Decodable {
            var requests, received: Int
            var error: String?
        }
        let line = try #require(child.stdout.split(separator: "\n").last)
        let report = try JSONDecoder().decode(Report.self, from: Data(line.utf8))
        #expect(report.error == nil && report.requests > 10, "\(report)", sourceLocation: location)
        print("\(report.requests) files, \(report.received) bytes")
        // The pipe may still hold thousands of lines for a slow logger.
        _ = eventually(within: .seconds(180)) { Set(self.lines().flatMap(\.self)).count >= report.requests }
        var seen: [Int: Int] = [:]
        for numbers in lines() {
            #expect(numbers == numbers.sorted(), "a log is out of order", sourceLocation: location)
            for number in numbers { seen[number, default: 0] += 1 }
        }
        let wrong = (1...report.requests).filter { linesMayRepeat ? seen[$0] == nil : seen[$0] != 1 }
        #expect(
            wrong.isEmpty && seen.count == report.requests, "lines lost or doubled: \(wrong.prefix(20)) of \(seen.count)", sourceLocation: location)
    }

    /// The numbers of the requests in each host's log.
    private func lines() -> [[Int]] {
        [Lab.Host.a, .b].map { host in
            readText(Self.log(world, host)).split(separator: "\n").compactMap { $0.split(separator: " ").first.flatMap { Int($0) } }
        }
    }
}
