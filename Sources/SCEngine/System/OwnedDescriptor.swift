// A file descriptor with exactly one owner.

import Glibc

/// Owns a descriptor and closes it at the end of its life. It cannot be copied, so it is never closed twice.
package struct OwnedDescriptor: ~Copyable, Sendable {
    package let raw: Int32

    /// Takes over `raw`, which must be open and owned by nobody else.
    package init(_ raw: Int32) { self.raw = raw }

    deinit { _ = Glibc.close(raw) }

    /// Gives the descriptor up without closing it.
    package consuming func release() -> Int32 {
        let raw = self.raw
        discard self
        return raw
    }

    /// A second descriptor of the same open file description (`F_DUPFD_CLOEXEC`).
    package borrowing func duplicate() throws(CheckpointError) -> OwnedDescriptor {
        let copy = fcntl(raw, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0 else { throw CheckpointError("cannot duplicate a descriptor", result: Int(-errno)) }
        return OwnedDescriptor(copy)
    }
}

/// A descriptor that lives in collections and closures; the class is the owner.
package final class SharedDescriptor: Sendable {
    private let descriptor: OwnedDescriptor
    package var raw: Int32 { descriptor.raw }
    package init(_ descriptor: consuming OwnedDescriptor) { self.descriptor = descriptor }
    package convenience init(_ raw: Int32) { self.init(OwnedDescriptor(raw)) }
}
