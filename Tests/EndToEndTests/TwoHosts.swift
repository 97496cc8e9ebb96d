// A lab with the tool on both hosts: what every end-to-end test begins and ends with.

import FoundationEssentials
import Glibc
import Support
import Testing

/// What `migrate --json` prints.
struct Migrated: Decodable {
    struct Stage: Decodable {
        var name: String
        var start_us, duration_us: Double
    }
    var migrated, refused: Int
    var blackout_us: Double
    var stages: [Stage]
}

/// What `show --json` says of the states in an image.
struct ShownStates: Decodable {
    struct Session: Decodable { var state_bytes: Int }
    var sessions: [Session]
}

/// A lab in which the tool can be run on host A, on host B and on the client.
final class TwoHosts {
    let lab: Lab
    private let clean: Leftovers
    private var receivers: [Lab.Host: Child] = [:]

    /// `prepare` sets up what belongs to the machines and not to the test.
    init(split: Bool = false, _ prepare: (Lab) throws -> Void = { _ in }) throws {
        lab = try Lab(split: split)
        try prepare(lab)
        clean = try Leftovers.snapshot(of: lab)
    }

    deinit { lab.down() }

    /// The tool that is tested; SC_TOOL names another build of it, for figures.
    static var program: String { getenv("SC_TOOL").map { String(cString: $0) } ?? Lab.program("sc-checkpoint") }

    /// Each host has a run-time directory of its own, as separate machines would.
    func environment(_ host: Lab.Host) -> [String: String] { ["SC_RUN_DIR": "\(lab.folder)/run-\(host.rawValue)"] }

    @discardableResult
    func tool(_ host: Lab.Host, _ arguments: [String], timeout: Duration = .seconds(30)) throws -> Output {
        try lab.run(in: host, [Self.program] + arguments, environment: environment(host), timeout: timeout)
    }

    /// Runs the tool, which must succeed, and decodes its JSON document.
    func json<Document: Decodable>(_ host: Lab.Host, _ arguments: [String], as type: Document.Type = Document.self) throws -> Document {
        // Right after the verb: what follows `--` belongs to the receiver's command.
        let output = try tool(host, [arguments[0], "--json"] + arguments.dropFirst())
        try #require(output.status == 0, "\(arguments): \(output.stderr)")
        return try JSONDecoder().decode(type, from: Data(output.stdoutBytes))
    }

    /// The connections of a process with this port at either end; none when it has ended meanwhile.
    func channels(_ host: Lab.Host, of pid: Int32, port: Int) -> [Inspected.Channel] {
        guard let output = try? tool(host, ["inspect", String(pid), "--port", String(port), "--json"]), output.status == 0 else { return [] }
        return (try? JSONDecoder().decode(Inspected.self, from: Data(output.stdoutBytes)))?.channels ?? []
    }

    /// The path on which the host's receiver listens; starts it at the first use.
    func receiver(on host: Lab.Host) throws -> String {
        let path = "\(lab.folder)/receive-\(host.rawValue)"
        if receivers[host] == nil {
            let child = try lab.spawn(in: host, [Self.program, "receive", "--listen", path], environment: environment(host))
            receivers[host] = child
            try #require(child.waitForOutputOrError("listening"), "the receiver does not listen: \(child.stderr)")
        }
        return path
    }

    /// Moves sessions of `pid` on one host to the other; `arguments` choose them and name who gets them.
    @discardableResult
    func migrate(_ pid: Int32, from source: Lab.Host, to target: Lab.Host, _ arguments: [String]) throws -> Migrated {
        try json(source, ["migrate", String(pid), "--to", "unix:\(receiver(on: target))"] + arguments)
    }

    /// Waits until the process has an established connection with this port at either end.
    func waitForSession(on host: Lab.Host, _ pid: Int32, port: Int) throws {
        let isThere = eventually(within: .seconds(10)) {
            (try? self.json(host, ["inspect", String(pid), "--port", String(port)], as: Inspected.self).channels.contains { $0.movable }) ?? false
        }
        try #require(isThere, "process \(pid) has no session on port \(port)")
    }

    /// Expects a command to fail in the form `sc-checkpoint: WHAT: WHY (ERRNO). …`, and gives its message.
    @discardableResult
    func refuses(_ host: Lab.Host, _ arguments: [String], status: Int32 = 1, naming words: String..., at location: SourceLocation = #_sourceLocation)
        throws -> String
    {
        let output = try tool(host, arguments)
        #expect(output.status == status, "\(output.stdout)\(output.stderr)", sourceLocation: location)
        let lines = output.stderr.split(whereSeparator: \.isNewline)
        #expect(lines.last?.hasPrefix("sc-checkpoint: ") == true, "\(output.stderr)", sourceLocation: location)
        for word in words { #expect(output.stderr.contains(word), "\(word) is missing in: \(output.stderr)", sourceLocation: location) }
        return output.stderr
    }

    /// Ends the receivers, forgets the flows that are still passed on by design, and expects that nothing else is left.
    func finish(at location: SourceLocation = #_sourceLocation) throws {
        for child in receivers.values { child.terminate() }
        receivers = [:]
        for host in [Lab.Host.a, .b] {
            let tables = try lab.run(in: host, ["nft", "list", "tables"]).stdout
            for table in tables.split(separator: "\n") where table.hasPrefix("table netdev sc_checkpoint_") {
                _ = try lab.run(in: host, ["nft", "delete"] + table.split(separator: " ").map(String.init))
                _ = try lab.run(in: host, ["ip", "link", "delete", "schold0"])
            }
        }
        let left = try clean.check(within: .seconds(3))
        #expect(left.isEmpty, "\(left)", sourceLocation: location)
    }
}

extension Child {
    /// Waits until the child has written the text to its standard output or error.
    func waitForOutputOrError(_ text: String, timeout: Duration = .seconds(10)) -> Bool {
        eventually(within: timeout) { self.stdout.contains(text) || self.stderr.contains(text) }
    }
}

/// What one end of sc-stream prints when it is done.
struct StreamReport: Decodable {
    var complete: Bool
    var sent, received: UInt64
    var mismatch: Int64
    var errors: [String]

    /// The last JSON line of a stream program's output.
    init(_ text: String) throws {
        let line = try #require(text.split(separator: "\n").last { $0.hasPrefix("{") }, "no report in \(text)")
        self = try JSONDecoder().decode(StreamReport.self, from: Data(line.utf8))
    }
}
