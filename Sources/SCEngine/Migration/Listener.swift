// The Unix socket on which `receive --listen` waits.

import CProc
import Glibc

/// What SIGTERM and SIGINT remove; written once, before the handler is set.
private nonisolated(unsafe) var pathToRemove: UnsafeMutablePointer<CChar>?

/// Listens on a path that only its owner may use, and removes it when it ends.
package final class Listener {
    private let descriptor: OwnedDescriptor
    private let path: String
    private var isBound = false

    /// Takes the place of a socket that nobody listens on any longer; refuses a path that something else uses.
    package init(_ path: String) throws(CheckpointError) {
        let raw = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        descriptor = OwnedDescriptor(try check(raw < 0 ? -errno : raw, "cannot make a Unix socket"))
        self.path = path
        let former = umask(0o177)
        defer { umask(former) }
        isBound = bindUnixReplacing(raw, path)
        guard isBound, Glibc.listen(raw, 8) == 0 else {
            throw CheckpointError("cannot listen on \(path)", result: Int(-errno), advice: errno == EADDRINUSE ? "Another receiver uses it" : "")
        }
    }

    deinit { if isBound { unlink(path) } }

    /// SIGTERM and SIGINT end the process and remove the socket; while a migration is under way they wait (`BlockedSignals`).
    package func endOnSignal() {
        pathToRemove = strdup(path)
        for number in [SIGTERM, SIGINT] {
            signal(number) { _ in
                if let pathToRemove { unlink(pathToRemove) }
                _exit(0)
            }
        }
    }

    /// The next connection of the same user or of root.
    package func accept() throws(CheckpointError) -> SharedDescriptor {
        while true {
            let raw = cproc_accept(descriptor.raw)
            if raw == -EINTR { continue }
            let connection = SharedDescriptor(try check(raw, "cannot accept a connection on \(path)"))
            var (pid, uid, gid): (Int32, UInt32, UInt32) = (0, 0, 0)
            if cproc_peer_credentials(raw, &pid, &uid, &gid) >= 0, uid == geteuid() || uid == 0 { return connection }
        }
    }
}
