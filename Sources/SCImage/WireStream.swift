// One direction of a migration: wire messages and sessions in one stream of frames.

/// Anything that either end says.
package enum WireMessage: Equatable, Sendable {
    case offer(Offer)
    case answer(Answer)
    case report(Report)
    case failure(Failure)
    case session(Session)
    case resolve(Resolve)
    case standing(Standing)
    case inquiry(Inquiry)
    case living(Living)
}

/// Says things; each is with the sink when `write` returns.
package struct WireWriter<Sink: ByteSink>: ~Copyable {
    private var frames: FrameWriter<Sink>
    private var encoder: SessionEncoder

    /// Begins the stream: the preamble is sent at once, so that both ends may begin to read.
    package init(_ sink: Sink, limits: ImageLimits = ImageLimits()) throws(ImageError) {
        var frames = try FrameWriter(sink, kind: .wire, limits: limits)
        let encoder = try SessionEncoder(limits)
        try frames.flush()
        self.frames = frames
        self.encoder = encoder
    }

    /// Where the bytes go.
    package var sink: Sink { frames.sink }

    /// Bytes sent so far.
    package var bytesWritten: UInt64 { frames.offset }

    /// Sends one message.
    package mutating func write(_ message: WireMessage) throws(ImageError) {
        switch message {
        case .offer(let offer): try frames.write(offer, &encoder.arena)
        case .answer(let answer): try frames.write(answer, &encoder.arena)
        case .report(let report): try frames.write(report, &encoder.arena)
        case .failure(let failure): try frames.write(failure, &encoder.arena)
        case .resolve(let resolve): try frames.write(resolve, &encoder.arena)
        case .standing(let standing): try frames.write(standing, &encoder.arena)
        case .inquiry(let inquiry): try frames.write(inquiry, &encoder.arena)
        case .living(let living): try frames.write(living, &encoder.arena)
        case .session(let session): try encoder.write(session, to: &frames)
        }
        try frames.flush()
    }
}

/// Hears things.
package struct WireReader<Source: ByteSource>: ~Copyable {
    private var frames: FrameReader<Source>
    private var decoder: SessionDecoder

    /// Waits for the peer's preamble and checks it.
    package init(_ source: Source, limits: ImageLimits = ImageLimits()) throws(ImageError) {
        let frames = try FrameReader(source, kind: .wire, limits: limits)
        let decoder = try SessionDecoder(limits)
        self.frames = frames
        self.decoder = decoder
    }

    /// Where the bytes come from.
    package var source: Source {
        get { frames.source }
        set { frames.source = newValue }
    }

    /// Bytes used so far.
    package var bytesRead: UInt64 { frames.offset }

    /// Waits for the next message; nil when the peer ended the stream, which says nothing about whether it was done.
    package mutating func next() throws(ImageError) -> WireMessage? {
        guard let header = try frames.nextKnown() else { return nil }
        if header.type == .session { return .session(try decoder.session(header, from: &frames)) }
        return try unsafe frames.message(header) { bytes throws(ImageError) in
            switch header.type {
            case .offer: .offer(try unsafe decoder.arena.offer(bytes, at: header.offset))
            case .answer: .answer(try unsafe decoder.arena.answer(bytes, at: header.offset))
            case .report: .report(try unsafe decoder.arena.report(bytes, at: header.offset))
            case .failure: .failure(try unsafe decoder.arena.failure(bytes, at: header.offset))
            case .resolve: .resolve(try unsafe decoder.arena.resolve(bytes, at: header.offset))
            case .standing: .standing(try unsafe decoder.arena.standing(bytes, at: header.offset))
            case .inquiry: .inquiry(try unsafe decoder.arena.inquiry(bytes, at: header.offset))
            case .living: .living(try unsafe decoder.arena.living(bytes, at: header.offset))
            default: throw .unexpectedRecord(header.type, offset: header.offset)
            }
        }
    }
}
