// The commit of one rebuilt connection: send queue, FINs, and the way out of repair mode, within microseconds.

import CProc
import Glibc
import SCImage

/// Everything that may cause a packet. The order is that of docs/architecture.md, "The commit".
struct Activation {
    let raw: Int32
    let channel: TCPChannel
    let namespace: NetworkNamespace

    func run() throws(CheckpointError) {
        let sent = channel.sendQueue.count - channel.unsentLength
        var tail = channel.state.finSent ? 0 : stallFreeTail(sent)
        if sent - tail > 0 { try fill(0..<(sent - tail)) }
        if tail > 0, !hasRoom() {
            try fill((sent - tail)..<sent)
            tail = 0
        }
        try leaveRepair(tail: tail)
        if tail > 0 {
            // Sent as an original transmission, its SACK tells the sender at once what was lost before it (RACK ignores a probe's SACK
            // while there is no RTT sample); Nagle and TSO deferral must not hold it back.
            _ = cproc_setsockopt_int(raw, IPPROTO_TCP_, 1 /* TCP_NODELAY */, 1)
            try write(Array(channel.sendQueue[(sent - tail)..<sent]))
            _ = cproc_setsockopt_int(raw, IPPROTO_TCP_, 1, 0)
        }
        try write(Array(channel.sendQueue[sent...]))
        try restoreFINs()
    }

    /// Goes on where a process that died in the middle of `run` has stopped. The receiving process has not begun, so every byte of the send queue since the
    /// socket was made is of this channel: those acknowledged (tcpi_bytes_acked begins at 0 on a restored socket) and those still in the queue.
    func resume() throws(CheckpointError) {
        let view = SocketView(raw)
        guard let info = view.tcpInfo else { throw CheckpointError("cannot go on with \(channel.peer)", why: "its state cannot be read") }
        let isFINQueued = info.state != UInt8(TCPState.established.rawValue) && info.state != UInt8(TCPState.closeWait.rawValue)
        let written = Int(info.bytes_acked) + Int(max(0, cproc_siocoutq(raw))) - (isFINQueued ? 1 : 0)
        let sent = channel.sendQueue.count - channel.unsentLength
        var next = written
        if view.isInRepairMode {
            if written < sent { try fill(written..<sent) }
            try leaveRepair(tail: 0)
            next = max(written, sent)
        }
        // It may have died while Nagle was off for its last segment.
        if !channel.socketOptions.contains(where: { ($0.level, $0.name) == (IPPROTO_TCP_, 1) }) {
            _ = cproc_setsockopt_int(raw, IPPROTO_TCP_, 1 /* TCP_NODELAY */, 0)
        }
        try write(Array(channel.sendQueue.dropFirst(next)))
        try restoreFINs()
    }

    /// How many of the sent bytes are written as never sent: the last segment, but only when the congestion window has room for it; with the
    /// window full it would never leave, and the peer's ACK beyond snd_nxt would be ignored for ever.
    private func stallFreeTail(_ sent: Int) -> Int {
        guard sent > 0, let info = SocketView(raw).tcpInfo else { return 0 }
        let mss = max(1, Int(min(channel.sendMSS, info.snd_mss)))
        return (sent + mss - 1) / mss < Int(info.snd_cwnd) ? min(mss, sent) : 0
    }

    /// One more segment fits the congestion window, by the kernel's own count of packets in flight: each fill of 64 KiB ends in a short segment, so the
    /// count is higher than bytes over MSS.
    private func hasRoom() -> Bool {
        guard let info = SocketView(raw).tcpInfo else { return false }
        return info.unacked + 1 < info.snd_cwnd
    }

    private func fill(_ range: Range<Int>) throws(CheckpointError) {
        let result = channel.sendQueue.withUnsafeBufferPointer { cproc_fill_queue(raw, $0.baseAddress! + range.lowerBound, range.count) }
        try check(result, "filling the send queue", advice: "The host's TCP memory is used up (net.ipv4.tcp_mem)")
    }

    private func leaveRepair(tail: Int) throws(CheckpointError) {
        // FIN_WAIT2: our FIN was acknowledged, so shutdown(2) has to count it as sent, which it does with the send queue selected.
        if channel.state == .finWait2 { try shutdownWrite() }
        // The window probe opens a stateful firewall on this host, and makes the peer repeat a window that was zero.
        let mode = tail > 0 ? CPROC_REPAIR_OFF_NO_PROBE : CPROC_REPAIR_OFF
        if channel.state == .finWait2 { try inject(flags: CPROC_TCP_ACK, acknowledging: channel.writeSeq) }
        try check(cproc_repair(raw, Int32(mode)), "leaving repair mode")
    }

    /// Writes to the live socket without ever blocking: the buffer was made large enough before.
    private func write(_ bytes: [UInt8]) throws(CheckpointError) {
        var offset = 0
        while offset < bytes.count {
            let count = bytes.withUnsafeBytes { send(raw, $0.baseAddress! + offset, bytes.count - offset, Int32(MSG_DONTWAIT | MSG_NOSIGNAL)) }
            if count < 0 {
                if errno == EINTR { continue }
                throw CheckpointError("cannot queue the unsent bytes of \(channel.peer)", result: Int(-errno))
            }
            offset += count
        }
    }

    private func restoreFINs() throws(CheckpointError) {
        switch channel.state {
        case .finWait1: try shutdownWrite()
        case .closeWait: try injectPeerFIN()
        case .lastAck:
            try injectPeerFIN()
            try shutdownWrite()
        case .closing:
            try shutdownWrite()
            try injectPeerFIN()
        default: break
        }
    }

    private func shutdownWrite() throws(CheckpointError) {
        if shutdown(raw, Int32(SHUT_WR)) < 0, errno != ENOTCONN {
            throw CheckpointError("cannot shut down the sending side of \(channel.peer)", result: Int(-errno))
        }
    }

    /// The peer's FIN has no system call: a segment that this host sends to itself brings it, acknowledging nothing new.
    private func injectPeerFIN() throws(CheckpointError) {
        try inject(
            flags: CPROC_TCP_FIN, seq: channel.rcvNxt &- 1,
            acknowledging: channel.writeSeq &- (channel.state.finSent ? 1 : 0) &- UInt32(channel.sendQueue.count))
    }

    private func inject(flags: some BinaryInteger, seq: UInt32? = nil, acknowledging ack: UInt32) throws(CheckpointError) {
        var (source, destination) = (channel.peer.onWire.endpoint, channel.local.onWire.endpoint)
        let family = source.family
        let window = UInt16(clamping: channel.window.sndWnd >> (channel.options.windowScaling ? UInt32(channel.options.sendScale) : 0))
        let result = try namespace.run { () throws(CheckpointError) -> Int32 in
            var injector: OpaquePointer?
            let opened = cproc_injector_open(family, &injector)
            guard opened >= 0 else { return opened }
            defer { cproc_injector_close(injector) }
            return cproc_inject(
                injector, &source, &destination, seq ?? channel.rcvNxt, ack, UInt8(flags) | UInt8(CPROC_TCP_ACK), window, 0)
        }
        try check(result, "cannot inject the peer's segment", advice: "Raw sockets need CAP_NET_RAW")
    }
}
