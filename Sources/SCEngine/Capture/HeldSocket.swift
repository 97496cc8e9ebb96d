// One socket of the source, from the lock to its return or its silent end.
//
//   lock ──> dump ──> give back        the session goes on at the source
//                └──> let go           tcp_disconnect in repair mode: no FIN, no RST; the server sees an aborted client
//
// The order of the calls in `dump` decides correctness (docs/architecture.md, "The dump"): the receive queue first, the send queue last and left
// selected, because tcp_write_xmit() transmits nothing new only while TCP_SEND_QUEUE is selected; the sent/unsent split after that.

import CProc
import Glibc
import SCImage

/// A duplicate of a source process's socket, and what has to be put back when the session stays.
package final class HeldSocket {
    private let descriptor: OwnedDescriptor
    package let fd: Int32
    /// Bytes of the connection that were moved before this socket existed (earlier hosts); added to the kernel's counters.
    package var base: (written: UInt64, read: UInt64) = (0, 0)

    /// Data bytes that the kernel counts as written and read on this socket, at the dump.
    private(set) package var counted: (written: UInt64, read: UInt64) = (0, 0)

    private var reuseAddress: Int32 = 0
    private var ownFilter: [UInt64] = []
    private var isLocked = false
    private var wasSilent = false
    private var isInRepair = false
    private(set) package var isLetGo = false

    private static let peekOff: Int32 = 42  // SO_PEEK_OFF

    package var raw: Int32 { descriptor.raw }
    package var view: SocketView { SocketView(descriptor.raw) }

    /// Takes over `descriptor`, a duplicate of descriptor `fd` of the source process.
    package init(_ descriptor: consuming OwnedDescriptor, fd: Int32) {
        self.descriptor = descriptor
        self.fd = fd
    }

    deinit { giveBack() }

    /// Notes what the return will put back; read while the session runs, so that a journal can hold it before anything is touched.
    package func remember() throws(CheckpointError) {
        reuseAddress = view.option(SOL_SOCKET, SO_REUSEADDR) ?? 0
        let count = cproc_get_filter(raw, nil, 0)
        if count > 0 {
            ownFilter = [UInt64](repeating: 0, count: Int(count))
            try check(cproc_get_filter(raw, &ownFilter, UInt32(count)), "cannot read the socket's own filter")
        }
    }

    /// Drops every arriving segment from now on, by a filter that all sockets share; the socket's own filter is kept for the return.
    package func lock(with program: Int32) throws(CheckpointError) {
        try remember()
        try check(
            cproc_attach_program(raw, program), "cannot silence descriptor \(fd)",
            advice: "A filter on TCP needs CAP_NET_ADMIN, and SO_LOCK_FILTER forbids it")
        (isLocked, wasSilent) = (true, true)
    }

    /// Reads the whole state of the connection. Afterwards the socket is in repair mode with the send queue selected, so that it transmits nothing new.
    package func dump(options baseline: OptionBaseline) throws(CheckpointError) -> TCPChannel {
        reuseAddress = view.option(SOL_SOCKET, SO_REUSEADDR) ?? 0
        let socketOptions = baseline.differences(of: raw)
        // With SO_PEEK_OFF a peek would begin at the offset, and move it (measured: 2 became 6).
        let peekOffset = view.option(SOL_SOCKET, Self.peekOff) ?? -1
        if peekOffset >= 0 { _ = cproc_setsockopt_int(raw, SOL_SOCKET, Self.peekOff, -1) }
        defer { if peekOffset >= 0 { _ = cproc_setsockopt_int(raw, SOL_SOCKET, Self.peekOff, peekOffset) } }
        try check(
            cproc_repair(raw, Int32(CPROC_REPAIR_ON)), "cannot put descriptor \(fd) into repair mode",
            advice: "TCP_REPAIR needs CAP_NET_ADMIN in the socket's network namespace")
        isInRepair = true

        guard let local = view.local, let peer = view.peer, let info = view.tcpInfo, let state = TCPState(rawValue: info.state), state.isMovable
        else {
            throw CheckpointError(
                "descriptor \(fd) cannot be captured", why: "the connection ended meanwhile", errno: ENOTCONN, advice: "Nothing is left to move")
        }
        // It may have come after the session was found movable. A peek would end before it, and its byte be lost.
        guard !view.hasUrgentData else {
            throw CheckpointError(
                "descriptor \(fd) cannot be captured", why: "urgent data waits to be read (MSG_OOB); it would be lost", errno: EBUSY,
                advice: "The session stays where it is")
        }
        var channel = TCPChannel(local: local, peer: peer)
        channel.fd = fd
        channel.state = state
        channel.isIPv6Socket = local.address.isIPv6
        channel.socketOptions = socketOptions
        try readNegotiated(info, into: &channel)
        try readQueues(into: &channel)
        try readWindow(into: &channel)
        channel.sendBuffer = UInt32(max(0, view.option(SOL_SOCKET, SO_SNDBUF) ?? 0))
        channel.receiveBuffer = UInt32(max(0, view.option(SOL_SOCKET, SO_RCVBUF) ?? 0))
        channel.bufferLock = UInt32(max(0, view.option(SOL_SOCKET, 72 /* SO_BUF_LOCK */) ?? 0))
        try countBytes(into: &channel)
        return channel
    }

    private func readNegotiated(_ info: cproc_tcp_info, into channel: inout TCPChannel) throws(CheckpointError) {
        channel.options.timestamps = info.timestamps != 0
        channel.options.sack = info.sack != 0
        channel.options.windowScaling = info.wscale != 0
        channel.options.ecn = info.ecn != 0
        channel.options.sendScale = info.snd_scale
        channel.options.receiveScale = info.rcv_scale
        // In repair mode TCP_MAXSEG gives mss_clamp, not the current MSS.
        channel.options.mssClamp = UInt16(clamping: view.option(IPPROTO_TCP_, 2 /* TCP_MAXSEG */) ?? 536)
        channel.sendMSS = info.snd_mss
        channel.congestionWindow = info.snd_cwnd
        var name = [UInt8](repeating: 0, count: 16)
        let count = cproc_getsockopt(raw, IPPROTO_TCP_, 13 /* TCP_CONGESTION */, &name, 16)
        channel.congestionControl = String(decoding: name.prefix(max(0, Int(count))).prefix { $0 != 0 }, as: UTF8.self)
        if channel.options.timestamps {
            try check(cproc_timestamp(raw, &channel.timestamp), "cannot read the timestamp clock of descriptor \(fd)")
        }
    }

    private func readQueues(into channel: inout TCPChannel) throws(CheckpointError) {
        try select(CPROC_QUEUE_RECV)
        try check(cproc_queue_seq(raw, &channel.rcvNxt), "cannot read rcv_nxt of descriptor \(fd)")
        channel.receiveQueue = try peek(Int(max(0, cproc_siocinq(raw))), "receive")
        try select(CPROC_QUEUE_SEND)
        try check(cproc_queue_seq(raw, &channel.writeSeq), "cannot read write_seq of descriptor \(fd)")
        let fin = channel.state.finSent ? 1 : 0
        channel.sendQueue = try peek(max(0, Int(cproc_siocoutq(raw)) - fin), "send")
        let unsent = Int(try check(cproc_siocoutqnsd(raw), "cannot read the unsent length of descriptor \(fd)"))
        // An unsent FIN counts in SIOCOUTQNSD; it is never part of the queue's bytes.
        channel.unsentLength = min(max(0, unsent - (unsent > 0 ? fin : 0)), channel.sendQueue.count)
    }

    private func select(_ queue: Int) throws(CheckpointError) {
        try check(cproc_repair_queue(raw, Int32(queue)), "cannot select a queue of descriptor \(fd)")
    }

    /// Peeks `expected` bytes of the selected queue. Any other count (EIO) means that the queue moved meanwhile, which only an unlocked dump allows,
    /// or that the peek stopped at something this tool does not carry.
    private func peek(_ expected: Int, _ which: String) throws(CheckpointError) -> [UInt8] {
        if expected == 0 { return [] }
        var failure: CheckpointError?
        let bytes = [UInt8](unsafeUninitializedCapacity: expected + 1) { buffer, count in
            let result = cproc_peek_queue(raw, buffer.baseAddress, expected + 1)
            count = max(0, min(result, expected + 1))
            if result < 0 { failure = CheckpointError("cannot read the \(which) queue of descriptor \(fd)", result: result) }
        }
        if let failure { throw failure }
        guard bytes.count == expected else {
            throw CheckpointError(
                "cannot read the \(which) queue of descriptor \(fd)", why: "\(bytes.count) of \(expected) bytes could be read",
                errno: EIO, advice: "The session stays where it is")
        }
        return bytes
    }

    private func readWindow(into channel: inout TCPChannel) throws(CheckpointError) {
        var window = cproc_window()
        try check(cproc_window(raw, &window), "cannot read the window of descriptor \(fd)")
        channel.window.sndWl1 = window.snd_wl1
        channel.window.sndWnd = window.snd_wnd
        channel.window.maxWindow = window.max_window
        channel.window.rcvWnd = window.rcv_wnd
        channel.window.rcvWup = window.rcv_wup
    }

    /// tcpi_bytes_acked and tcpi_bytes_received restart at 0 on every restored socket; `base` carries the rest.
    private func countBytes(into channel: inout TCPChannel) throws(CheckpointError) {
        guard let info = view.tcpInfo else { throw CheckpointError("cannot read TCP_INFO of descriptor \(fd)", why: "the socket is gone") }
        // The kernel counts the SYN or FIN that was acknowledged with the data (tcp_snd_una_update): the FIN only after all data.
        let finAcked: UInt64 = channel.state == .finWait2 ? 1 : 0
        counted.written = info.bytes_acked &- finAcked &+ UInt64(channel.sendQueue.count)
        channel.bytesWritten = base.written &+ counted.written
        let finRead: UInt64 = channel.state.finReceived ? 1 : 0
        counted.read = info.bytes_received &- finRead &- UInt64(channel.receiveQueue.count)
        channel.bytesRead = base.read &+ counted.read
    }

    /// What a change of the connection between two moments shows in: compared to prove that an unlocked dump saw one state.
    package var movement: [UInt64] {
        guard let info = view.tcpInfo else { return [] }
        return [info.bytes_acked, info.bytes_received, UInt64(info.state), UInt64(info.unacked)]
    }

    /// Gives the session back to the source process: repair mode off, own filter and SO_REUSEADDR as they were. Harmless when nothing was taken.
    /// `probe` sends one window probe, which makes the peer tell its window again.
    package func giveBack(probe: Bool = false) {
        guard !isLetGo else { return }
        // The filter goes first, so that the answer to the probe is heard.
        if isLocked {
            _ = ownFilter.isEmpty ? cproc_detach_filter(raw) : cproc_set_filter(raw, ownFilter, UInt32(ownFilter.count))
            isLocked = false
        }
        if isInRepair {
            _ = cproc_repair(raw, Int32(probe ? CPROC_REPAIR_OFF : CPROC_REPAIR_OFF_NO_PROBE))
            // Leaving repair mode clears sk_reuse (net/ipv4/tcp.c): a restarted server could not bind its port.
            _ = cproc_setsockopt_int(raw, SOL_SOCKET, SO_REUSEADDR, reuseAddress)
            isInRepair = false
        }
    }

    /// Sends a window probe, if this object has silenced the socket before and given it back.
    package func askForWindow() {
        guard !isLetGo, wasSilent, !isLocked else { return }
        _ = cproc_repair(raw, Int32(CPROC_REPAIR_ON))
        isInRepair = true
        giveBack(probe: true)
    }

    /// Ends the connection at the source without a packet: the server sees an aborted client and closes its descriptor.
    package func letGo() throws(CheckpointError) {
        try check(cproc_disconnect(raw), "cannot let go of descriptor \(fd)")
        isInRepair = true
        _ = cproc_repair(raw, Int32(CPROC_REPAIR_OFF_NO_PROBE))
        _ = cproc_setsockopt_int(raw, SOL_SOCKET, SO_REUSEADDR, reuseAddress)
        _ = cproc_detach_filter(raw)
        (isInRepair, isLocked, isLetGo) = (false, false, true)
    }

    /// Ends the connection for both: out of repair mode, tcp_disconnect() sends RST, and the server sees an aborted client. What this host says must
    /// reach the client again.
    package func abort() {
        guard !isLetGo else { return }
        _ = cproc_detach_filter(raw)
        if isInRepair { _ = cproc_repair(raw, Int32(CPROC_REPAIR_OFF_NO_PROBE)) }
        _ = cproc_disconnect(raw)
        _ = cproc_setsockopt_int(raw, SOL_SOCKET, SO_REUSEADDR, reuseAddress)
        (isInRepair, isLocked, isLetGo) = (false, false, true)
    }

    /// A second descriptor of the same socket.
    package func duplicate() throws(CheckpointError) -> OwnedDescriptor { try descriptor.duplicate() }

    /// Leaves lock and repair mode in place beyond the life of this tool (`snapshot --take`).
    package func keepHeld() { (isInRepair, isLocked) = (false, false) }

    /// The values `resume` needs to give a held socket back later, by another run of the tool.
    package var record: (reuseAddress: Int32, ownFilter: [UInt64]) { (reuseAddress, ownFilter) }

    /// Continues a hold of an earlier run. How far that had come, the kernel tells: a socket that was not touched yet stays untouched, since a running
    /// server that reads it in repair mode gets EPERM and gives it up.
    package func adopt(reuseAddress: Int32, ownFilter: [UInt64]) {
        (self.reuseAddress, self.ownFilter) = (reuseAddress, ownFilter)
        isInRepair = view.isInRepairMode
        // An eBPF filter, which is not handed out, is ours: a socket with one of its own is never taken.
        isLocked = cproc_get_filter(raw, nil, 0) == -EACCES
        wasSilent = isLocked
    }
}
