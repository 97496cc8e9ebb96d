// What a call of libsc answers when it cannot do what it was asked.

import Glibc

/// A libsc call failed and has changed nothing; sc.h says for each call what its errors mean.
public struct SCError: Error, Equatable, CustomStringConvertible {
    /// A positive errno.
    public let errno: Int32
    /// The C name of the call, "sc_associate".
    public let call: String

    /// For a server's own refusals, of an import.
    public init(errno: Int32, call: String) { (self.errno, self.call) = (errno, call) }

    public var description: String { "\(call): \(String(cString: strerror(errno)))" }

    /// The result, when it is no negative errno.
    @discardableResult
    static func check(_ result: Int32, _ call: String) throws(SCError) -> Int32 {
        guard result < 0 else { return result }
        throw SCError(errno: -result, call: call)
    }
}
