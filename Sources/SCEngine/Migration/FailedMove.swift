// Sessions that could not be brought over, for whoever keeps images to debug with.

import SCImage

/// What became of sessions that did not get where they were to go, and what they were like.
package struct FailedMove: Sendable {
    package enum Fate: Sendable {
        /// The target would not have them; they were never touched, or the target gave them up again.
        case refused
        /// They went back to their process.
        case returned
        /// They ended.
        case lost
    }

    package var fate: Fate
    package var sessions: [Session]
    package var error: CheckpointError
    /// The process that had them, and its command line; 0 and empty at a target.
    package var pid: Int32 = 0
    package var command = ""
    /// The service's name, if it is known.
    package var service = ""

    package init(_ fate: Fate, _ sessions: [Session], _ error: CheckpointError) { (self.fate, self.sessions, self.error) = (fate, sessions, error) }

    /// Gets every such move of this process, after its sessions have their owner again, on the thread that moved them. Nil: nobody wants them, and nothing is
    /// done for them. Set before the first move.
    package nonisolated(unsafe) static var keep: ((FailedMove) -> Void)?
}
