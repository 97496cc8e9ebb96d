// Waiting for a server without a process per attempt: a socket made inside the namespace tries to connect.

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
        var storage = sockaddr_storage()
        let family: Int32
        let length: Int
        if address.contains(":") {
            family = AF_INET6
            length = MemoryLayout<sockaddr_in6>.size
            withUnsafeMutableBytes(of: &storage) { bytes in
                bytes.withMemoryRebound(to: sockaddr_in6.self) { socket in
                    socket[0].sin6_family = sa_family_t(AF_INET6)
                    socket[0].sin6_port = port.bigEndian
                    _ = inet_pton(AF_INET6, address, &socket[0].sin6_addr)
                }
            }
        } else {
            family = AF_INET
            length = MemoryLayout<sockaddr_in>.size
            withUnsafeMutableBytes(of: &storage) { bytes in
                bytes.withMemoryRebound(to: sockaddr_in.self) { socket in
                    socket[0].sin_family = sa_family_t(AF_INET)
                    socket[0].sin_port = port.bigEndian
                    _ = inet_pton(AF_INET, address, &socket[0].sin_addr)
                }
            }
        }
        let fd = csupport_socket_in(handle(host), family, Int32(SOCK_STREAM.rawValue), 0)
        guard fd >= 0 else { throw .errno("cannot make a socket on \(host.rawValue)", fd) }
        let result = withUnsafePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { Glibc.connect(fd, $0, socklen_t(length)) }
        }
        guard result == 0 else {
            let error = errno
            close(fd)
            throw .errno("cannot connect from \(host.rawValue) to \(address) port \(port)", error)
        }
        return fd
    }
}
