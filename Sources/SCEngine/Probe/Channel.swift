// What `inspect` says of one descriptor: the channel's kind, ends, queues, and whether it can move.

import CProc
import Glibc
import SCImage

/// A descriptor of a process, seen as a channel of a session.
package struct Channel: Sendable, Equatable {
    package enum Kind: String, Sendable { case tcp, udp, unix, pipe, file, other }

    package var fd: Int32
    package var kind: Kind
    /// The TCP or Unix state in capitals, `ESTABLISHED`; for files and pipes the access mode.
    package var state: String
    /// `IP:PORT`, IPv6 in brackets; a path; empty where there is none.
    package var local = ""
    package var peer = ""
    package var receiveQueue = 0
    package var sendQueue = 0
    /// Why it cannot be moved; nil when it can.
    package var reason: String?

    package var isMovable: Bool { reason == nil }

    /// The kernel's number of the socket, pipe or file.
    package var inode: UInt64 = 0
    /// Unix sockets: the inode of the other end; 0 when it is not known.
    package var peerInode: UInt64 = 0
    /// TCP: both ends as values.
    package var localAddress: SocketAddress?
    package var peerAddress: SocketAddress?
    package var tcpState: TCPState?
}

extension TCPState {
    /// The state's name as netstat(8) and RFC 9293 write it.
    package var name: String {
        switch self {
        case .established: "ESTABLISHED"
        case .synSent: "SYN_SENT"
        case .synReceived: "SYN_RECV"
        case .finWait1: "FIN_WAIT1"
        case .finWait2: "FIN_WAIT2"
        case .timeWait: "TIME_WAIT"
        case .close: "CLOSE"
        case .closeWait: "CLOSE_WAIT"
        case .lastAck: "LAST_ACK"
        case .listen: "LISTEN"
        case .closing: "CLOSING"
        }
    }
}

extension IPAddress {
    /// Parses an address as inet_pton(3) does; nil when it is none.
    package init?(_ text: some StringProtocol) {
        var bytes = [UInt8](repeating: 0, count: 16)
        if inet_pton(AF_INET, String(text), &bytes) == 1 {
            self.init(bytes: bytes.prefix(4))
        } else if inet_pton(AF_INET6, String(text), &bytes) == 1 {
            self.init(bytes: bytes)
        } else {
            return nil
        }
    }
}

extension SocketAddress {
    /// The address as the C layer takes it.
    package var endpoint: cproc_endpoint {
        var endpoint = cproc_endpoint()
        endpoint.family = UInt16(address.isIPv6 ? AF_INET6 : AF_INET)
        endpoint.port = port
        endpoint.scope = scope
        withUnsafeMutableBytes(of: &endpoint.address) { $0.copyBytes(from: address.bytes) }
        return endpoint
    }

    /// An address from the C layer; nil for another family.
    package init?(_ endpoint: cproc_endpoint) {
        let bytes = withUnsafeBytes(of: endpoint.address) { Array($0) }
        let address: IPAddress?
        switch Int32(endpoint.family) {
        case AF_INET: address = IPAddress(bytes: bytes.prefix(4))
        case AF_INET6: address = IPAddress(bytes: bytes)
        default: address = nil
        }
        guard let address else { return nil }
        self.init(address, port: endpoint.port, scope: endpoint.scope)
    }
}
