// Faults on demand, so that what happens after a crash at any point can be tested and rehearsed.

import CProc
import Glibc

/// `SC_FAULT=STAGE-before:ACTION` or `STAGE-after:ACTION` makes this process meet a fault at that point of a move. Actions: `kill` (SIGKILL to itself),
/// `cut` (the link to the other end breaks), `fail` (the stage fails), `run:PROGRAM` (the program runs, and the move waits for it).
package enum Fault {
    package enum Moment: String { case before, after }

    private static let wanted: (point: String, action: String)? = {
        guard let text = getenv("SC_FAULT").map({ String(cString: $0) }), let colon = text.firstIndex(of: ":") else { return nil }
        return (String(text[..<colon]), String(text[text.index(after: colon)...]))
    }()

    /// Called at both ends of every stage. `cut` breaks the link.
    static func meet(_ stage: Stage, _ moment: Moment, cut: () -> Void) throws(CheckpointError) {
        guard let wanted, wanted.point == "\(stage.rawValue)-\(moment.rawValue)" else { return }
        switch wanted.action {
        case "kill": kill(getpid(), SIGKILL)
        case "cut": cut()
        case "fail": throw CheckpointError("stage \(stage.rawValue) failed", why: "SC_FAULT asked for it", errno: EIO)
        default:
            guard wanted.action.hasPrefix("run:") else { return }
            _ = try runCommand(["/bin/sh", "-c", String(wanted.action.dropFirst(4))])
        }
    }
}
