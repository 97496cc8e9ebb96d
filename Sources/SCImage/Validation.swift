// What a session must be like, checked alike before it is written and after it is read.

extension Session {
    /// Checks every bound of the format and the budget. `offset`: where it was read, nil when it is about to be written.
    package func validate(_ limits: ImageLimits = ImageLimits(), at offset: UInt64? = nil) throws(ImageError) {
        var check = Check(offset: offset)
        try check.budget("channels of a session", channels.count, limits.channels)
        try check.budget("application state", state.count, limits.stateBytes)
        var total = state.count
        if let adapter {
            try check.name("adapter name", adapter.name)
            try check.budget("adapter memory", adapter.bytes.count, limits.stateBytes)
            total += adapter.bytes.count
        }
        for channel in channels {
            try channel.validate(&check)
            total += channel.receiveQueue.count + channel.sendQueue.count
        }
        try validateLocals(&check, limits)
        total += locals.reduce(0) { $0 + $1.queue.count }
        try check.budget("bytes of a session", total, limits.sessionBytes)
    }
}

extension TCPChannel {
    fileprivate func validate(_ check: inout Check) throws(ImageError) {
        try check.that(fd >= -1, "descriptor \(fd)")
        try check.name("channel name", name)
        try check.end("local", local, isIPv6Socket)
        try check.end("peer", peer, isIPv6Socket)
        try check.that(state.isMovable, "TCP state \(state) cannot be moved")
        try check.budget("receive queue", receiveQueue.count, FormatBounds.queue)
        try check.budget("send queue", sendQueue.count, FormatBounds.queue)
        try check.that(
            (0...sendQueue.count).contains(unsentLength), "\(unsentLength) bytes unsent of \(sendQueue.count) in the send queue")
        for scale in [options.sendScale, options.receiveScale] {
            try check.that(Int(scale) <= FormatBounds.windowScale, "window scale \(scale)")
        }
        try check.that(
            congestionControl.utf8.count <= FormatBounds.congestionControl && !congestionControl.utf8.contains(where: isControl),
            "congestion control name \(congestionControl.debugDescription)")
        try check.options(socketOptions)
    }
}

extension Inventory {
    /// Checks the bounds of host and tool; the command is cut where it is written.
    func validate(at offset: UInt64? = nil) throws(ImageError) {
        let check = Check(offset: offset)
        try check.budget("host name", host.utf8.count, FormatBounds.label)
        try check.budget("tool", tool.utf8.count, FormatBounds.label)
        try check.budget("command", command.utf8.count, FormatBounds.command)
    }
}

/// Throws about one session, wherever it is.
struct Check {
    let offset: UInt64?

    func that(_ condition: Bool, _ what: @autoclosure () -> String) throws(ImageError) {
        guard condition else { throw .malformed(what: "\(what()) is not possible", offset: offset) }
    }

    func budget(_ what: @autoclosure () -> String, _ value: Int, _ limit: Int) throws(ImageError) {
        guard value <= limit else { throw .overBudget(what: what(), value: UInt64(value), limit: UInt64(limit), offset: offset) }
    }

    func name(_ what: String, _ name: String, _ longest: Int = FormatBounds.name) throws(ImageError) {
        let isValid =
            (1...longest).contains(name.utf8.count)
            && !name.utf8.contains { isControl($0) || $0 == UInt8(ascii: ":") }
        try that(isValid, "\(what) \(name.debugDescription)")
    }

    func options(_ options: [SocketOption]) throws(ImageError) {
        try budget("socket options", options.count, FormatBounds.socketOptions)
        for option in options {
            try budget("value of socket option \(option.level)/\(option.name)", option.value.count, FormatBounds.socketOptionValue)
        }
    }

    func end(_ which: String, _ end: SocketAddress, _ isIPv6Socket: Bool) throws(ImageError) {
        try that(end.address.isIPv6 == isIPv6Socket, "\(which) address of another family than the socket's")
        try that(end.port != 0, "\(which) port 0")
        try that(end.scope == 0 || end.address.isLinkLocal, "\(which) scope \(end.scope) of an address that is not link-local")
    }
}

func isControl(_ byte: UInt8) -> Bool { byte < 0x20 || byte == 0x7f }
