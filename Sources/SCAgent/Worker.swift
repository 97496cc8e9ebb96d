// The processes that do an agent's work: one for each conversation, so that a peer that floods, stalls or breaks one hurts no other.

import CProc
import FoundationEssentials
import Glibc
import SCEngine

/// What a worker tells the agent, one JSON object a line, on the descriptor that `SC_AGENT_REPORT` names.
package struct WorkerReport: Codable, Sendable {
    package struct StageTime: Codable, Sendable {
        package var name: String
        package var nanoseconds: UInt64
        package init(name: String, nanoseconds: UInt64) { (self.name, self.nanoseconds) = (name, nanoseconds) }
    }

    /// `source` or `target`.
    package var role: String
    /// `accepted` when the sessions are under way; in the end `moved`, `refused` (nothing was touched), `rolled_back`,
    /// `needs_recovery`, or `answered` (a question about an earlier move).
    package var outcome: String
    package var sessions = 0
    package var bytes: UInt64 = 0
    /// The check that refused.
    package var check: String?
    package var message: String?
    package var blackout: UInt64?
    package var stages: [StageTime] = []

    package init(role: String, outcome: String) { (self.role, self.outcome) = (role, outcome) }

    /// Tells the agent, if there is one.
    package func send() {
        guard let text = getenv("SC_AGENT_REPORT"), let fd = Int32(String(cString: text)), let data = try? JSONEncoder().encode(self) else { return }
        let line = Array(data) + [UInt8(ascii: "\n")]
        _ = line.withUnsafeBytes { write(fd, $0.baseAddress, $0.count) }
    }
}

/// One worker, seen from the agent.
final class Worker {
    enum Kind: Equatable {
        /// The target's end of a conversation that a peer opened.
        case peer(String)
        /// A command of this host that runs with the agent's keys.
        case command
    }

    let kind: Kind
    let pid: Int32
    let reports: SharedDescriptor
    /// Who waits for the exit status.
    let client: SharedDescriptor?
    let started = monotonicNanoseconds()
    private(set) var sessions = 0
    private(set) var bytes: UInt64 = 0
    private var rest: [UInt8] = []

    /// Starts this program with `arguments`; `passing` become the descriptors 3, 4, …, after them comes the report's.
    init(
        _ kind: Kind, _ arguments: [String], standard: (Int32, Int32, Int32), passing: [Int32], client: SharedDescriptor? = nil,
        environment: [String] = []
    ) throws(CheckpointError) {
        self.kind = kind
        self.client = client
        var ends: [Int32] = [-1, -1]
        try check(cproc_pipe(&ends), "cannot make a pipe")
        reports = SharedDescriptor(ends[0])
        let writing = SharedDescriptor(ends[1])
        let variables =
            currentEnvironment().filter { !$0.hasPrefix("LISTEN_") && !$0.hasPrefix("NOTIFY_SOCKET=") } + environment
            + ["SC_AGENT_REPORT=\(3 + passing.count)"]
        pid = try withExtendedLifetime(writing) { () throws(CheckpointError) in
            try spawn(
                [ownProgram] + arguments, environment: variables, in: nil, standard: standard, passing: passing + [writing.raw],
                listenPID: false)
        }
    }

    /// The lines that have arrived.
    func readReports() -> [WorkerReport] {
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = read(reports.raw, &buffer, buffer.count)
            guard count > 0 else { break }
            rest += buffer.prefix(count)
        }
        var result: [WorkerReport] = []
        while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
            if let report = try? JSONDecoder().decode(WorkerReport.self, from: Data(rest[..<end])) {
                if report.outcome == "accepted" { (sessions, bytes) = (report.sessions, report.bytes) }
                result.append(report)
            }
            rest = Array(rest[(end + 1)...])
        }
        return result
    }
}
