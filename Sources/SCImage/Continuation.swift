// A continuation as values: what a session is, apart from any process, socket or file.

/// One client's conversation with a server, made into a value.
package struct Session: Equatable, Sendable {
    /// 16 random bytes that name the session for its whole life, over any number of moves.
    package var id: SessionID
    /// The TCP connections. An index of a channel counts these first, then `locals`.
    package var channels: [TCPChannel]
    /// What joins the session's processes: pipes, Unix sockets, UDP sockets, files.
    package var locals: [LocalChannel] = []
    /// The processes that serve the session, with the descriptors of each; empty when they are not told apart.
    package var processes: [SessionProcess] = []
    /// What the application said of itself; opaque here.
    package var state: [UInt8]
    /// The adapter that knows the server's protocol position (`http`, …) and what it has to remember; nil without one.
    package var adapter: AdapterState?

    package init(
        id: SessionID, channels: [TCPChannel], locals: [LocalChannel] = [], processes: [SessionProcess] = [], state: [UInt8] = [],
        adapter: AdapterState? = nil
    ) {
        (self.id, self.channels, self.locals, self.processes) = (id, channels, locals, processes)
        (self.state, self.adapter) = (state, adapter)
    }
}

/// 16 random bytes; printed as 32 hexadecimal digits.
package struct SessionID: Hashable, Sendable {
    package let high: UInt64
    package let low: UInt64
    package init(high: UInt64, low: UInt64) { (self.high, self.low) = (high, low) }
    package static func random() -> SessionID { SessionID(high: .random(in: 0 ... .max), low: .random(in: 0 ... .max)) }
}

/// What an adapter has to know to bring another server to the same position of its protocol.
package struct AdapterState: Equatable, Sendable {
    package var name: String
    package var bytes: [UInt8]
    package init(name: String, bytes: [UInt8]) { (self.name, self.bytes) = (name, bytes) }
}

/// The states of RFC 9293 that a movable connection can be in, by the kernel's numbers (`include/net/tcp_states.h`).
package enum TCPState: UInt8, Sendable, CaseIterable {
    case established = 1
    case synSent, synReceived, finWait1, finWait2, timeWait, close, closeWait, lastAck, listen, closing

    /// We have sent, or queued, our FIN: it takes one sequence number at the end of the send queue.
    package var finSent: Bool {
        switch self {
        case .finWait1, .finWait2, .lastAck, .closing: true
        default: false
        }
    }
    /// The peer's FIN has arrived: it takes one sequence number at the end of the receive queue.
    package var finReceived: Bool {
        switch self {
        case .closeWait, .lastAck, .closing: true
        default: false
        }
    }
    /// A connection in this state can be captured and restored.
    package var isMovable: Bool {
        switch self {
        case .established, .finWait1, .finWait2, .closeWait, .lastAck, .closing: true
        default: false
        }
    }
}

/// The state of one TCP connection. Sequence numbers wrap; lengths are bytes.
package struct TCPChannel: Equatable, Sendable {
    /// The descriptor's number in the source process, and a name for `LISTEN_FDNAMES`.
    package var fd: Int32 = -1
    package var name: String = "tcp"

    /// An `AF_INET6` socket; its addresses may still be IPv4-mapped.
    package var isIPv6Socket = false
    package var local: SocketAddress
    package var peer: SocketAddress
    package var state: TCPState = .established

    /// write_seq: the sequence number after the last byte of the send queue (and after our FIN).
    package var writeSeq: UInt32 = 0
    /// rcv_nxt: the sequence number after the last byte of the receive queue (and after the peer's FIN).
    package var rcvNxt: UInt32 = 0
    /// Bytes at the end of `sendQueue` that were never transmitted.
    package var unsentLength = 0

    /// Received, acknowledged and not read by the application.
    package var receiveQueue: [UInt8] = []
    /// Written by the application and not acknowledged by the peer: first what was sent, then `unsentLength` that was not.
    package var sendQueue: [UInt8] = []

    package var options = TCPNegotiated()
    package var window = TCPWindow()

    /// The timestamp clock (TCP_TIMESTAMP) at capture; the low bit says that it counts microseconds. Meaningful with `options.timestamps`.
    package var timestamp: UInt32 = 0
    /// snd_mss and snd_cwnd at capture, for the stall-free resume.
    package var sendMSS: UInt32 = 0
    package var congestionWindow: UInt32 = 0
    package var congestionControl: String = ""

    /// SO_SNDBUF and SO_RCVBUF as the kernel reports them (doubled), and SO_BUF_LOCK's bits.
    package var sendBuffer: UInt32 = 0
    package var receiveBuffer: UInt32 = 0
    package var bufferLock: UInt32 = 0

    /// Socket options whose value differs from that of a fresh socket on the source.
    package var socketOptions: [SocketOption] = []

    /// Data bytes the application has written since the connection began, over all its moves (acknowledged + `sendQueue`).
    package var bytesWritten: UInt64 = 0
    /// Data bytes the application has read since the connection began, over all its moves.
    package var bytesRead: UInt64 = 0

    package init(local: SocketAddress, peer: SocketAddress) { (self.local, self.peer) = (local, peer) }

    /// The same connection after the application has written `bytes` more, none of which was sent yet.
    package func appending(_ bytes: [UInt8]) -> TCPChannel {
        if bytes.isEmpty { return self }
        var channel = self
        channel.sendQueue += bytes
        channel.unsentLength += bytes.count
        channel.writeSeq &+= UInt32(truncatingIfNeeded: bytes.count)
        channel.bytesWritten &+= UInt64(bytes.count)
        return channel
    }
}

/// What both ends agreed on in their SYNs (RFC 7323, RFC 2018, RFC 3168).
package struct TCPNegotiated: Equatable, Sendable {
    package var timestamps = false
    package var sack = false
    package var windowScaling = false
    package var ecn = false
    /// snd_wscale and rcv_wscale, 0...14.
    package var sendScale: UInt8 = 0
    package var receiveScale: UInt8 = 0
    /// mss_clamp: the peer's MSS option.
    package var mssClamp: UInt16 = 0

    package init() {}
}

/// The five numbers of `struct tcp_repair_window`.
package struct TCPWindow: Equatable, Sendable {
    package var sndWl1: UInt32 = 0
    package var sndWnd: UInt32 = 0
    package var maxWindow: UInt32 = 0
    package var rcvWnd: UInt32 = 0
    package var rcvWup: UInt32 = 0

    package init() {}
}

/// One `setsockopt`: level and name by the kernel's numbers, and the raw value.
package struct SocketOption: Equatable, Sendable {
    package var level: Int32
    package var name: Int32
    package var value: [UInt8]
    package init(level: Int32, name: Int32, value: [UInt8]) { (self.level, self.name, self.value) = (level, name, value) }
}

/// Where and when an image was made.
package struct Inventory: Equatable, Sendable {
    package var host = ""
    package var tool = ""
    package var pid: Int32 = 0
    package var command = ""
    /// Seconds since the epoch.
    package var createdAt: UInt64 = 0

    package init() {}
}
