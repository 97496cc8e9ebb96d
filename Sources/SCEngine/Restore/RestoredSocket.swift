// One connection rebuilt from an image: first silent, then live.
//
//   prepare ──> activate      the connection speaks
//          └──> discard       closed in repair mode: nothing goes on the wire
//
// `prepare` does everything but the send queue: writing that arms the retransmission timer, and a timeout during a long hold would drop the
// congestion window to one segment (docs/architecture.md, "The commit").

import CProc
import Glibc
import SCImage

/// A socket that becomes the connection of `channel`: a fresh one, or one that an unmodified server already holds.
package final class RestoredSocket {
    private let descriptor: OwnedDescriptor
    package let channel: TCPChannel
    private let namespace: NetworkNamespace
    private let isInPlace: Bool
    private var isLive = false

    package var raw: Int32 { descriptor.raw }

    /// A fresh socket in the namespace.
    package convenience init(_ channel: TCPChannel, in namespace: NetworkNamespace) throws(CheckpointError) {
        let family = channel.isIPv6Socket ? AF_INET6 : AF_INET
        try self.init(
            channel, onto: namespace.socket(family: family, type: Int32(SOCK_STREAM.rawValue), protocol: 6), in: namespace, isInPlace: false)
    }

    /// Rebuilds the connection in `descriptor`. In place, the socket's former connection is dropped without a packet; the open file description
    /// stays, so the server's epoll, poll and io_uring registrations stay valid.
    package init(
        _ channel: TCPChannel, onto descriptor: consuming OwnedDescriptor, in namespace: NetworkNamespace, isInPlace: Bool
    ) throws(CheckpointError) {
        self.descriptor = descriptor
        self.channel = channel
        self.namespace = namespace
        self.isInPlace = isInPlace
        do throws(CheckpointError) {
            try prepare()
        } catch {
            throw error.during("cannot rebuild \(channel.local) <- \(channel.peer)")
        }
    }

    /// A socket that another process has rebuilt, and perhaps begun to activate, before it died.
    package init(adopting descriptor: consuming OwnedDescriptor, _ channel: TCPChannel, in namespace: NetworkNamespace, isInPlace: Bool) {
        self.descriptor = descriptor
        (self.channel, self.namespace, self.isInPlace) = (channel, namespace, isInPlace)
    }

    deinit {
        if !isLive { discard() }
    }

    private func prepare() throws(CheckpointError) {
        try check(cproc_repair(raw, Int32(CPROC_REPAIR_ON)), "repair mode", advice: "TCP_REPAIR needs CAP_NET_ADMIN")
        if isInPlace {
            try check(cproc_disconnect(raw), "dropping the socket's former connection")
            // The prelude came in with a mark (tcp_fwmark_accept), which would route the answers to this host.
            _ = cproc_setsockopt_int(raw, SOL_SOCKET, SO_MARK, 0)
        }
        try bindAndSetSequence()
        try setBuffers()
        if !channel.congestionControl.isEmpty { setCongestionControl() }
        try connect()
        try setNegotiated()
        try fillReceiveQueue()
        try setWindow()
        try setOptions(late: false)
        try check(cproc_repair_queue(raw, Int32(CPROC_QUEUE_SEND)), "selecting the send queue")
        // A dropped former connection leaves ECONNABORTED behind; reading it clears it.
        if isInPlace { _ = SocketView(raw).option(SOL_SOCKET, SO_ERROR) }
    }

    private func bindAndSetSequence() throws(CheckpointError) {
        if SocketOptionList.needsEarly(channel) { try setOptions(late: false, quietly: true) }
        var local = channel.local.endpoint
        let result = cproc_bind(raw, &local)
        // A socket that was bound by an attempt before this one stays bound (SOCK_BINDPORT_LOCK), and a second bind is EINVAL.
        if result != -EINVAL || !isInPlace || SocketView(raw).local != channel.local {
            try check(
                result, "bind to \(channel.local)",
                advice: "Give this host the service's address (ip address add \(channel.local.address) dev lo), or move the address first")
        }
        // The FINs are not bytes of the queues: ours is put back by shutdown(2), the peer's by an injected segment.
        let fin = (sent: UInt32(channel.state.finSent ? 1 : 0), received: UInt32(channel.state.finReceived ? 1 : 0))
        try check(cproc_repair_queue(raw, Int32(CPROC_QUEUE_RECV)), "selecting the receive queue")
        try check(cproc_set_queue_seq(raw, channel.rcvNxt &- fin.received &- UInt32(channel.receiveQueue.count)), "setting rcv_nxt")
        try check(cproc_repair_queue(raw, Int32(CPROC_QUEUE_SEND)), "selecting the send queue")
        try check(cproc_set_queue_seq(raw, channel.writeSeq &- fin.sent &- UInt32(channel.sendQueue.count)), "setting write_seq")
        if channel.options.timestamps { try check(cproc_set_timestamp(raw, channel.timestamp), "setting the timestamp clock") }
    }

    /// The kernel accounts skb overhead too, so a queue of n bytes needs more than n; SO_*BUFFORCE doubles its argument.
    private func setBuffers() throws(CheckpointError) {
        let receive = max(Int32(clamping: channel.receiveBuffer / 2), Int32(clamping: channel.receiveQueue.count + 65536))
        let send = max(Int32(clamping: channel.sendBuffer / 2), Int32(clamping: channel.sendQueue.count * 2 + 65536))
        try check(cproc_setsockopt_int(raw, SOL_SOCKET, 33 /* SO_RCVBUFFORCE */, receive), "setting SO_RCVBUF")
        try check(cproc_setsockopt_int(raw, SOL_SOCKET, 32 /* SO_SNDBUFFORCE */, send), "setting SO_SNDBUF")
    }

    /// Not every host has every algorithm; the connection then keeps the host's default, as a new one would.
    private func setCongestionControl() {
        var name = Array(channel.congestionControl.utf8)
        _ = cproc_setsockopt(raw, IPPROTO_TCP_, 13, &name, UInt32(name.count))
    }

    private func connect() throws(CheckpointError) {
        // mss_cache is computed at connect from the clamp of 536; IPv4 can recompute it later (cproc_resync_mss), IPv6 only by TCP_MAXSEG before.
        let needsMaxSeg = channel.local.address.isIPv6 && !channel.local.address.isIPv4Mapped
        if needsMaxSeg {
            try check(
                cproc_setsockopt_int(raw, IPPROTO_TCP_, 2, Int32(min(channel.options.mssClamp, 32767))), "setting TCP_MAXSEG")
        }
        var peer = channel.peer.endpoint
        let window = InitialWindow(for: channel)
        let result = cproc_connect(raw, &peer)
        _ = consume window
        let advice =
            switch -result {
            case EADDRNOTAVAIL: "Another socket of this host holds this 4-tuple; is the session still here?"
            case ENETUNREACH, EHOSTUNREACH: "Add a route to \(channel.peer.address)"
            default: ""
            }
        try check(result, "connect to \(channel.peer) (silent)", advice: advice)
        if needsMaxSeg { _ = cproc_setsockopt_int(raw, IPPROTO_TCP_, 2, 0) }
    }

    private func setNegotiated() throws(CheckpointError) {
        var options = cproc_negotiated()
        options.mss_clamp = channel.options.mssClamp
        options.timestamps = channel.options.timestamps ? 1 : 0
        options.sack = channel.options.sack ? 1 : 0
        options.wscale = channel.options.windowScaling ? 1 : 0
        options.snd_scale = channel.options.sendScale
        options.rcv_scale = channel.options.receiveScale
        try check(cproc_set_negotiated(raw, &options), "setting what the SYNs negotiated")
    }

    private func fillReceiveQueue() throws(CheckpointError) {
        guard !channel.receiveQueue.isEmpty else { return }
        try check(cproc_repair_queue(raw, Int32(CPROC_QUEUE_RECV)), "selecting the receive queue")
        try check(
            cproc_fill_queue(raw, channel.receiveQueue, channel.receiveQueue.count), "filling the receive queue",
            advice: "The host's TCP memory is used up (net.ipv4.tcp_mem)")
    }

    private func setWindow() throws(CheckpointError) {
        var window = cproc_window()
        window.snd_wl1 = channel.window.sndWl1
        window.snd_wnd = channel.window.sndWnd
        window.max_window = channel.window.maxWindow
        window.rcv_wnd = channel.window.rcvWnd
        window.rcv_wup = channel.window.rcvWup
        if channel.state.finReceived {
            // The injected FIN must fall into the window, and rcv_nxt is one less until it arrives.
            window.rcv_wup &-= 1
            window.rcv_wnd &+= 1
        }
        try check(cproc_set_window(raw, &window), "setting the window")
        if !channel.local.address.isIPv6 || channel.local.address.isIPv4Mapped { _ = cproc_resync_mss(raw) }
    }

    /// Sets the image's options of one moment. An option that this kernel does not know is left out: the connection lives without it.
    private func setOptions(late: Bool, quietly: Bool = false) throws(CheckpointError) {
        for option in channel.socketOptions where SocketOptionList.isLate(option) == late {
            let result = cproc_setsockopt(raw, option.level, option.name, option.value, UInt32(option.value.count))
            if result < 0, result != -ENOPROTOOPT, result != -EOPNOTSUPP, !quietly, SocketOptionList.isEssential(option) {
                try check(result, "setting socket option \(option.level)/\(option.name)")
            }
        }
    }

    /// Makes the connection live. The caller has made packets of the flow reach this host.
    package func activate() throws(CheckpointError) {
        isLive = true
        try Activation(raw: raw, channel: channel, namespace: namespace).run()
        try settle()
    }

    /// The same after a crash in the middle of it: what the dead process has done is not done again.
    package func resumeActivation() throws(CheckpointError) {
        isLive = true
        try Activation(raw: raw, channel: channel, namespace: namespace).resume()
        try settle()
    }

    private func settle() throws(CheckpointError) {
        try setOptions(late: true)
        // The queues needed more room than the application has; with it, a server would write megabytes ahead, and more after every move.
        _ = cproc_setsockopt_int(raw, SOL_SOCKET, 32 /* SO_SNDBUFFORCE */, Int32(clamping: channel.sendBuffer / 2))
        _ = cproc_setsockopt_int(raw, SOL_SOCKET, 33 /* SO_RCVBUFFORCE */, Int32(clamping: channel.receiveBuffer / 2))
        // SO_BUF_LOCK: a forced buffer size alone would switch autotuning off for ever.
        _ = cproc_setsockopt_int(raw, SOL_SOCKET, 72, Int32(bitPattern: channel.bufferLock))
        // Leaving repair mode clears it, and a server that restarts could not bind its port beside this connection.
        _ = cproc_setsockopt_int(raw, SOL_SOCKET, SO_REUSEADDR, 1)
    }

    /// Drops the rebuilt connection without a packet. In place, the server sees an aborted client.
    package func discard() {
        if isInPlace {
            _ = cproc_disconnect(raw)
            _ = cproc_repair(raw, Int32(CPROC_REPAIR_OFF_NO_PROBE))
        }
    }
}
