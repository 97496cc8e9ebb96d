// Inventory, SessionHeader and End between Swift values and their messages.

internal import CSCImage

extension FrameWriter {
    /// Writes the inventory; its command line is cut at 4,096 bytes.
    mutating func write(_ inventory: Inventory, _ arena: inout RecordArena) throws(ImageError) {
        var inventory = inventory
        inventory.command = inventory.command.cut(FormatBounds.command)
        try inventory.validate()
        arena.reset()
        var message = unsafe Sc__Image__Inventory()
        unsafe sc__image__inventory__init(&message)
        unsafe (message.has_host, message.host) = try (inventory.host.isEmpty ? 0 : 1, arena.lend(inventory.host))
        unsafe (message.has_tool, message.tool) = try (inventory.tool.isEmpty ? 0 : 1, arena.lend(inventory.tool))
        unsafe (message.has_command, message.command) = try (inventory.command.isEmpty ? 0 : 1, arena.lend(inventory.command))
        unsafe (message.has_pid, message.pid) = (inventory.pid == 0 ? 0 : 1, inventory.pid)
        unsafe (message.has_created_at, message.created_at) = (inventory.createdAt == 0 ? 0 : 1, inventory.createdAt)
        try unsafe write(.inventory, length: sc__image__inventory__get_packed_size(&message)) {
            unsafe sc__image__inventory__pack(&message, $0)
        }
    }

    /// Writes the header of a session.
    mutating func writeHeader(_ session: Session, _ arena: inout RecordArena) throws(ImageError) {
        arena.reset()
        var message = unsafe Sc__Image__SessionHeader()
        unsafe sc__image__session_header__init(&message)
        unsafe (message.id_high, message.id_low) = (session.id.high, session.id.low)
        unsafe (message.has_channels, message.channels) = (session.channels.count == 1 ? 0 : 1, UInt32(session.channels.count))
        unsafe (message.has_state_length, message.state_length) = (session.state.isEmpty ? 0 : 1, UInt64(session.state.count))
        unsafe (message.has_local_channels, message.local_channels) = (present(!session.locals.isEmpty), UInt32(session.locals.count))
        unsafe (message.has_processes, message.processes) = (present(!session.processes.isEmpty), UInt32(session.processes.count))
        if let adapter = session.adapter {
            unsafe (message.has_adapter, message.adapter) = try (1, arena.lend(adapter.name))
            unsafe message.adapter_length = UInt64(adapter.bytes.count)
            unsafe message.has_adapter_length = adapter.bytes.isEmpty ? 0 : 1
        }
        try unsafe write(.session, length: sc__image__session_header__get_packed_size(&message)) {
            unsafe sc__image__session_header__pack(&message, $0)
        }
    }

    /// Writes the End record.
    mutating func write(_ end: ImageEnd, _ arena: inout RecordArena) throws(ImageError) {
        arena.reset()
        var message = unsafe Sc__Image__End()
        unsafe sc__image__end__init(&message)
        unsafe (message.sessions, message.channels, message.records) = (end.sessions, end.channels, end.records)
        unsafe message.sha256 = try arena.lend(end.sha256)
        try unsafe write(.end, length: sc__image__end__get_packed_size(&message)) {
            unsafe sc__image__end__pack(&message, $0)
        }
    }
}

/// The End record's counts and digest.
struct ImageEnd: Equatable {
    var sessions: UInt64
    var channels: UInt64
    var records: UInt64
    var sha256: [UInt8]
}

/// The SessionHeader record.
struct SessionHeader {
    var id: SessionID
    var channels: Int
    var locals: Int
    var processes: Int
    var stateLength: Int
    var adapter: String?
    var adapterLength: Int
}

extension RecordArena {
    @unsafe mutating func inventory(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(ImageError) -> Inventory {
        let message = try unsafe unpack(bytes, "Inventory", at: offset, by: sc__image__inventory__unpack).pointee
        var inventory = Inventory()
        inventory.host = try unsafe message.host.text("host name", at: offset)
        inventory.tool = try unsafe message.tool.text("tool", at: offset)
        inventory.command = try unsafe message.command.text("command", at: offset)
        unsafe (inventory.pid, inventory.createdAt) = (message.pid, message.created_at)
        try inventory.validate(at: offset)
        return inventory
    }

    @unsafe mutating func sessionHeader(
        _ bytes: UnsafeRawBufferPointer, _ limits: ImageLimits, at offset: UInt64
    ) throws(ImageError) -> SessionHeader {
        let message = try unsafe unpack(bytes, "SessionHeader", at: offset, by: sc__image__session_header__unpack).pointee
        let stateLength = try unsafe length(message.state_length, "application state", limits.stateBytes, offset)
        let adapterLength = try unsafe length(message.adapter_length, "adapter memory", limits.stateBytes, offset)
        let channels = try unsafe length(UInt64(message.channels), "channels of a session", limits.channels, offset)
        let locals = try unsafe length(UInt64(message.local_channels), "local channels of a session", limits.channels, offset)
        let processes = try unsafe length(UInt64(message.processes), "processes of a session", limits.channels, offset)
        let adapter = try unsafe message.has_adapter != 0 ? message.adapter.text("adapter name", at: offset) : nil
        guard adapter != nil || adapterLength == 0 else {
            throw .malformed(what: "adapter memory without an adapter", offset: offset)
        }
        return unsafe SessionHeader(
            id: SessionID(high: message.id_high, low: message.id_low), channels: channels, locals: locals, processes: processes,
            stateLength: stateLength, adapter: adapter, adapterLength: adapterLength)
    }

    @unsafe mutating func end(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(ImageError) -> ImageEnd {
        let message = try unsafe unpack(bytes, "End", at: offset, by: sc__image__end__unpack).pointee
        return unsafe ImageEnd(
            sessions: message.sessions, channels: message.channels, records: message.records, sha256: message.sha256.array)
    }
}

/// A length or count that an image states, within its budget.
func length(_ value: UInt64, _ what: String, _ limit: Int, _ offset: UInt64) throws(ImageError) -> Int {
    guard value <= limit else { throw .overBudget(what: what, value: value, limit: UInt64(limit), offset: offset) }
    return Int(value)
}

extension String {
    /// The longest beginning of whole characters that takes at most `limit` bytes.
    package func cut(_ limit: Int) -> String {
        guard utf8.count > limit else { return self }
        var length = 0
        return String(
            unicodeScalars.prefix {
                length += UTF8.width($0)
                return length <= limit
            })
    }
}
