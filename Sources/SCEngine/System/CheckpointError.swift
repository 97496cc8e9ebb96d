// The one error that users see: what failed, why, and what to do about it.

import CProc

/// A failure in the form of the command line: `WHAT FAILED: WHY (ERRNO). WHAT TO DO`.
package struct CheckpointError: Error, Equatable, Sendable, CustomStringConvertible {
    /// What the failure leaves behind; the exit status of a command follows from it.
    package enum Outcome: Int32, Sendable {
        /// Refused or failed, and nothing has changed.
        case unchanged = 1
        /// The command line was wrong.
        case usage = 2
        /// Something was left behind that `sc-checkpoint recover` has to look at.
        case needsRecovery = 3
    }

    package var what: String
    package var why: String
    /// The kernel's error number, 0 when no call failed.
    package var errno: Int32
    package var advice: String
    package var outcome: Outcome

    package init(_ what: String, why: String, errno: Int32 = 0, advice: String = "", outcome: Outcome = .unchanged) {
        (self.what, self.why, self.errno, self.advice, self.outcome) = (what, why, errno, advice, outcome)
    }

    /// A failed call: `result` is a kernel function's `-errno`.
    package init(_ what: String, result: Int, advice: String = "") {
        let number = Int32(clamping: -result)
        self.init(what, why: systemMessage(number), errno: number, advice: advice.isEmpty ? defaultAdvice(number) : advice)
    }

    package var description: String {
        var text = "\(what): \(why)"
        if errno != 0 { text += " (\(systemName(errno)))" }
        if !advice.isEmpty { text += ". \(advice)" }
        return text
    }

    /// The same failure, seen as part of a larger step.
    package func during(_ step: String) -> CheckpointError {
        var error = self
        error.what = "\(step): \(what)"
        return error
    }
}

/// Checks a `CProc` result: gives it back when it is not negative, and throws its `-errno` otherwise.
@discardableResult
package func check<Result: SignedInteger>(
    _ result: Result, _ what: @autoclosure () -> String, advice: @autoclosure () -> String = ""
) throws(CheckpointError) -> Result {
    if result >= 0 { return result }
    throw CheckpointError(what(), result: Int(result), advice: advice())
}

/// The kernel's name of an error number, `ESRCH`; its digits when it has none.
package func systemName(_ number: Int32) -> String {
    guard let name = cproc_errno_name(number) else { return String(number) }
    return String(cString: name)
}

/// The kernel's words for an error number, in lower case as they stand inside a sentence.
package func systemMessage(_ number: Int32) -> String {
    guard let text = cproc_errno_text(number) else { return "error \(number)" }
    let message = String(cString: text)
    return message.prefix(1).lowercased() + message.dropFirst()
}

/// What usually helps against an error, where the place that failed knows nothing better.
private func defaultAdvice(_ number: Int32) -> String {
    switch number {
    case 1 /* EPERM */, 13 /* EACCES */:
        "Run as root, or grant CAP_NET_ADMIN, CAP_SYS_PTRACE and CAP_SYS_ADMIN (see sc-checkpoint check)"
    case 2 /* ENOENT */, 20 /* ENOTDIR */, 21 /* EISDIR */, 36 /* ENAMETOOLONG */: "Check the path"
    case 3 /* ESRCH */: "The process has ended; look for its successor with ss -tnp"
    case 23 /* ENFILE */, 24 /* EMFILE */: "Raise the descriptor limit (ulimit -n)"
    case 28 /* ENOSPC */: "Free some space and repeat; nothing was kept"
    case 12 /* ENOMEM */, 105 /* ENOBUFS */: "Raise net.ipv4.tcp_mem or free memory"
    default: ""
    }
}
