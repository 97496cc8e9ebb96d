// What is to be said about one migration afterwards, as a value: who, where, when, how long each stage took, which sessions, what failed.

import CProc
import Glibc
import SCImage

/// Everything that a report shows. It holds texts and numbers only, so it can be encoded, kept and rendered anywhere.
package struct MigrationReport: Codable, Equatable, Sendable {
    package enum Outcome: String, Codable, Sendable {
        /// The target serves the sessions.
        case moved
        /// A dry run: the target would receive them.
        case accepted
        /// Refused or failed, and the sessions are where they were.
        case unchanged
        /// Failed after the decision.
        case needsRecovery
    }

    /// One stage of the stage table, reached or not.
    package struct StageTime: Codable, Equatable, Sendable {
        package var name: String
        /// What each end does in it, in the words of the stage table; `-`: nothing.
        package var source, target: String
        /// Nanoseconds since the migration began; nil when the stage was not reached.
        package var start: UInt64?
        package var duration: UInt64 = 0
        package var isFailed = false

        package var end: UInt64? { start.map { $0 + duration } }
    }

    package struct MovedSession: Codable, Equatable, Sendable {
        package var client, service: String
        package var state = ""
        /// Bytes that were queued when the migration began; the session was still running.
        package var receiveQueue = 0
        package var sendQueue = 0
        /// Empty when the session had no id before the move.
        package var id = ""

        package init(client: String, service: String, state: String = "", receiveQueue: Int = 0, sendQueue: Int = 0, id: String = "") {
            (self.client, self.service, self.state) = (client, service, state)
            (self.receiveQueue, self.sendQueue, self.id) = (receiveQueue, sendQueue, id)
        }
    }

    package struct RefusedSession: Codable, Equatable, Sendable {
        package var client, service, reason: String

        package init(client: String, service: String, reason: String) {
            (self.client, self.service, self.reason) = (client, service, reason)
        }
    }

    package struct FailureText: Codable, Equatable, Sendable {
        package var what, why, errno, advice: String
    }

    package var outcome = Outcome.unchanged
    /// Host, process and target as the user would write them.
    package var sourceHost = ""
    package var process = ""
    package var target = ""
    /// The target's own name; empty when it never answered.
    package var targetHost = ""
    package var handover = ""
    package var steering = ""
    package var tool = "sc-checkpoint \(toolVersion)"
    /// Nanoseconds since 1970.
    package var startedAt: UInt64 = 0
    /// Nanoseconds of the whole migration, and of the client's silence: from the first packet held to the last one let go.
    package var total: UInt64 = 0
    package var blackout: UInt64 = 0
    package var stages = Stage.allCases.map { StageTime(name: $0.rawValue, source: $0.row.source, target: $0.row.target) }
    package var sessions: [MovedSession] = []
    package var refused: [RefusedSession] = []
    package var failure: FailureText?

    package init() {}

    /// From `park` to the last stage that was reached; nil when nothing was stopped.
    package var blackoutSpan: (start: UInt64, end: UInt64)? {
        guard let start = stages.first(where: { $0.name == Stage.park.rawValue })?.start else { return nil }
        return (start, stages.compactMap(\.end).max() ?? start)
    }

    /// Takes the times of a migration that came to its end.
    package mutating func take(_ timeline: Timeline) {
        for entry in timeline.entries {
            guard let index = stages.firstIndex(where: { $0.name == entry.stage.rawValue }) else { continue }
            (stages[index].start, stages[index].duration) = (entry.start, entry.duration)
        }
    }

    /// Takes what went wrong, and what it means for the sessions.
    package mutating func take(_ error: CheckpointError) {
        outcome = error.outcome == .needsRecovery ? .needsRecovery : .unchanged
        failure = FailureText(what: error.what, why: error.why, errno: error.errno == 0 ? "" : systemName(error.errno), advice: error.advice)
    }
}

extension MigrationReport.MovedSession {
    /// A session as the probe saw it, with the id of an earlier move.
    package init(_ session: SelectedSession) {
        let channel = session.channel
        self.init(
            client: channel.peer, service: channel.local, state: channel.state, receiveQueue: channel.receiveQueue, sendQueue: channel.sendQueue)
        if let socket = try? session.process.duplicate(channel.fd), let entry = SessionRegistry.find(socket.raw) { id = entry.id.description }
    }
}

extension Handover {
    /// In the words of the command line.
    package var summary: String {
        switch self {
        case .exec(let arguments): "--exec -- " + arguments.map { String(decoding: $0, as: UTF8.self) }.joined(separator: " ")
        case .into(let path): "--into " + String(decoding: path, as: UTF8.self)
        case .onto(let pid, let adapter, _): "--onto \(pid) --adapter \(adapter)"
        case .service(let name): "service \(name)"
        }
    }
}
