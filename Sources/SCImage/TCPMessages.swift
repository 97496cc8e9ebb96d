// One TCP connection between its Swift value and its message; the queues are records of their own.

internal import CSCImage

extension FrameWriter {
    /// Writes a channel's record, without its queues.
    mutating func writeMessage(_ channel: TCPChannel, _ arena: inout RecordArena) throws(ImageError) {
        arena.reset()
        var message = unsafe Sc__Image__TCPChannel()
        unsafe sc__image__tcpchannel__init(&message)
        unsafe message.local = try arena.lend(channel.local)
        unsafe message.peer = try arena.lend(channel.peer)
        unsafe (message.write_seq, message.rcv_nxt) = (channel.writeSeq, channel.rcvNxt)
        unsafe (message.has_fd, message.fd) = (present(channel.fd != -1), channel.fd)
        let negotiated = channel.options.bits
        unsafe (message.has_negotiated, message.negotiated) = (present(negotiated != 0), negotiated)
        let scales = UInt32(channel.options.sendScale) | UInt32(channel.options.receiveScale) << 4
        unsafe (message.has_scales, message.scales) = (present(scales != 0), scales)
        let mssClamp = UInt32(channel.options.mssClamp)
        unsafe (message.has_mss_clamp, message.mss_clamp) = (present(mssClamp != 0), mssClamp)
        unsafe setWindow(channel, &message)
        unsafe (message.has_timestamp, message.timestamp) = (present(channel.timestamp != 0), channel.timestamp)
        if !channel.congestionControl.isEmpty {
            unsafe (message.has_congestion_control, message.congestion_control) = try (1, arena.lend(channel.congestionControl))
        }
        unsafe (message.has_send_buffer, message.send_buffer) = (present(channel.sendBuffer != 0), channel.sendBuffer)
        unsafe (message.has_receive_buffer, message.receive_buffer) = (present(channel.receiveBuffer != 0), channel.receiveBuffer)
        unsafe (message.has_buffer_lock, message.buffer_lock) = (present(channel.bufferLock != 0), channel.bufferLock)
        unsafe (message.has_send_mss, message.send_mss) = (present(channel.sendMSS != 0), channel.sendMSS)
        unsafe (message.has_congestion_window, message.congestion_window) =
            (present(channel.congestionWindow != 0), channel.congestionWindow)
        unsafe (message.has_bytes_written, message.bytes_written) = (present(channel.bytesWritten != 0), channel.bytesWritten)
        unsafe (message.has_bytes_read, message.bytes_read) = (present(channel.bytesRead != 0), channel.bytesRead)
        unsafe (message.has_state, message.state) = (present(channel.state != .established), UInt32(channel.state.rawValue))
        unsafe setLengths(channel, &message)
        if channel.name != "tcp" {
            unsafe (message.has_name, message.name) = try (1, arena.lend(channel.name))
        }
        unsafe (message.has_local_scope, message.local_scope) = (present(channel.local.scope != 0), channel.local.scope)
        unsafe (message.has_peer_scope, message.peer_scope) = (present(channel.peer.scope != 0), channel.peer.scope)
        if !channel.socketOptions.isEmpty {
            unsafe (message.n_options, message.options) = try (channel.socketOptions.count, arena.lend(channel.socketOptions))
        }
        try unsafe write(.tcpChannel, length: sc__image__tcpchannel__get_packed_size(&message)) {
            unsafe sc__image__tcpchannel__pack(&message, $0)
        }
    }
}

/// A message's `has_` flag: defaults are left out.
func present(_ condition: Bool) -> protobuf_c_boolean { condition ? 1 : 0 }

@unsafe private func setWindow(_ channel: TCPChannel, _ message: inout Sc__Image__TCPChannel) {
    let window = channel.window
    unsafe (message.has_snd_wnd, message.snd_wnd) = (present(window.sndWnd != 0), window.sndWnd)
    unsafe (message.has_max_window, message.max_window) = (present(window.maxWindow != 0), window.maxWindow)
    unsafe (message.has_rcv_wnd, message.rcv_wnd) = (present(window.rcvWnd != 0), window.rcvWnd)
    unsafe message.snd_wl1_behind = channel.rcvNxt &- window.sndWl1
    unsafe message.has_snd_wl1_behind = unsafe present(message.snd_wl1_behind != 0)
    unsafe message.rcv_wup_behind = channel.rcvNxt &- window.rcvWup
    unsafe message.has_rcv_wup_behind = unsafe present(message.rcv_wup_behind != 0)
}

@unsafe private func setLengths(_ channel: TCPChannel, _ message: inout Sc__Image__TCPChannel) {
    unsafe (message.has_receive_length, message.receive_length) =
        (present(!channel.receiveQueue.isEmpty), UInt64(channel.receiveQueue.count))
    unsafe (message.has_send_length, message.send_length) = (present(!channel.sendQueue.isEmpty), UInt64(channel.sendQueue.count))
    unsafe (message.has_unsent_length, message.unsent_length) = (present(channel.unsentLength != 0), UInt64(channel.unsentLength))
}

/// A TCPChannel record: the channel without its queues, and how long they are.
struct TCPChannelRecord {
    var channel: TCPChannel
    var receiveLength: Int
    var sendLength: Int
}

extension RecordArena {
    @unsafe mutating func lend(
        _ options: [SocketOption]
    ) throws(ImageError) -> UnsafeMutablePointer<UnsafeMutablePointer<Sc__Image__SocketOption>?> {
        let (messages, pointers) = try unsafe messages(Sc__Image__SocketOption.self, options.count)
        for (index, option) in options.enumerated() {
            unsafe sc__image__socket_option__init(messages + index)
            unsafe (messages[index].level, messages[index].name) = (option.level, option.name)
            unsafe messages[index].value = try lend(option.value)
        }
        return unsafe pointers
    }

    @unsafe mutating func tcpChannel(
        _ bytes: UnsafeRawBufferPointer, at offset: UInt64
    ) throws(ImageError) -> TCPChannelRecord {
        let message = try unsafe unpack(bytes, "TCPChannel", at: offset, by: sc__image__tcpchannel__unpack).pointee
        var channel = TCPChannel(
            local: try unsafe message.local.socketAddress("local", scope: message.local_scope, at: offset),
            peer: try unsafe message.peer.socketAddress("peer", scope: message.peer_scope, at: offset))
        channel.isIPv6Socket = channel.local.address.isIPv6
        unsafe (channel.writeSeq, channel.rcvNxt, channel.fd) = (message.write_seq, message.rcv_nxt, message.fd)
        channel.options = try TCPNegotiated(
            bits: unsafe message.negotiated, scales: unsafe message.scales, mssClamp: unsafe message.mss_clamp, at: offset)
        unsafe channel.window.sndWnd = message.snd_wnd
        unsafe channel.window.maxWindow = message.max_window
        unsafe channel.window.rcvWnd = message.rcv_wnd
        unsafe channel.window.sndWl1 = channel.rcvNxt &- message.snd_wl1_behind
        unsafe channel.window.rcvWup = channel.rcvNxt &- message.rcv_wup_behind
        unsafe channel.timestamp = message.timestamp
        channel.congestionControl = try unsafe message.congestion_control.text("congestion control name", at: offset)
        unsafe (channel.sendBuffer, channel.receiveBuffer) = (message.send_buffer, message.receive_buffer)
        unsafe channel.bufferLock = message.buffer_lock
        unsafe (channel.sendMSS, channel.congestionWindow) = (message.send_mss, message.congestion_window)
        unsafe (channel.bytesWritten, channel.bytesRead) = (message.bytes_written, message.bytes_read)
        guard let state = unsafe UInt8(exactly: message.state).flatMap(TCPState.init(rawValue:)) else {
            throw .malformed(what: "TCP state \(unsafe message.state)", offset: offset)
        }
        channel.state = state
        if unsafe message.has_name != 0 { channel.name = try unsafe message.name.text("channel name", at: offset) }
        channel.socketOptions = try unsafe socketOptions(message.options, message.n_options, at: offset)
        let receiveLength = try unsafe length(message.receive_length, "receive queue", FormatBounds.queue, offset)
        let sendLength = try unsafe length(message.send_length, "send queue", FormatBounds.queue, offset)
        channel.unsentLength = try unsafe length(message.unsent_length, "unsent bytes", sendLength, offset)
        return TCPChannelRecord(channel: channel, receiveLength: receiveLength, sendLength: sendLength)
    }
}

@unsafe func socketOptions(
    _ messages: UnsafeMutablePointer<UnsafeMutablePointer<Sc__Image__SocketOption>?>?, _ count: Int, at offset: UInt64
) throws(ImageError) -> [SocketOption] {
    _ = try length(UInt64(count), "socket options", FormatBounds.socketOptions, offset)
    return unsafe UnsafeBufferPointer(start: messages, count: count).compactMap { option in
        guard let option = unsafe option?.pointee else { return nil }
        return unsafe SocketOption(level: option.level, name: option.name, value: option.value.array)
    }
}

extension TCPNegotiated {
    /// The bits of `tcp_info.tcpi_options`.
    fileprivate var bits: UInt32 { (timestamps ? 1 : 0) | (sack ? 2 : 0) | (windowScaling ? 4 : 0) | (ecn ? 8 : 0) }

    fileprivate init(bits: UInt32, scales: UInt32, mssClamp: UInt32, at offset: UInt64) throws(ImageError) {
        guard bits < 16 else { throw .malformed(what: "negotiated options 0x\(String(bits, radix: 16))", offset: offset) }
        guard scales < 256 else { throw .malformed(what: "window scales 0x\(String(scales, radix: 16))", offset: offset) }
        guard let clamp = UInt16(exactly: mssClamp) else { throw .malformed(what: "MSS \(mssClamp)", offset: offset) }
        self.init()
        (timestamps, sack, windowScaling, ecn) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 8 != 0)
        (sendScale, receiveScale, self.mssClamp) = (UInt8(scales & 15), UInt8(scales >> 4), clamp)
    }
}
