// The socket options that travel with Unix and UDP sockets: those in which they differ from fresh ones.

import CProc
import Glibc
import SCImage

/// Fresh sockets' option values, by kind. Numbers are the kernel's (include/uapi: asm-generic/socket.h, linux/in.h, linux/in6.h, linux/udp.h).
package final class LocalBaselines {
    private let namespace: NetworkNamespace
    private var baselines: [String: OptionBaseline] = [:]

    package init(in namespace: NetworkNamespace) { self.namespace = namespace }

    private static let common: [KnownOption] = [
        KnownOption(level: SOL_SOCKET, name: 12, label: "SO_PRIORITY"),
        KnownOption(level: SOL_SOCKET, name: 18, label: "SO_RCVLOWAT"),
        KnownOption(level: SOL_SOCKET, name: 20, length: 16, label: "SO_RCVTIMEO"),
        KnownOption(level: SOL_SOCKET, name: 21, length: 16, label: "SO_SNDTIMEO"),
        KnownOption(level: SOL_SOCKET, name: 29, label: "SO_TIMESTAMP"),
        KnownOption(level: SOL_SOCKET, name: 35, label: "SO_TIMESTAMPNS"),
        KnownOption(level: SOL_SOCKET, name: 42, moment: .after, label: "SO_PEEK_OFF"),
    ]
    private static let unix =
        common + [
            KnownOption(level: SOL_SOCKET, name: 16, label: "SO_PASSCRED"),
            KnownOption(level: SOL_SOCKET, name: 34, label: "SO_PASSSEC"),
            KnownOption(level: SOL_SOCKET, name: 76, label: "SO_PASSPIDFD"),
            KnownOption(level: SOL_SOCKET, name: 83, label: "SO_PASSRIGHTS"),
        ]
    private static let udp =
        common + [
            KnownOption(level: SOL_SOCKET, name: 2, label: "SO_REUSEADDR"),
            KnownOption(level: SOL_SOCKET, name: 5, label: "SO_DONTROUTE"),
            KnownOption(level: SOL_SOCKET, name: 6, label: "SO_BROADCAST"),
            KnownOption(level: SOL_SOCKET, name: 15, label: "SO_REUSEPORT"),
            KnownOption(level: SOL_SOCKET, name: 36, label: "SO_MARK"),
            KnownOption(level: 17, name: 101, label: "UDP_NO_CHECK6_TX"),
            KnownOption(level: 17, name: 103, label: "UDP_SEGMENT"),
            KnownOption(level: 17, name: 104, label: "UDP_GRO"),
        ] + SocketOptionList.ipv4Level
    private static let udp6 =
        udp + SocketOptionList.ipv6Level + [
            KnownOption(level: 41, name: 26, label: "IPV6_V6ONLY"),
            KnownOption(level: 41, name: 49, label: "IPV6_RECVPKTINFO"),
        ]

    /// All of them.
    static let all = unix + udp6

    /// SO_RCVLOWAT would hold back what a peek asks for, and SO_PEEK_OFF is the capture's own: both are set when the queue is in its place.
    static func isLate(_ option: SocketOption) -> Bool { option.level == SOL_SOCKET && (option.name == 42 || option.name == 18) }

    func differences(of socket: Int32, _ detail: LocalChannel.Detail) throws(CheckpointError) -> [SocketOption] {
        switch detail {
        case .unix(let state): try baseline("unix \(state.type)", Self.unix, AF_UNIX, state.type).differences(of: socket)
        case .udp(let state):
            state.local.address.isIPv6
                ? try baseline("udp6", Self.udp6, AF_INET6, Int32(SOCK_DGRAM.rawValue)).differences(of: socket)
                : try baseline("udp", Self.udp, AF_INET, Int32(SOCK_DGRAM.rawValue)).differences(of: socket)
        default: []
        }
    }

    private func baseline(_ key: String, _ options: [KnownOption], _ family: Int32, _ type: Int32) throws(CheckpointError) -> OptionBaseline {
        if let known = baselines[key] { return known }
        let baseline = OptionBaseline(of: try namespace.socket(family: family, type: type), options)
        baselines[key] = baseline
        return baseline
    }
}
