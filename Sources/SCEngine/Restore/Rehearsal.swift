// `restore --dry-run`: rebuilds a session in a throw-away network namespace, reads it again and says what would differ.

import CProc
import Glibc
import SCImage

/// One difference between the image and what this kernel made of it.
package struct Difference: Sendable, Equatable {
    package var field: String
    package var image: String
    package var rebuilt: String
}

/// Rebuilds channels in a namespace that nothing reaches. Nothing of the host is touched.
package struct Rehearsal {
    private let namespace: NetworkNamespace

    package init(for sessions: [Session]) throws(CheckpointError) {
        let datagrams = sessions.flatMap(\.locals).compactMap { if case .udp(let state) = $0.detail { state.local.address.unmapped } else { nil } }
        namespace = try makeNamespace(with: Set(sessions.flatMap { $0.channels.map(\.local.address.unmapped) } + datagrams))
    }

    /// The differences of one channel; throws what a restore would throw.
    package func run(_ channel: TCPChannel) throws(CheckpointError) -> [Difference] {
        let socket = try RestoredSocket(channel, in: namespace)
        try socket.activate()
        let copy = fcntl(socket.raw, F_DUPFD_CLOEXEC, 0)
        let held = HeldSocket(OwnedDescriptor(try check(copy, "cannot duplicate the rebuilt socket")), fd: channel.fd)
        let baseline = try OptionBaseline(in: namespace, ipv6: channel.isIPv6Socket)
        return Self.compare(channel, try held.dump(options: baseline))
    }

    /// Makes the local channels of a session with what waits in them; throws what a restore would throw.
    package func runLocals(_ session: Session) throws(CheckpointError) {
        if session.locals.isEmpty { return }
        // Any socket stands in for a connection whose descriptor is in flight.
        let stand = try namespace.socket(family: AF_INET, type: Int32(SOCK_STREAM.rawValue))
        _ = try RestoredLocals(session, connections: session.channels.map { _ in stand.raw }, in: namespace)
    }

    static func compare(_ image: TCPChannel, _ rebuilt: TCPChannel) -> [Difference] {
        var result: [Difference] = []
        func compare(_ field: String, _ a: some Equatable & CustomStringConvertible, _ b: some CustomStringConvertible) {
            if a.description != b.description { result.append(Difference(field: field, image: a.description, rebuilt: b.description)) }
        }
        compare("state", image.state.name, rebuilt.state.name)
        compare("write_seq", image.writeSeq, rebuilt.writeSeq)
        compare("rcv_nxt", image.rcvNxt, rebuilt.rcvNxt)
        compare("receive queue", "\(image.receiveQueue.count) bytes", "\(rebuilt.receiveQueue.count) bytes")
        compare("receive queue content", image.receiveQueue == rebuilt.receiveQueue ? "equal" : "as sent", "equal")
        compare("send queue", "\(image.sendQueue.count) bytes", "\(rebuilt.sendQueue.count) bytes")
        compare("send queue content", image.sendQueue == rebuilt.sendQueue ? "equal" : "as written", "equal")
        compare("mss_clamp", image.options.mssClamp, rebuilt.options.mssClamp)
        compare("snd_mss", image.sendMSS, rebuilt.sendMSS)
        compare("timestamps", image.options.timestamps, rebuilt.options.timestamps)
        compare("sack", image.options.sack, rebuilt.options.sack)
        compare("ecn", image.options.ecn, rebuilt.options.ecn)
        compare("snd_wscale", image.options.sendScale, rebuilt.options.sendScale)
        compare("rcv_wscale", image.options.receiveScale, rebuilt.options.receiveScale)
        compare("snd_wnd", image.window.sndWnd, rebuilt.window.sndWnd)
        compare("rcv_wnd", image.window.rcvWnd, rebuilt.window.rcvWnd)
        compare("snd_cwnd", image.congestionWindow, rebuilt.congestionWindow)
        compare("congestion control", image.congestionControl, rebuilt.congestionControl)
        for option in image.socketOptions where !rebuilt.socketOptions.contains(option) {
            let found = rebuilt.socketOptions.first { ($0.level, $0.name) == (option.level, option.name) }
            result.append(
                Difference(
                    field: "socket option \(option.level)/\(option.name)", image: option.value.map(hexadecimal).joined(),
                    rebuilt: found.map { $0.value.map(hexadecimal).joined() } ?? "default"))
        }
        return result
    }
}

/// A namespace with these addresses on its loopback, and every route through it.
func makeNamespace(with addresses: Set<IPAddress>) throws(CheckpointError) -> NetworkNamespace {
    let namespace = try NetworkNamespace.make()
    var lines: [String] = []
    for address in addresses where !(address.bytes.first == 127 && !address.isIPv6) && address != IPAddress("::1") {
        lines.append(address.isIPv6 ? "address add \(address)/128 dev lo nodad" : "address add \(address)/32 dev lo")
    }
    lines += ["route add default dev lo", "route add ::/0 dev lo"]
    try runChecked(["ip", "-force", "-batch", "-"], input: lines.joined(separator: "\n") + "\n", in: namespace)
    return namespace
}
