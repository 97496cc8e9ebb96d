// One session as a run of records: header, each channel with its queues, adapter memory, state.

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
            guard let record = try frames.nextKnown() else { throw .truncated(offset: frames.offset) }
            guard record.type == .tcpChannel else {
                throw .countMismatch(
                    what: "channels of a session", stated: UInt64(opening.channels), found: UInt64(index), offset: record.offset)
            }
            session.channels.append(try channel(record, from: &frames, &budget))
        }
        if let name = opening.adapter {
            let bytes = try bulk(.adapter, opening.adapterLength, from: &frames, &budget)
            session.adapter = AdapterState(name: name, bytes: bytes)
        }
        session.state = try bulk(.state, opening.stateLength, from: &frames, &budget)
        try session.validate(limits, at: header.offset)
        return session
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
