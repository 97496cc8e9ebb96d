// What a drain begins with and ends with: the sessions of some processes, and what became of each.

import CProc
import Glibc
import SCImage

/// One session of a drain.
package struct DrainSession {
    package let selected: SelectedSession
    /// Why it cannot move; nil when it can.
    package var immovable: String?

    package var flow: Flow {
        let channel = selected.channel
        return Flow(client: channel.peerAddress ?? channel.localAddress!, service: channel.localAddress!)
    }
}

/// The sessions to move, found before the first one moves.
package struct DrainSelection {
    package private(set) var sessions: [DrainSession] = []
    /// By session: its network namespace, numbered; below -1 one that moves alone.
    private(set) var groups: [Int] = []
    private var namespaces: [(device: UInt64, inode: UInt64)] = []
    private var seen: Set<UInt64> = []

    package init() {}

    package var movable: [DrainSession] { sessions.filter { $0.immovable == nil } }
    package var immovable: [DrainSession] { sessions.filter { $0.immovable != nil } }

    /// Adds those of a process and its children that pass the filter, and `matches`.
    package mutating func add(
        _ root: TargetProcess, _ filter: SessionFilter, where matches: (Channel) -> Bool = { _ in true }
    ) throws(CheckpointError) {
        let (chosen, refused) = try findSessions(of: root, filter, seen: &seen)
        for session in chosen where matches(session.channel) { add(DrainSession(selected: session)) }
        for session in refused where matches(session.channel) && session.channel.peerAddress != nil {
            add(DrainSession(selected: session, immovable: session.channel.reason ?? "it cannot be moved"))
        }
    }

    private mutating func add(_ session: DrainSession) {
        sessions.append(session)
        groups.append(group(of: session.selected))
    }

    /// These connections' sessions are served by several processes: each is a move of its own.
    mutating func separate(_ sockets: Set<UInt64>) {
        for (index, session) in sessions.enumerated() where sockets.contains(session.selected.channel.inode) { groups[index] = -2 - index }
    }

    /// These connections' servers say why they cannot move.
    mutating func pin(_ reasons: [UInt64: String]) {
        for index in sessions.indices {
            if let reason = reasons[sessions[index].selected.channel.inode] { sessions[index].immovable = sessions[index].immovable ?? reason }
        }
    }

    /// A socket belongs to the namespace it was made in, which need not be its process's.
    private mutating func group(of session: SelectedSession) -> Int {
        guard let copy = try? session.process.duplicate(session.channel.fd), let namespace = try? NetworkNamespace.of(socket: copy.raw) else {
            return -1
        }
        let identity = namespace.identity
        if let known = namespaces.firstIndex(where: { $0 == identity }) { return known }
        namespaces.append(identity)
        return namespaces.count - 1
    }
}

/// What became of every session.
package struct DrainResult {
    package enum Outcome: String, Sendable { case moved, stayed, unknown, ended }

    package struct Entry: Sendable {
        package var flow: Flow
        package var outcome: Outcome
        /// Where it is, or may be.
        package var target: TargetAddress?
        package var reason: String?

        init(_ flow: Flow, _ fate: DrainPlan.Fate, _ targets: [TargetAddress]) {
            self.flow = flow
            switch fate {
            case .moved(let number): (outcome, target) = (.moved, targets[number])
            case .unknown(let number, let text): (outcome, target, reason) = (.unknown, targets[number], text)
            case .ended: (outcome, reason) = (.ended, "it ended by itself")
            case .waiting: (outcome, reason) = (.stayed, "its turn did not come")
            case .stayed(let refusals):
                outcome = .stayed
                reason = refusals.map { refusal in
                    guard targets.count > 1, let number = refusal.target else { return refusal.reason }
                    return "\(targets[number].description): \(refusal.reason)"
                }.joined(separator: "; ")
            }
        }
    }

    package var sessions: [Entry]
    /// The targets that got nothing from some point on, and why.
    package var leftOut: [(target: TargetAddress, reason: String)]
    /// Of each move that succeeded.
    package var blackouts: [UInt64]
    package var nanoseconds: UInt64

    package func count(_ outcome: Outcome) -> Int { sessions.reduce(0) { $0 + ($1.outcome == outcome ? 1 : 0) } }
}
