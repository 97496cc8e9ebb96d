// The recovery of interrupted moves: by hand, by an agent at its start, and by a keeper when its move has died.

import CProc
import Glibc
import SCImage

package enum Recovery {
    /// Milliseconds after which a session that is in doubt is ended: `SC_HOLD_SECONDS`, which an agent sets from its policy, or about the time after
    /// which a client's TCP gives up by itself (net.ipv4.tcp_retries2, 15 min).
    private static var doubtLimit: Int { (getenv("SC_HOLD_SECONDS").flatMap { Int(String(cString: $0)) } ?? 900) * 1000 }
    /// Records of finished moves whose other end never said so are forgotten after an hour.
    private static let memory = 3600

    /// Recovers one move of this host. nil: there is no such journal any longer.
    package static func recover(
        _ migration: MigrationID, _ role: JournalRole, within deadline: Deadline, kept: KeptDescriptors = KeptDescriptors(), orEnd: Bool = false
    ) -> RecoveryOutcome? {
        guard let (journal, content) = Journal.adopt(migration, role) else {
            return Journal.read(migration, role) == nil ? nil : .busy
        }
        switch role {
        case .source: return (try? SourceRecovery(journal, content, kept: kept).run(within: deadline, orEnd: orEnd)) ?? .inDoubt
        case .target:
            // Only a keeper's successor has what it takes to finish an activation.
            if content.has(.activating), !content.has(.active), !content.has(.lost), content.isOfThisBoot, kept.files.isEmpty { return .busy }
            let state = TargetRecovery(journal, content, kept: kept).run()
            if state == .active || state == .lost, journal.age > memory { journal.remove() }
            return RecoveryOutcome(state)
        }
    }

    /// What a keeper's successor does. The journal may be looked at by another process this moment, so the first attempts may fail. nil: there is none any longer.
    package static func recoverKept(_ migration: MigrationID, _ role: JournalRole, _ kept: KeptDescriptors) -> RecoveryOutcome? {
        let deadline = Deadline(milliseconds: doubtLimit)
        repeat {
            let outcome = recover(migration, role, within: deadline, kept: kept, orEnd: true)
            guard outcome == .busy else { return outcome }
            pause(microseconds: 2000)
        } while !deadline.hasPassed
        return .busy
    }

    /// Removes rules without a flow and registry entries without a socket from this process's network namespace.
    package static func sweep() {
        SessionRegistry.sweep()
        Journal.sweep()
        if let namespace = try? NetworkNamespace.current() { sweepSteering(in: namespace) }
    }
}

extension RecoveryOutcome {
    init(_ state: Standing.State) {
        switch state {
        case .active: self = .active
        case .discarded: self = .discarded
        case .lost: self = .lost
        case .busy: self = .busy
        }
    }
}
