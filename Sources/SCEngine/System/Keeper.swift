// A process that outlives this one for the length of a move, and finishes or undoes the move should this one die.

import CProc
import Glibc
import SCImage

/// The keeper of one end of one move (`cproc_keeper_start`). It holds duplicates of the descriptors without which a session would end with this
/// process. When this object, or this process, ends without `dismiss`, the keeper becomes `sc-checkpoint recover` for the move and has them still.
package final class Keeper {
    private let socket: OwnedDescriptor
    private var isDismissed = false

    /// `capacity` is the most descriptors that will be given.
    package init(for migration: MigrationID, _ role: JournalRole, capacity: Int) throws(CheckpointError) {
        let arguments = ["sc-checkpoint", "recover", "--kept", "\(migration).\(role.rawValue)"]
        // A fault that a test asked for is meant for this process only.
        let environment = currentEnvironment().filter { !$0.hasPrefix("SC_FAULT=") }
        let raw = withCStrings(arguments) { argv in
            withCStrings(environment) { envp in cproc_keeper_start(argv, envp, UInt32(clamping: capacity)) }
        }
        socket = OwnedDescriptor(try check(raw, "cannot start the move's keeper process"))
    }

    /// Hands it duplicates; they stay the caller's as well.
    package func give(_ descriptors: [Int32]) throws(CheckpointError) {
        if descriptors.isEmpty { return }
        try check(cproc_keeper_give(socket.raw, descriptors, UInt32(descriptors.count)), "the move's keeper process has ended")
    }

    /// The move is over here.
    package func dismiss() {
        if !isDismissed { _ = cproc_keeper_dismiss(socket.raw) }
        isDismissed = true
    }
}

/// The descriptors that a keeper has passed on to this process, 3, 4, …, by what they are, each kind in the order in which the keeper got them.
package struct KeptDescriptors {
    package private(set) var tcp: [SharedDescriptor] = []
    /// Memory files: the sessions of the move.
    package private(set) var files: [SharedDescriptor] = []
    /// Connections to acceptors.
    package private(set) var local: [SharedDescriptor] = []

    package init() {}

    /// Takes over everything from descriptor 3 on.
    package static func inherited() -> KeptDescriptors {
        var kept = KeptDescriptors()
        for fd in numericEntries(of: "/proc/self/fd") where fd > 2 {
            var stat = cproc_stat()
            guard cproc_fstat(fd, &stat) >= 0 else { continue }
            _ = fcntl(fd, F_SETFD, FD_CLOEXEC)
            switch stat.mode & S_IFMT {
            case S_IFSOCK where SocketView(fd).domain == AF_UNIX: kept.local.append(SharedDescriptor(fd))
            case S_IFSOCK: kept.tcp.append(SharedDescriptor(fd))
            case S_IFREG: kept.files.append(SharedDescriptor(fd))
            default: break
            }
        }
        return kept
    }

    /// The kept socket with this inode.
    package func socket(inode: UInt64) -> SharedDescriptor? {
        tcp.first { SCEngine.inode(of: $0.raw) == inode }
    }
}

/// An address and a port as the journal writes them: `192.0.2.1:80`, `[2001:db8::1]:80`.
package typealias SocketAddressText = String
