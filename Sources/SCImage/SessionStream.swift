// One session as a run of records: header, each channel with its queues, processes, adapter memory, state.

/// Writes sessions into any stream of frames.
struct SessionEncoder: ~Copyable {
    let limits: ImageLimits
    var arena: RecordArena

    init(_ limits: ImageLimits) throws(ImageError) {
        self.limits = limits
        arena = try RecordArena(budget: limits.arenaBytes)
    }

    /// Writes one session, after checking that a reader with the same limits will take it: one that it would not take
    /// leaves the stream as it was.
    mutating func write<Sink>(_ session: Session, to frames: inout FrameWriter<Sink>) throws(ImageError) {
        try session.validate(limits)
        try frames.guarded { frames throws(ImageError) in
            try frames.writeHeader(session, &arena)
            for channel in session.channels {
                try frames.writeMessage(channel, &arena)
                try frames.write(.receiveQueue, bulk: channel.receiveQueue)
                try frames.write(.sendQueue, bulk: channel.sendQueue)
            }
            for channel in session.locals {
                try frames.writeMessage(channel, &arena)
                try frames.write(.localQueue, bulk: channel.queue)
            }
            for process in session.processes { try frames.writeMessage(process, &arena) }
            if let adapter = session.adapter { try frames.write(.adapter, bulk: adapter.bytes) }
            try frames.write(.state, bulk: session.state)
        }
    }
}

/// Reads sessions out of any stream of frames.
struct SessionDecoder: ~Copyable {
    let limits: ImageLimits
    var arena: RecordArena

    init(_ limits: ImageLimits) throws(ImageError) {
        self.limits = limits
        arena = try RecordArena(budget: limits.arenaBytes)
    }

    /// Reads the session whose Session record is `header`.
    mutating func session<Source>(_ header: RecordHeader, from frames: inout FrameReader<Source>) throws(ImageError) -> Session {
        let opening = try unsafe frames.message(header) { bytes throws(ImageError) in
            try unsafe arena.sessionHeader(bytes, limits, at: header.offset)
        }
        var budget = Budget(left: limits.sessionBytes, limit: limits.sessionBytes)
        var session = Session(id: opening.id, channels: [])
        session.channels.reserveCapacity(opening.channels)
        for index in 0..<opening.channels {
            let record = try next(.tcpChannel, "channels", index, of: opening.channels, from: &frames)
            session.channels.append(try channel(record, from: &frames, &budget))
        }
        for index in 0..<opening.locals {
            let record = try next(.localChannel, "local channels", index, of: opening.locals, from: &frames)
            var (channel, length) = try unsafe frames.message(record) { bytes throws(ImageError) in
                try unsafe arena.localChannel(bytes, at: record.offset)
            }
            channel.queue = try bulk(.localQueue, length, from: &frames, &budget)
            session.locals.append(channel)
        }
        for index in 0..<opening.processes {
            let record = try next(.process, "processes", index, of: opening.processes, from: &frames)
            session.processes.append(
                try unsafe frames.message(record) { bytes throws(ImageError) in try unsafe arena.process(bytes, at: record.offset) })
        }
        if let name = opening.adapter {
            let bytes = try bulk(.adapter, opening.adapterLength, from: &frames, &budget)
            session.adapter = AdapterState(name: name, bytes: bytes)
        }
        session.state = try bulk(.state, opening.stateLength, from: &frames, &budget)
        try session.validate(limits, at: header.offset)
        return session
    }

    /// The header of the next record, which has to be of this type: one of `count` that were announced.
    private func next<Source>(
        _ type: RecordType, _ what: String, _ index: Int, of count: Int, from frames: inout FrameReader<Source>
    ) throws(ImageError) -> RecordHeader {
        guard let record = try frames.nextKnown() else { throw .truncated(offset: frames.offset) }
        guard record.type == type else {
            throw .countMismatch(what: "\(what) of a session", stated: UInt64(count), found: UInt64(index), offset: record.offset)
        }
        return record
    }

    private mutating func channel<Source>(
        _ header: RecordHeader, from frames: inout FrameReader<Source>, _ budget: inout Budget
    ) throws(ImageError) -> TCPChannel {
        let record = try unsafe frames.message(header) { bytes throws(ImageError) in
            try unsafe arena.tcpChannel(bytes, at: header.offset)
        }
        var channel = record.channel
        channel.receiveQueue = try bulk(.receiveQueue, record.receiveLength, from: &frames, &budget)
        channel.sendQueue = try bulk(.sendQueue, record.sendLength, from: &frames, &budget)
        return channel
    }

    /// Reads `length` bytes that come as records of one type, each of them straight to its place.
    private func bulk<Source>(
        _ type: RecordType, _ length: Int, from frames: inout FrameReader<Source>, _ budget: inout Budget
    ) throws(ImageError) -> [UInt8] {
        guard length > 0 else { return [] }
        try budget.take(length, at: frames.offset)
        return try [UInt8](capacity: length) { span throws(ImageError) in
            while span.count < length {
                let found = span.count
                guard let header = try frames.nextKnown() else { throw .truncated(offset: frames.offset) }
                guard header.type == type, header.length > 0, header.length <= length - found else {
                    throw .countMismatch(
                        what: "bytes in \(type) records", stated: UInt64(length),
                        found: UInt64(header.type == type ? found + header.length : found), offset: header.offset)
                }
                try unsafe span.withUnsafeMutableBufferPointer { bytes, count throws(ImageError) in
                    let place = unsafe UnsafeMutableRawBufferPointer(
                        rebasing: UnsafeMutableRawBufferPointer(bytes)[found..<found + header.length])
                    try unsafe frames.payload(header, into: place)
                    count += header.length
                }
            }
        }
    }
}

/// What one session may still take.
private struct Budget {
    var left: Int
    let limit: Int

    mutating func take(_ bytes: Int, at offset: UInt64) throws(ImageError) {
        guard bytes <= left else {
            throw .overBudget(
                what: "bytes of a session", value: UInt64(limit - left + bytes), limit: UInt64(limit), offset: offset)
        }
        left -= bytes
    }
}
