// What happened to a session between two images of it: what the server read and wrote, what the client got, which options changed.

import SCEngine
import SCImage

/// The difference of one session.
package struct SessionDifference: Sendable {
    /// Between two images of one TCP connection.
    package struct Connection: Sendable {
        package var local, peer: String
        /// Bytes that came from the client, that the server read, that it wrote, and that the client acknowledged.
        package var received, read, written, acknowledged: UInt64
        /// Of those that the server read, the ones that the first image had in its receive queue.
        package var readContent: [UInt8]
        /// Of those that the server wrote, the ones that the second image has in its send queue.
        package var writtenContent: [UInt8]
        /// Field, before, after.
        package var changes: [(field: String, before: String, after: String)]
        /// What cannot be if both are of one connection, the first before the second.
        package var contradiction: String?
    }

    package var id: SessionID
    package var connections: [Connection] = []
    package var changes: [(field: String, before: String, after: String)] = []

    package init(_ before: Session, _ after: Session) {
        id = before.id
        func compare(_ field: String, _ a: String, _ b: String) { if a != b { changes.append((field, a, b)) } }
        compare("application state", Self.summary(before.state), Self.summary(after.state))
        compare("adapter", before.adapter?.name ?? "-", after.adapter?.name ?? "-")
        compare("adapter's memory", Self.summary(before.adapter?.bytes ?? []), Self.summary(after.adapter?.bytes ?? []))
        compare("processes", before.processes.map(\.role).joined(separator: " "), after.processes.map(\.role).joined(separator: " "))
        for tcp in before.channels {
            guard let other = after.channels.first(where: { $0.peer.onWire == tcp.peer.onWire && $0.local.onWire == tcp.local.onWire }) else {
                changes.append(("connection \(tcp.peer.onWire)", tcp.state.name, "gone"))
                continue
            }
            connections.append(Connection(tcp, other))
        }
        for tcp in after.channels where !before.channels.contains(where: { $0.peer.onWire == tcp.peer.onWire && $0.local.onWire == tcp.local.onWire }) {
            changes.append(("connection \(tcp.peer.onWire)", "not there", tcp.state.name))
        }
        compareLocals(before, after)
    }

    private mutating func compareLocals(_ before: Session, _ after: Session) {
        guard before.locals.map(\.kind) == after.locals.map(\.kind) else {
            changes.append(("local channels", before.locals.map(\.kind).joined(separator: " "), after.locals.map(\.kind).joined(separator: " ")))
            return
        }
        for (index, (one, other)) in zip(before.locals, after.locals).enumerated() {
            let name = "channel \(before.channels.count + index) (\(one.kind))"
            if one.queue != other.queue { changes.append(("\(name) queue", Self.summary(one.queue), Self.summary(other.queue))) }
            if case .file(let a) = one.detail, case .file(let b) = other.detail, a.position != b.position {
                changes.append(("\(name) position", String(a.position), String(b.position)))
            }
            changes += optionChanges(one.socketOptions, other.socketOptions).map { ("\(name) \($0.field)", $0.before, $0.after) }
        }
    }

    private static func summary(_ bytes: [UInt8]) -> String {
        bytes.isEmpty ? "none" : "\(bytes.count) bytes, SHA-256 \(hexadecimalText(((try? sha256(bytes)) ?? []).prefix(4)))…"
    }
}

extension SessionDifference.Connection {
    init(_ before: TCPChannel, _ after: TCPChannel) {
        (local, peer) = (before.local.onWire.description, before.peer.onWire.description)
        (read, written) = (after.bytesRead &- before.bytesRead, after.bytesWritten &- before.bytesWritten)
        let came = { (channel: TCPChannel) in channel.bytesRead &+ UInt64(channel.receiveQueue.count) }
        let gone = { (channel: TCPChannel) in channel.bytesWritten &- UInt64(channel.sendQueue.count) }
        (received, acknowledged) = (came(after) &- came(before), gone(after) &- gone(before))
        readContent = Array(before.receiveQueue.prefix(Int(clamping: read)))
        writtenContent = Array(after.sendQueue.suffix(Int(clamping: written)))
        changes = []
        func compare(_ field: String, _ a: some CustomStringConvertible, _ b: some CustomStringConvertible) {
            if a.description != b.description { changes.append((field, a.description, b.description)) }
        }
        compare("state", before.state.name, after.state.name)
        compare("receive queue", before.receiveQueue.count, after.receiveQueue.count)
        compare("send queue", before.sendQueue.count, after.sendQueue.count)
        compare("never sent", before.unsentLength, after.unsentLength)
        compare("rcv_nxt", before.rcvNxt, after.rcvNxt)
        compare("write_seq", before.writeSeq, after.writeSeq)
        compare("snd_wnd", before.window.sndWnd, after.window.sndWnd)
        compare("rcv_wnd", before.window.rcvWnd, after.window.rcvWnd)
        compare("snd_mss", before.sendMSS, after.sendMSS)
        compare("snd_cwnd", before.congestionWindow, after.congestionWindow)
        compare("congestion control", before.congestionControl, after.congestionControl)
        compare("SO_SNDBUF", before.sendBuffer, after.sendBuffer)
        compare("SO_RCVBUF", before.receiveBuffer, after.receiveBuffer)
        changes += optionChanges(before.socketOptions, after.socketOptions)
        let largest = UInt64(1) << 62
        if [read, written, received, acknowledged].contains(where: { $0 > largest }) {
            contradiction = "the second image is the older one"
        } else if UInt32(truncatingIfNeeded: written) != after.writeSeq &- before.writeSeq &- (after.state.finSent && !before.state.finSent ? 1 : 0) {
            contradiction = "write_seq and the count of written bytes do not agree: it is another connection with the same addresses"
        }
    }
}

private func optionChanges(_ before: [SocketOption], _ after: [SocketOption]) -> [(field: String, before: String, after: String)] {
    var result: [(field: String, before: String, after: String)] = []
    func value(_ options: [SocketOption], _ option: SocketOption) -> String {
        options.first { ($0.level, $0.name) == (option.level, option.name) }.map(optionText) ?? "default"
    }
    for option in before + after.filter({ new in !before.contains { ($0.level, $0.name) == (new.level, new.name) } }) {
        let (a, b) = (value(before, option), value(after, option))
        if a != b { result.append((SocketOptionList.label(option), a, b)) }
    }
    return result
}

/// An option's value: a number when it is an int, hexadecimal digits otherwise.
package func optionText(_ option: SocketOption) -> String {
    guard option.value.count == 4 else { return hexadecimalText(option.value) }
    return String(Int32(bitPattern: option.value.reversed().reduce(0) { $0 << 8 | UInt32($1) }))
}
