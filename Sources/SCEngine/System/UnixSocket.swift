// Unix sockets by their path: binding, taking the place of a dead listener, connecting.

import CProc
import Glibc

/// bind(2) to a Unix path, or to an abstract name when it begins with NUL; errno tells of a failure.
package func bindUnix(_ socket: Int32, _ path: String) -> Bool {
    withUnixAddress(path) { bind(socket, $0, $1) == 0 } ?? false
}

/// connect(2) to a Unix path or abstract name; errno tells of a failure.
package func connectUnix(_ socket: Int32, _ path: String) -> Bool {
    withUnixAddress(path) { connect(socket, $0, $1) == 0 } ?? false
}

/// Like `bindUnix`, and takes the place of a socket on which nobody listens any longer. EADDRINUSE: somebody does, or the path is something else.
package func bindUnixReplacing(_ socket: Int32, _ path: String) -> Bool {
    if bindUnix(socket, path) { return true }
    guard errno == EADDRINUSE else { return false }
    // Another type of socket could not be connected to, dead or alive.
    let type = SocketView(socket).type
    guard connectedUnix(path, type: type) == nil, errno == ECONNREFUSED, unlink(path) == 0 else {
        errno = EADDRINUSE
        return false
    }
    return bindUnix(socket, path)
}

/// A new socket of this type, connected to the path; nil, with errno, when that fails. `flags` are SOCK_NONBLOCK or 0.
package func connectedUnix(_ path: String, type: Int32, flags: Int32 = 0) -> SharedDescriptor? {
    let raw = socket(AF_UNIX, type | Int32(SOCK_CLOEXEC.rawValue) | flags, 0)
    guard raw >= 0 else { return nil }
    if connectUnix(raw, path) { return SharedDescriptor(raw) }
    let failure = errno
    close(raw)
    errno = failure
    return nil
}

/// Lends the address of a path; nil, with ENAMETOOLONG, when it does not fit sun_path.
private func withUnixAddress<Result>(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result? {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
        errno = ENAMETOOLONG
        return nil
    }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    // An abstract name has no terminator: the length says where it ends (unix(7)).
    let length = MemoryLayout<sa_family_t>.size + bytes.count + (bytes.first == 0 ? 0 : 1)
    return withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(length)) }
    }
}
