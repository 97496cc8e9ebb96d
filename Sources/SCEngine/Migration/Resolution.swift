// How a move stands, after the conversation of its two ends broke: the source asks, the target answers.
//
// The target can decline until it has written `activating`; afterwards it owns the sessions. So a target that is asked while it has not begun gives
// the move up before it answers, and the source may take its sessions back; one that has begun finishes. Both follow from the target's journal
// alone, whoever reads it: the process that made it, its keeper, or the one that got the question.

import CProc
import Glibc
import SCImage

/// The source's side.
enum Resolution {
    /// Asks until there is an answer or the deadline has passed (nil).
    static func ask(
        _ migration: MigrationID, _ target: TargetAddress, shell: [String], program: String, within deadline: Deadline
    ) -> (state: Standing.State, link: PeerLink)? {
        var wait: UInt32 = 10_000
        let start = monotonicNanoseconds()
        while true {
            let timeout = max(500, min(5000, Int(deadline.remainingMilliseconds)))
            if let link = try? PeerLink.open(target, shell: shell, program: program, timeout: timeout),
                (try? link.send(.resolve(Resolve(migration)))) != nil,
                case .standing(let standing)? = try? link.receive(), standing.migration == migration, standing.state != .busy
            {
                return (standing.state, link)
            }
            if deadline.hasPassed { return nil }
            pause(microseconds: wait)
            // Quick while a command waits; a host that is away for minutes is not called twice a second.
            let elapsed = (monotonicNanoseconds() - start) / 1000
            wait = min(wait * 2, UInt32(clamping: max(500_000, min(elapsed / 8, 10_000_000))))
        }
    }

    // MARK: The target's side

    /// The answer to a question about `migration`. Waits a little for a living process that is at it.
    static func answer(_ migration: MigrationID, within deadline: Deadline = Deadline(milliseconds: 2000)) -> Standing.State {
        while true {
            guard let content = Journal.read(migration, .target) else { return .discarded }
            if content.has(.active) { return .active }
            if content.has(.lost) { return .lost }
            if let (journal, content) = Journal.adopt(migration, .target) {
                // Its process has died. Only the keeper has the descriptors to finish what was begun, unless all ended with the host.
                if !content.has(.activating) || !content.isOfThisBoot {
                    return TargetRecovery(journal, content, kept: KeptDescriptors()).run()
                }
            }
            if deadline.hasPassed { return .busy }
            pause(microseconds: 5000)
        }
    }
}
