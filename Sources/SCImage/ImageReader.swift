// Reads an image, session by session, in constant memory.

/// Reads one image from front to end.
///
/// A session that `next()` returns is intact by itself; that the image is whole is known only when `next()` returns nil.
package struct ImageReader<Source: ByteSource>: ~Copyable {
    /// Where and when the image was made.
    package let inventory: Inventory
    private var frames: FrameReader<Source>
    private var decoder: SessionDecoder
    private var sessions: UInt64 = 0
    private var channels: UInt64 = 0
    /// How reading ended: nil while there is more.
    private var outcome: Result<Void, ImageError>?

    /// Reads the preamble and the inventory.
    package init(_ source: Source, limits: ImageLimits = ImageLimits()) throws(ImageError) {
        var frames = try FrameReader(source, kind: .image, limits: limits, digesting: true)
        var decoder = try SessionDecoder(limits)
        guard let header = try frames.nextKnown() else { throw .truncated(offset: frames.offset) }
        guard header.type == .inventory else { throw .unexpectedRecord(header.type, offset: header.offset) }
        inventory = try unsafe frames.message(header) { bytes throws(ImageError) in
            try unsafe decoder.arena.inventory(bytes, at: header.offset)
        }
        self.frames = frames
        self.decoder = decoder
    }

    /// The version of the format in which the image was written.
    package var formatVersion: UInt16 { frames.preamble.version }

    /// Bytes of the image used so far; all of them after `next()` returned nil.
    package var bytesRead: UInt64 { frames.offset }

    /// The next session; nil after the End record was found right and nothing follows it. Throws the same error for ever.
    package mutating func next() throws(ImageError) -> Session? {
        if let outcome {
            try outcome.get()
            return nil
        }
        do {
            guard let session = try read() else {
                outcome = .success(())
                return nil
            }
            return session
        } catch {
            outcome = .failure(error)
            throw error
        }
    }

    private mutating func read() throws(ImageError) -> Session? {
        guard let header = try frames.nextKnown() else { throw .truncated(offset: frames.offset) }
        switch header.type {
        case .session:
            let session = try decoder.session(header, from: &frames)
            sessions += 1
            channels += UInt64(session.channels.count + session.locals.count)
            return session
        case .end:
            try readEnd(header)
            return nil
        default: throw .unexpectedRecord(header.type, offset: header.offset)
        }
    }

    private mutating func readEnd(_ header: RecordHeader) throws(ImageError) {
        let (records, digest) = (frames.records, try frames.takeDigest())
        let end = try unsafe frames.message(header) { bytes throws(ImageError) in
            try unsafe decoder.arena.end(bytes, at: header.offset)
        }
        for (what, stated, found) in [
            ("sessions", end.sessions, sessions), ("channels", end.channels, channels), ("records", end.records, records),
        ] where stated != found {
            throw .countMismatch(what: what, stated: stated, found: found, offset: header.offset)
        }
        guard end.sha256 == digest else { throw .digest(offset: header.offset) }
        guard try frames.isAtEnd() else { throw .trailingBytes(offset: frames.offset) }
    }
}
