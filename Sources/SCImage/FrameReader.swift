// Reads frames through one bounded buffer: messages in place, bulk straight to where it belongs.

/// A reader of records, for images and for the wire protocol alike.
///
/// After `next()` the record's payload is to be taken with exactly one of `message`, `payload` and `skip`.
package struct FrameReader<Source: ByteSource>: ~Copyable {
    /// Where the bytes come from; the reader may have taken more than it has used.
    package var source: Source
    package let preamble: Preamble
    /// Where in the stream the next unused byte is.
    package private(set) var offset: UInt64
    /// Records taken so far.
    package private(set) var records: UInt64 = 0

    private let limits: ImageLimits
    private var buffer: [UInt8]
    private var head: Int
    private var tail: Int
    private var digest: SHA256Stream?

    private static var bufferSize: Int { 64 << 10 }

    /// Reads the preamble. `digesting`: compute a SHA-256 of everything, for `takeDigest()`.
    package init(
        _ source: Source, kind: Preamble.Kind, limits: ImageLimits = ImageLimits(), digesting: Bool = false
    ) throws(ImageError) {
        var (source, tail) = (source, 0)
        var buffer = [UInt8](repeating: 0, count: Self.bufferSize)
        while tail < Preamble.size {
            let count = try Self.read(&source, into: &buffer, at: tail)
            if count == 0 { break }
            tail += count
        }
        guard tail >= 8 else { throw tail == 0 ? .truncated(offset: 0) : .notAnImage }
        let magic = buffer.littleEndian(at: 0, as: UInt64.self)
        guard tail >= Preamble.size else { throw magic == kind.rawValue ? .truncated(offset: UInt64(tail)) : .notAnImage }
        let preamble = try Preamble(kind, words: (magic, buffer.littleEndian(at: 8, as: UInt64.self)))
        var digest = digesting ? try SHA256Stream() : nil
        try digest?.update(Array(buffer[..<Preamble.size]))

        (self.source, self.preamble, self.limits, self.buffer, self.tail) = (source, preamble, limits, buffer, tail)
        self.digest = digest
        head = Preamble.size
        offset = UInt64(Preamble.size)
    }

    /// The next record's header, or nil when the stream ends before one.
    package mutating func next() throws(ImageError) -> RecordHeader? {
        try fill(RecordHeader.size)
        guard head < tail else { return nil }
        guard tail - head >= RecordHeader.size else { throw .truncated(offset: offset + UInt64(tail - head)) }
        let word = buffer.littleEndian(at: head, as: UInt64.self)
        let length = word >> 32
        let header = RecordHeader(
            type: RecordType(rawValue: UInt16(truncatingIfNeeded: word)),
            flags: RecordFlags(rawValue: UInt16(truncatingIfNeeded: word >> 16)),
            length: Int(length), crc: buffer.littleEndian(at: head + 8, as: UInt32.self), offset: offset)
        guard length <= limits.recordLength else {
            throw .overBudget(what: "record length", value: length, limit: UInt64(limits.recordLength), offset: offset)
        }
        if header.type.isKnown, !header.flags.subtracting(.required).isEmpty {
            throw .malformed(what: "unknown flags 0x\(String(header.flags.rawValue, radix: 16))", offset: offset)
        }
        advance(RecordHeader.size)
        return header
    }

    /// The next record that this version knows; unknown optional ones are skipped. Nil when the stream ends.
    package mutating func nextKnown() throws(ImageError) -> RecordHeader? {
        while let header = try next() {
            if header.type.isKnown { return header }
            if header.flags.contains(.required) { throw .unknownRequiredRecord(header.type, offset: header.offset) }
            try skip(header)
        }
        return nil
    }

    /// Takes a payload as a whole, in place.
    package mutating func message<T>(
        _ header: RecordHeader, _ body: (UnsafeRawBufferPointer) throws(ImageError) -> T
    ) throws(ImageError) -> T {
        try fill(header.length)
        guard tail - head >= header.length else { throw .truncated(offset: offset + UInt64(tail - head)) }
        let value = try unsafe buffer.withUnsafeBufferPointer { bytes throws(ImageError) in
            let payload = unsafe UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(bytes)[head..<head + header.length])
            try unsafe verify(header, recordChecksum(header, payload), payload)
            return try unsafe body(payload)
        }
        advance(header.length)
        records += 1
        return value
    }

    /// Takes a payload into `destination`, which has its length.
    package mutating func payload(_ header: RecordHeader, into destination: UnsafeMutableRawBufferPointer) throws(ImageError) {
        precondition(destination.count == header.length)
        var filled = min(header.length, tail - head)
        if filled > 0 {
            unsafe destination.copyBytes(from: buffer[head..<head + filled])
            advance(filled)
        }
        while filled < header.length {
            let count = try unsafe source.read(into: UnsafeMutableRawBufferPointer(rebasing: destination[filled...]))
            guard count > 0 else { throw .truncated(offset: offset) }
            filled += count
            offset += UInt64(count)
        }
        let payload = UnsafeRawBufferPointer(destination)
        try unsafe verify(header, recordChecksum(header, payload), payload)
        records += 1
    }

    /// Takes a payload and forgets it.
    package mutating func skip(_ header: RecordHeader) throws(ImageError) {
        try unsafe message(header) { _ throws(ImageError) in }
    }

    /// The stream has no byte after the last record.
    mutating func isAtEnd() throws(ImageError) -> Bool {
        try fill(1)
        return head == tail
    }

    /// The SHA-256 of all records taken so far and the preamble; what follows is not part of it.
    mutating func takeDigest() throws(ImageError) -> [UInt8] {
        guard let stream = digest.take() else { preconditionFailure("the reader computes no digest") }
        return try stream.finish()
    }

    private mutating func verify(
        _ header: RecordHeader, _ crc: UInt32, _ payload: UnsafeRawBufferPointer
    ) throws(ImageError) {
        guard crc == header.crc else { throw .checksum(record: header.type, offset: header.offset) }
        try digest?.update(header)
        try unsafe digest?.update(payload)
    }

    private mutating func advance(_ count: Int) {
        head += count
        offset += UInt64(count)
    }

    /// Reads until `count` bytes are in the buffer or the source ends; never waits for more than that.
    private mutating func fill(_ count: Int) throws(ImageError) {
        guard tail - head < count else { return }
        if head > 0 {
            buffer.replaceSubrange(0..<tail - head, with: buffer[head..<tail])
            (head, tail) = (0, tail - head)
        }
        if buffer.count < count { buffer.append(contentsOf: repeatElement(0, count: count - buffer.count)) }
        while tail < count {
            let read = try Self.read(&source, into: &buffer, at: tail)
            if read == 0 { return }
            tail += read
        }
    }

    private static func read(_ source: inout Source, into buffer: inout [UInt8], at start: Int) throws(ImageError) -> Int {
        try unsafe buffer.withUnsafeMutableBufferPointer { bytes throws(ImageError) in
            try unsafe source.read(into: UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(bytes)[start...]))
        }
    }
}

extension [UInt8] {
    /// The little-endian integer at `index`.
    fileprivate func littleEndian<T: FixedWidthInteger & BitwiseCopyable>(at index: Int, as type: T.Type) -> T {
        unsafe span.bytes.littleEndian(at: index, as: type)
    }
}

extension RawSpan {
    fileprivate func littleEndian<T: FixedWidthInteger & BitwiseCopyable>(at index: Int, as: T.Type) -> T {
        precondition(index >= 0 && index + MemoryLayout<T>.size <= byteCount)
        return T(littleEndian: unsafe unsafeLoadUnaligned(fromByteOffset: index, as: T.self))
    }
}
