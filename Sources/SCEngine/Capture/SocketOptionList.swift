// The ordinary socket options that travel with a connection: more than CRIU saves, fewer than exist.

import CProc
import Glibc
import SCImage

/// One option of the list: how long its value is, and when on the target it is set.
package struct KnownOption: Sendable {
    package enum Moment: Sendable {
        /// While the socket is silent.
        case before
        /// After the connection is live: these push data (TCP_NODELAY, TCP_CORK).
        case after
    }

    package var level: Int32
    package var name: Int32
    package var length = 4
    package var moment = Moment.before
    /// The constant's name in the kernel's headers.
    package var label: String
}

/// The options that are read and set again. Numbers are the kernel's (include/uapi: asm-generic/socket.h, linux/tcp.h, linux/in.h, linux/in6.h).
/// Left out on purpose: SO_REUSEADDR and the buffers (handled by restore itself), what belongs to listeners (TCP_DEFER_ACCEPT, TCP_FASTOPEN),
/// what the kernel changes by itself (TCP_QUICKACK, TCP_WINDOW_CLAMP), and what belongs to a machine (SO_INCOMING_CPU).
package enum SocketOptionList {
    static let socketLevel: [KnownOption] = [
        KnownOption(level: SOL_SOCKET, name: 5, label: "SO_DONTROUTE"),
        KnownOption(level: SOL_SOCKET, name: 9, label: "SO_KEEPALIVE"),
        KnownOption(level: SOL_SOCKET, name: 10, label: "SO_OOBINLINE"),
        KnownOption(level: SOL_SOCKET, name: 12, label: "SO_PRIORITY"),
        KnownOption(level: SOL_SOCKET, name: 13, length: 8, label: "SO_LINGER"),
        KnownOption(level: SOL_SOCKET, name: 15, label: "SO_REUSEPORT"),
        KnownOption(level: SOL_SOCKET, name: 18, label: "SO_RCVLOWAT"),
        KnownOption(level: SOL_SOCKET, name: 20, length: 16, label: "SO_RCVTIMEO"),
        KnownOption(level: SOL_SOCKET, name: 21, length: 16, label: "SO_SNDTIMEO"),
        KnownOption(level: SOL_SOCKET, name: 25, length: 16, label: "SO_BINDTODEVICE"),
        KnownOption(level: SOL_SOCKET, name: 36, label: "SO_MARK"),
        KnownOption(level: SOL_SOCKET, name: 42, moment: .after, label: "SO_PEEK_OFF"),  // the fill and the peeks of a dump would move it
        KnownOption(level: SOL_SOCKET, name: 46, label: "SO_BUSY_POLL"),
        KnownOption(level: SOL_SOCKET, name: 47, length: 8, label: "SO_MAX_PACING_RATE"),
        KnownOption(level: SOL_SOCKET, name: 60, label: "SO_ZEROCOPY"),
    ]
    static let tcpLevel: [KnownOption] = [
        KnownOption(level: 6, name: 4, label: "TCP_KEEPIDLE"),
        KnownOption(level: 6, name: 5, label: "TCP_KEEPINTVL"),
        KnownOption(level: 6, name: 6, label: "TCP_KEEPCNT"),
        KnownOption(level: 6, name: 7, label: "TCP_SYNCNT"),
        KnownOption(level: 6, name: 8, label: "TCP_LINGER2"),
        KnownOption(level: 6, name: 16, label: "TCP_THIN_LINEAR_TIMEOUTS"),
        KnownOption(level: 6, name: 18, label: "TCP_USER_TIMEOUT"),
        KnownOption(level: 6, name: 25, label: "TCP_NOTSENT_LOWAT"),
        KnownOption(level: 6, name: 36, label: "TCP_INQ"),
        KnownOption(level: 6, name: 37, label: "TCP_TX_DELAY"),
        KnownOption(level: 6, name: 44, label: "TCP_RTO_MAX_MS"),
        KnownOption(level: 6, name: 1, moment: .after, label: "TCP_NODELAY"),
        KnownOption(level: 6, name: 3, moment: .after, label: "TCP_CORK"),
    ]
    static let ipv4Level: [KnownOption] = [
        KnownOption(level: 0, name: 1, label: "IP_TOS"),
        KnownOption(level: 0, name: 2, label: "IP_TTL"),
        KnownOption(level: 0, name: 8, label: "IP_PKTINFO"),
        KnownOption(level: 0, name: 10, label: "IP_MTU_DISCOVER"),
        KnownOption(level: 0, name: 11, label: "IP_RECVERR"),
        KnownOption(level: 0, name: 12, label: "IP_RECVTTL"),
        KnownOption(level: 0, name: 13, label: "IP_RECVTOS"),
        KnownOption(level: 0, name: 15, label: "IP_FREEBIND"),
        KnownOption(level: 0, name: 19, label: "IP_TRANSPARENT"),
        KnownOption(level: 0, name: 21, label: "IP_MINTTL"),
    ]
    static let ipv6Level: [KnownOption] = [
        KnownOption(level: 41, name: 16, label: "IPV6_UNICAST_HOPS"),
        KnownOption(level: 41, name: 23, label: "IPV6_MTU_DISCOVER"),
        KnownOption(level: 41, name: 25, label: "IPV6_RECVERR"),
        KnownOption(level: 41, name: 66, label: "IPV6_RECVTCLASS"),
        KnownOption(level: 41, name: 67, label: "IPV6_TCLASS"),
        KnownOption(level: 41, name: 70, label: "IPV6_AUTOFLOWLABEL"),
        KnownOption(level: 41, name: 73, label: "IPV6_MINHOPCOUNT"),
        KnownOption(level: 41, name: 75, label: "IPV6_TRANSPARENT"),
        KnownOption(level: 41, name: 78, label: "IPV6_FREEBIND"),
    ]

    static let ipv4 = socketLevel + tcpLevel + ipv4Level
    /// An IPv6 socket may carry an IPv4-mapped connection, whose TOS and TTL are then those of the IPv4 level.
    static let ipv6 = socketLevel + tcpLevel + ipv4Level + ipv6Level

    package static func all(ipv6: Bool) -> [KnownOption] { ipv6 ? self.ipv6 : ipv4 }

    /// `TCP_NODELAY`; `LEVEL/NAME` for an option that is not of a list.
    package static func label(_ option: SocketOption) -> String {
        (ipv6 + LocalBaselines.all).first { ($0.level, $0.name) == (option.level, option.name) }?.label ?? "\(option.level)/\(option.name)"
    }

    /// Whether the option pushes data and is set only on the live connection.
    static func isLate(_ option: SocketOption) -> Bool {
        switch (option.level, option.name) {
        case (6, 1), (6, 3), (SOL_SOCKET, 42): true
        default: false
        }
    }
}

/// The option values of a fresh socket of one namespace: only what differs from them is written into the image.
package final class OptionBaseline {
    private let known: [KnownOption]
    private var fresh: [[UInt8]?] = []

    /// Reads the values of a fresh TCP socket of the family in the namespace.
    package convenience init(in namespace: NetworkNamespace, ipv6: Bool) throws(CheckpointError) {
        self.init(
            of: try namespace.socket(family: ipv6 ? AF_INET6 : AF_INET, type: Int32(SOCK_STREAM.rawValue)), SocketOptionList.all(ipv6: ipv6))
    }

    /// Reads these options of a fresh socket.
    init(of socket: consuming OwnedDescriptor, _ options: [KnownOption]) {
        known = options
        let raw = socket.raw
        fresh = options.map { Self.read($0, of: raw) }
        _ = consume socket
    }

    /// The options of the socket that differ from a fresh one's.
    package func differences(of socket: Int32) -> [SocketOption] {
        var result: [SocketOption] = []
        var value: (UInt64, UInt64) = (0, 0)
        for (index, option) in known.enumerated() {
            guard let expected = fresh[index] else { continue }
            withUnsafeMutableBytes(of: &value) { buffer in
                let count = cproc_getsockopt(socket, option.level, option.name, buffer.baseAddress, UInt32(option.length))
                guard count >= 0, !buffer.prefix(Int(count)).elementsEqual(expected) else { return }
                result.append(SocketOption(level: option.level, name: option.name, value: Array(buffer.prefix(Int(count)))))
            }
        }
        return result
    }

    private static func read(_ option: KnownOption, of socket: Int32) -> [UInt8]? {
        var value = [UInt8](repeating: 0, count: option.length)
        let count = cproc_getsockopt(socket, option.level, option.name, &value, UInt32(option.length))
        return count >= 0 ? Array(value.prefix(Int(count))) : nil
    }
}

extension SocketOptionList {
    /// Options without which bind or connect would be refused on the target (IP_TRANSPARENT, IP_FREEBIND and their IPv6 twins, SO_BINDTODEVICE).
    static func needsEarly(_ channel: TCPChannel) -> Bool { channel.socketOptions.contains(where: isEarly) }

    /// An option whose loss would change what the application sees; the others are hints.
    static func isEssential(_ option: SocketOption) -> Bool {
        switch (option.level, option.name) {
        case (SOL_SOCKET, 12), (SOL_SOCKET, 25), (SOL_SOCKET, 36), (SOL_SOCKET, 46): false
        default: true
        }
    }

    private static func isEarly(_ option: SocketOption) -> Bool {
        switch (option.level, option.name) {
        case (0, 15), (0, 19), (41, 75), (41, 78), (SOL_SOCKET, 25): true
        default: false
        }
    }
}
