// Writes frames: small records are gathered and written together, bulk goes to the sink from where it lies.

/// A writer of records, for images and for the wire protocol alike.
package struct FrameWriter<Sink: ByteSink>: ~Copyable {
    /// Where the bytes go. It has them all after `flush()`.
    package private(set) var sink: Sink
    /// Records written so far.
    package private(set) var records: UInt64 = 0
    /// Bytes written so far, buffered ones included.
    package private(set) var offset: UInt64

    private let recordLength: Int
    private var buffer: [UInt8] = []
    private var digest: SHA256Stream?
    /// What broke the stream off; nothing can be written after it.
    private var failure: ImageError?

    /// Gathered bytes from which on they are written without being asked for.
    private static var bufferSize: Int { 64 << 10 }
    /// Payloads of this length are not worth copying into the buffer.
    private static var bulkLength: Int { 16 << 10 }

    /// Begins a stream with its preamble. `digesting`: compute a SHA-256 of everything, for `takeDigest()`.
    package init(
        _ sink: Sink, kind: Preamble.Kind, limits: ImageLimits = ImageLimits(), digesting: Bool = false
    ) throws(ImageError) {
        self.sink = sink
        recordLength = limits.recordLength
        offset = UInt64(Preamble.size)
        digest = digesting ? try SHA256Stream() : nil
        buffer.reserveCapacity(Self.bufferSize + Self.bulkLength)
        let words = Preamble(kind).words
        append(littleEndian: words.0)
        append(littleEndian: words.1)
    }

    /// Writes one record; a payload of some size is not copied.
    package mutating func write(
        _ type: RecordType, flags: RecordFlags = .required, payload: UnsafeRawBufferPointer
    ) throws(ImageError) {
        try mayWrite(type, payload.count)
        var header = RecordHeader(type: type, flags: flags, length: payload.count, crc: 0, offset: offset)
        header.crc = unsafe recordChecksum(header, payload)
        append(littleEndian: header.word)
        append(littleEndian: header.crc)
        if payload.count < Self.bulkLength {
            unsafe buffer.append(contentsOf: payload)
        } else {
            try drain()
            try guarded { writer throws(ImageError) in
                try unsafe writer.digest?.update(payload)
                try unsafe writer.sink.write(payload)
            }
        }
        try wrote(header)
    }

    /// Writes one record of `length` bytes, which `pack` puts in place.
    @unsafe mutating func write(
        _ type: RecordType, flags: RecordFlags = .required, length: Int,
        pack: (UnsafeMutablePointer<UInt8>) -> Int
    ) throws(ImageError) {
        try mayWrite(type, length)
        let start = buffer.count
        buffer.append(addingCapacity: RecordHeader.size + length) { span in
            span.append(repeating: 0, count: RecordHeader.size)
            unsafe span.withUnsafeMutableBufferPointer { bytes, count in
                if length > 0, let base = bytes.baseAddress { unsafe count += pack(base + count) }
            }
        }
        precondition(buffer.count == start + RecordHeader.size + length, "the message changed while it was packed")
        var header = RecordHeader(type: type, flags: flags, length: length, crc: 0, offset: offset)
        unsafe buffer.withUnsafeMutableBytes { bytes in
            unsafe header.crc = recordChecksum(header, UnsafeRawBufferPointer(rebasing: bytes[(start + RecordHeader.size)...]))
            unsafe bytes.storeBytes(of: header.word.littleEndian, toByteOffset: start, as: UInt64.self)
            unsafe bytes.storeBytes(of: header.crc.littleEndian, toByteOffset: start + 8, as: UInt32.self)
        }
        try wrote(header)
    }

    /// Writes `bytes` as records of one type, each as long as a record may be; none for no bytes.
    mutating func write(_ type: RecordType, bulk bytes: [UInt8]) throws(ImageError) {
        guard !bytes.isEmpty else { return }
        try unsafe bytes.withUnsafeBufferPointer { bytes throws(ImageError) in
            var rest = UnsafeRawBufferPointer(bytes)
            while unsafe !rest.isEmpty {
                let count = min(rest.count, recordLength)
                try unsafe write(type, payload: UnsafeRawBufferPointer(rebasing: rest[..<count]))
                unsafe rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            }
        }
    }

    /// Hands everything written so far to the sink.
    package mutating func flush() throws(ImageError) {
        try drain()
    }

    /// The SHA-256 of everything written so far; what follows is not part of it.
    mutating func takeDigest() throws(ImageError) -> [UInt8] {
        try drain()
        guard let stream = digest.take() else { preconditionFailure("the writer computes no digest") }
        return try stream.finish()
    }

    /// Does what must happen as a whole: if it throws, the stream has a beginning without an end, and all that follows throws too.
    mutating func guarded(_ body: (inout FrameWriter) throws(ImageError) -> Void) throws(ImageError) {
        do { try body(&self) } catch {
            failure = failure ?? error
            throw error
        }
    }

    private func mayWrite(_ type: RecordType, _ length: Int) throws(ImageError) {
        if let failure { throw failure }
        guard length <= recordLength else {
            throw .overBudget(what: "\(type) record", value: UInt64(length), limit: UInt64(recordLength), offset: nil)
        }
    }

    private mutating func wrote(_ header: RecordHeader) throws(ImageError) {
        records += 1
        offset += UInt64(RecordHeader.size + header.length)
        if buffer.count >= Self.bufferSize { try drain() }
    }

    private mutating func drain() throws(ImageError) {
        if let failure { throw failure }
        guard !buffer.isEmpty else { return }
        try guarded { writer throws(ImageError) in
            try writer.digest?.update(writer.buffer)
            try unsafe writer.buffer.withUnsafeBufferPointer { bytes throws(ImageError) in
                try unsafe writer.sink.write(UnsafeRawBufferPointer(bytes))
            }
        }
        buffer.removeAll(keepingCapacity: true)
    }

    private mutating func append(littleEndian value: some FixedWidthInteger) {
        unsafe withUnsafeBytes(of: value.littleEndian) { unsafe buffer.append(contentsOf: $0) }
    }
}
