// TCP sockets of a lab's machines in the test process itself: made inside the namespace, used from here.

internal import CSupport
internal import Glibc

extension Lab {
    /// Tries to connect from this machine to the address until it is accepted; false when the time is over.
    public func waitUntilAccepting(_ host: Host, _ address: String, _ port: UInt16, timeout: Duration = .seconds(5)) -> Bool {
        eventually(within: timeout) {
            guard let socket = try? connect(from: host, to: address, port) else { return false }
            close(socket)
            return true
        }
    }

    /// A connected TCP socket of the machine `host` in this process. The caller closes it.
    public func connect(from host: Host, to address: String, _ port: UInt16) throws(LabError) -> Int32 {
        try socket(on: host, address, port, "connect to") { Glibc.connect($0, $1, $2) }
    }

    /// A listening TCP socket of the machine `host` in this process. The caller closes it.
    public func listen(on host: Host, _ address: String, _ port: UInt16) throws(LabError) -> Int32 {
        try socket(on: host, address, port, "listen on") { fd, address, length in
            var on: Int32 = 1
            setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
            return bind(fd, address, length) == 0 ? Glibc.listen(fd, 128) : -1
        }
    }

    /// The next connection of a listening socket. The caller closes it.
    public static func accept(_ listener: Int32, timeout: Duration = .seconds(5)) throws(LabError) -> Int32 {
        var waiting = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
        guard poll(&waiting, 1, Int32(timeout / .milliseconds(1))) == 1 else { throw LabError("nobody connected") }
        let fd = Glibc.accept(listener, nil, nil)
        guard fd >= 0 else { throw .errno("cannot accept", errno) }
        _ = fcntl(fd, F_SETFD, FD_CLOEXEC)
        return fd
    }

    /// How many bytes the application has written to and read from an accepted connection since it began, by the kernel's counters.
    public static func position(_ fd: Int32) throws(LabError) -> (written: UInt64, read: UInt64) {
        var written: UInt64 = 0
        var read: UInt64 = 0
        let result = csupport_tcp_position(fd, &written, &read)
        guard result == 0 else { throw .errno("cannot read the position of descriptor \(fd)", result) }
        return (written, read)
    }

    /// Makes a socket in the namespace and gives it with the address to `use`, which returns 0 when it worked.
    private func socket(
        on host: Host, _ address: String, _ port: UInt16, _ what: String,
        _ use: (Int32, UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) throws(LabError) -> Int32 {
        let family = address.contains(":") ? AF_INET6 : AF_INET
        let fd = csupport_socket_in(handle(host), family, Int32(SOCK_STREAM.rawValue), 0)
        guard fd >= 0 else { throw .errno("cannot make a socket on \(host.rawValue)", fd) }
        let result: Int32
        if family == AF_INET6 {
            var socket = sockaddr_in6()
            socket.sin6_family = sa_family_t(AF_INET6)
            socket.sin6_port = port.bigEndian
            inet_pton(AF_INET6, address, &socket.sin6_addr)
            result = withUnsafeBytes(of: &socket) { use(fd, $0.assumingMemoryBound(to: sockaddr.self).baseAddress!, socklen_t($0.count)) }
        } else {
            var socket = sockaddr_in()
            socket.sin_family = sa_family_t(AF_INET)
            socket.sin_port = port.bigEndian
            inet_pton(AF_INET, address, &socket.sin_addr)
            result = withUnsafeBytes(of: &socket) { use(fd, $0.assumingMemoryBound(to: sockaddr.self).baseAddress!, socklen_t($0.count)) }
        }
        guard result == 0 else {
            let error = errno
            close(fd)
            throw .errno("\(host.rawValue) cannot \(what) \(address) port \(port)", error)
        }
        return fd
    }
}
