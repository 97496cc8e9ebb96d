// A TCP connection to HOST:PORT by a deadline, over each address of the host in turn.

import CProc
import Glibc
import SCEngine

/// Connects, trying every address of the host. The descriptor is non-blocking and close-on-exec. Resolving the name may take longer than
/// the deadline: it is the system's resolver that waits.
func connectTCP(to text: String, _ deadline: Deadline) throws(CheckpointError) -> OwnedDescriptor {
    guard let address = HostPort(text) else {
        throw CheckpointError("\(text) is no address of a peer", why: "HOST:PORT is expected, IPv6 in brackets", errno: EINVAL, outcome: .usage)
    }
    var hints = addrinfo()
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    hints.ai_flags = AI_ADDRCONFIG | AI_NUMERICSERV
    var list: UnsafeMutablePointer<addrinfo>?
    let status = getaddrinfo(address.host, String(address.port), &hints, &list)
    guard status == 0, let first = list else {
        throw CheckpointError(
            "cannot find \(address.host)", why: String(cString: gai_strerror(status)), errno: EHOSTUNREACH,
            advice: "Check the name, or trust the peer with its address in place of the name")
    }
    defer { freeaddrinfo(first) }
    var failure = ECONNREFUSED
    var next: UnsafeMutablePointer<addrinfo>? = first
    while let entry = next?.pointee {
        let raw = socket(entry.ai_family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
        let connection = OwnedDescriptor(try check(raw < 0 ? -errno : raw, "cannot make a socket"))
        failure = connect(connection.raw, entry.ai_addr, entry.ai_addrlen) == 0 ? 0 : errno
        if failure == EINPROGRESS { failure = waitConnected(connection.raw, deadline) }
        if failure == 0 { return connection }
        next = entry.ai_next
    }
    throw CheckpointError(
        "cannot reach \(address)", why: failure == ETIMEDOUT ? "no answer within the time allowed" : systemMessage(failure), errno: failure,
        advice: failure == ECONNREFUSED
            ? "Does an agent run there, and listen on this port?" : "Check the address, and the firewalls on the way")
}

/// 0, or the errno of the attempt.
private func waitConnected(_ socket: Int32, _ deadline: Deadline) -> Int32 {
    var entry = pollfd(fd: socket, events: Int16(POLLOUT), revents: 0)
    while poll(&entry, 1, deadline.remainingMilliseconds) <= 0 {
        if deadline.hasPassed { return ETIMEDOUT }
    }
    var error: Int32 = 0
    var length = socklen_t(MemoryLayout<Int32>.size)
    return getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : errno
}
