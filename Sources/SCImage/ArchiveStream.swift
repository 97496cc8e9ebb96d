// Archive entries as records: one at the end of each image's file, all of them in the index.

internal import CSCImage

/// Writes entries one after the other.
package struct ArchiveEntryWriter<Sink: ByteSink>: ~Copyable {
    private var frames: FrameWriter<Sink>
    private var arena: RecordArena

    /// Begins a stream of entries.
    package init(_ sink: Sink) throws(ImageError) {
        let arena = try RecordArena(budget: ImageLimits().arenaBytes)
        frames = try FrameWriter(sink, kind: .archive)
        self.arena = arena
    }

    package var sink: Sink { frames.sink }

    package mutating func write(_ entry: ArchiveEntry) throws(ImageError) {
        try entry.validate()
        arena.reset()
        var message = unsafe Sc__Archive__Entry()
        unsafe sc__archive__entry__init(&message)
        unsafe message.id = try arena.lend(entry.id)
        unsafe (message.added_at, message.reason) = (entry.addedAt, entry.reason.rawValue)
        unsafe (message.image_length, message.body_length) = (entry.imageLength, entry.bodyLength)
        unsafe (message.has_created_at, message.created_at) = (1, entry.inventory.createdAt)
        unsafe (message.has_pid, message.pid) = (1, entry.inventory.pid)
        unsafe (message.has_host, message.host) = try (1, arena.lend(entry.inventory.host))
        unsafe (message.has_tool, message.tool) = try (1, arena.lend(entry.inventory.tool))
        unsafe (message.has_command, message.command) = try (entry.inventory.command.isEmpty ? 0 : 1, arena.lend(entry.inventory.command))
        unsafe (message.has_service, message.service) = try (entry.service.isEmpty ? 0 : 1, arena.lend(entry.service))
        unsafe (message.has_note, message.note) = try (entry.note.isEmpty ? 0 : 1, arena.lend(entry.note))
        unsafe (message.has_failure, message.failure) = try (entry.failure.isEmpty ? 0 : 1, arena.lend(entry.failure))
        let tags = try unsafe arena.allocate(ProtobufCBinaryData.self, entry.tags.count)
        for (index, tag) in entry.tags.enumerated() { unsafe (tags + index).initialize(to: try arena.lend(tag)) }
        unsafe (message.n_tags, message.tags) = (entry.tags.count, tags)
        unsafe (message.has_sessions, message.sessions) = (1, entry.sessions)
        unsafe (message.has_channels, message.channels) = (1, entry.channels)
        unsafe (message.has_flows, message.flows) = try (entry.flows.isEmpty ? 0 : 1, arena.lend(entry.flows))
        unsafe (message.has_flows_left_out, message.flows_left_out) = (entry.flowsLeftOut == 0 ? 0 : 1, entry.flowsLeftOut)
        unsafe (message.has_session_ids, message.session_ids) = try (entry.sessionIDs.isEmpty ? 0 : 1, arena.lend(entry.sessionIDs))
        unsafe (message.has_format_version, message.format_version) = (1, UInt32(entry.formatVersion))
        unsafe (message.has_redacted, message.redacted) = (entry.isRedacted ? 1 : 0, entry.isRedacted ? 1 : 0)
        unsafe (message.has_recipients, message.recipients) = try (entry.recipients.isEmpty ? 0 : 1, arena.lend(entry.recipients))
        try unsafe frames.write(.archiveEntry, length: sc__archive__entry__get_packed_size(&message)) {
            unsafe sc__archive__entry__pack(&message, $0)
        }
    }

    /// Hands everything so far to the sink.
    package mutating func flush() throws(ImageError) { try frames.flush() }
}

/// Reads entries one after the other, in constant memory.
package struct ArchiveEntryReader<Source: ByteSource>: ~Copyable {
    private var frames: FrameReader<Source>
    private var arena: RecordArena

    package init(_ source: Source) throws(ImageError) {
        let arena = try RecordArena(budget: ImageLimits().arenaBytes)
        frames = try FrameReader(source, kind: .archive)
        self.arena = arena
    }

    /// The next entry; nil where the stream ends between two.
    package mutating func next() throws(ImageError) -> ArchiveEntry? {
        guard let header = try frames.nextKnown() else { return nil }
        guard header.type == .archiveEntry else { throw .unexpectedRecord(header.type, offset: header.offset) }
        return try unsafe frames.message(header) { bytes throws(ImageError) in
            try unsafe arena.archiveEntry(bytes, at: header.offset)
        }
    }
}

extension RecordArena {
    @unsafe fileprivate mutating func archiveEntry(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(ImageError) -> ArchiveEntry {
        let message = try unsafe unpack(bytes, "ArchiveEntry", at: offset, by: sc__archive__entry__unpack).pointee
        var entry = unsafe ArchiveEntry(id: message.id.array)
        // An unknown reason is a newer program's; the image is no less there.
        unsafe (entry.addedAt, entry.reason) = (message.added_at, ArchiveReason(rawValue: message.reason) ?? .manual)
        unsafe (entry.imageLength, entry.bodyLength) = (message.image_length, message.body_length)
        unsafe (entry.inventory.createdAt, entry.inventory.pid) = (message.created_at, message.pid)
        entry.inventory.host = try unsafe message.host.text("host name", at: offset)
        entry.inventory.tool = try unsafe message.tool.text("tool", at: offset)
        entry.inventory.command = try unsafe message.command.text("command", at: offset)
        entry.service = try unsafe message.service.text("service", at: offset)
        entry.note = try unsafe message.note.text("note", at: offset)
        entry.failure = try unsafe message.failure.text("failure", at: offset)
        for index in 0..<(unsafe message.n_tags) { entry.tags.append(try unsafe message.tags[index].text("tag", at: offset)) }
        unsafe (entry.sessions, entry.channels) = (message.sessions, message.channels)
        unsafe (entry.flows, entry.flowsLeftOut, entry.sessionIDs) = (message.flows.array, message.flows_left_out, message.session_ids.array)
        entry.formatVersion = unsafe UInt16(clamping: message.format_version)
        unsafe (entry.isRedacted, entry.recipients) = (message.redacted != 0, message.recipients.array)
        try entry.validate(at: offset)
        return entry
    }
}

extension ArchiveEntry {
    /// The bounds of `images/archive.proto`.
    func validate(at offset: UInt64? = nil) throws(ImageError) {
        func bound(_ what: String, _ value: Int, _ limit: Int) throws(ImageError) {
            guard value <= limit else { throw .overBudget(what: what, value: UInt64(value), limit: UInt64(limit), offset: offset) }
        }
        guard id.count == 32 else { throw .malformed(what: "an archive entry's id of \(id.count) bytes", offset: offset) }
        guard flows.count % FlowKey.size == 0, sessionIDs.count % 16 == 0, recipients.count % 8 == 0 else {
            throw .malformed(what: "a list of an archive entry is cut", offset: offset)
        }
        try bound("service name", service.utf8.count, FormatBounds.label)
        try bound("note", note.utf8.count, Self.noteCapacity)
        try bound("failure", failure.utf8.count, Self.noteCapacity)
        try bound("tags", tags.count, 256)
        for tag in tags { try bound("tag", tag.utf8.count, Self.tagCapacity) }
        try bound("connections of an archive entry", flows.count, Self.flowCapacity * FlowKey.size)
        try bound("sessions of an archive entry", sessionIDs.count, Self.flowCapacity * 16)
        try bound("recipients", recipients.count, 256 * 8)
        try inventory.validate(at: offset)
    }
}
