// Writes an image, session by session, in constant memory.

/// Writes one image: the inventory at once, then any number of sessions, then the end. An image without `finish()` is refused.
package struct ImageWriter<Sink: ByteSink>: ~Copyable {
    private var frames: FrameWriter<Sink>
    private var encoder: SessionEncoder
    private var sessions: UInt64 = 0
    private var channels: UInt64 = 0
    private var isFinished = false

    /// Begins an image.
    package init(_ sink: Sink, _ inventory: Inventory, limits: ImageLimits = ImageLimits()) throws(ImageError) {
        var frames = try FrameWriter(sink, kind: .image, limits: limits, digesting: true)
        var encoder = try SessionEncoder(limits)
        try frames.write(inventory, &encoder.arena)
        self.frames = frames
        self.encoder = encoder
    }

    /// Where the bytes go; it has them all after `flush()` or `finish()`.
    package var sink: Sink { frames.sink }

    /// Bytes of the image so far.
    package var bytesWritten: UInt64 { frames.offset }

    /// Appends a session. Small ones are gathered up to 64 KiB; queues are written from where they lie.
    ///
    /// A session that breaks a bound or budget is refused and leaves the image as it was; after any other error only the
    /// same error follows.
    package mutating func write(_ session: Session) throws(ImageError) {
        precondition(!isFinished, "the image has its end")
        try encoder.write(session, to: &frames)
        sessions += 1
        channels += UInt64(session.channels.count + session.locals.count)
    }

    /// Hands everything so far to the sink.
    package mutating func flush() throws(ImageError) { try frames.flush() }

    /// Ends the image: counts, SHA-256, flush. Nothing may be written afterwards.
    package mutating func finish() throws(ImageError) {
        precondition(!isFinished, "the image has its end")
        let records = frames.records
        let end = ImageEnd(sessions: sessions, channels: channels, records: records, sha256: try frames.takeDigest())
        try frames.write(end, &encoder.arena)
        try frames.flush()
        isFinished = true
    }
}
