// One file of an archive: the image, compressed and perhaps sealed, and after it what the archive says about it.
//
//   body:  a Zstandard frame, or a sealed stream with one inside
//   entry: a skippable Zstandard frame: magic 4, length 4, an ArchiveEntry record, length of the whole frame 4
//
// zstd(1) skips the entry, so `zstd -dc FILE` gives the image. The entry is at the end, since it is known only then, and the image passes through once.

import Glibc
import SCEngine
import SCImage

enum EntryFrame {
    /// Of the 16 magics of skippable frames (RFC 8878 section 3.1.2).
    static let magic: [UInt8] = [0x53, 0x2a, 0x4d, 0x18]
    /// An entry with all its lists full has 530 KB.
    static let largest = 1 << 20

    static func encode(_ entry: ArchiveEntry) throws(ImageError) -> [UInt8] {
        var writer = try ArchiveEntryWriter(MemorySink())
        try writer.write(entry)
        try writer.flush()
        let record = writer.sink.bytes
        return magic + littleEndian(record.count + 4) + record + littleEndian(record.count + 12)
    }

    /// Reads the entry at the end of an image's file.
    static func read(_ file: Int32) throws(ImageError) -> ArchiveEntry {
        var status = stat()
        guard fstat(file, &status) == 0 else { throw .io(errno: errno, operation: "reading the archived image") }
        let size = Int(status.st_size)
        // Nearly every entry is found at the first try.
        var tail = try bytes(file, max(0, size - 1024)..<size)
        let length = tail.count < 4 ? 0 : number(tail.suffix(4))
        guard length > 12, length <= min(size, largest) else { throw .malformed(what: "the archived image is cut off: its entry is missing", offset: nil) }
        if length > tail.count { tail = try bytes(file, (size - length)..<size) }
        let frame = Array(tail.suffix(length))
        guard frame.starts(with: magic), number(frame[4..<8]) == length - 8 else {
            throw .malformed(what: "the archived image is damaged: its entry has no beginning", offset: nil)
        }
        var reader = try ArchiveEntryReader(MemorySource(Array(frame[8..<(length - 4)])))
        guard let entry = try reader.next(), try reader.next() == nil else { throw .malformed(what: "the archived image has no entry", offset: nil) }
        guard Int(clamping: entry.bodyLength) == size - length else {
            throw .countMismatch(what: "bytes of the archived image", stated: entry.bodyLength, found: UInt64(size - length), offset: 0)
        }
        return entry
    }

    private static func bytes(_ file: Int32, _ range: Range<Int>) throws(ImageError) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: range.count)
        let count = pread(file, &result, result.count, off_t(range.lowerBound))
        guard count >= 0 else { throw .io(errno: errno, operation: "reading the archived image") }
        return Array(result.prefix(count))
    }

    private static func littleEndian(_ value: Int) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }

    private static func number(_ bytes: some Sequence<UInt8>) -> Int { bytes.reversed().reduce(0) { $0 << 8 | Int($1) } }
}

/// Writes to a descriptor, counts, and computes the SHA-256 that becomes the file's name.
final class NamingSink: ByteSink {
    private var sink: DescriptorSink
    private var digest: SHA256Stream?
    private(set) var count: UInt64 = 0

    init(_ file: Int32) throws(ImageError) {
        sink = DescriptorSink(file, operation: "writing to the archive")
        digest = try SHA256Stream()
    }

    func write(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        try digest?.update(bytes)
        try sink.write(bytes)
        count += UInt64(bytes.count)
    }

    /// The SHA-256 of all that was written; only once.
    func finish() throws(ImageError) -> [UInt8] {
        guard let digest = digest.take() else { preconditionFailure("the name was taken") }
        return try digest.finish()
    }
}

/// The body of an image's file; with `finish()`, its SHA-256.
final class BodySource: ByteSource {
    private let file: SharedDescriptor
    private let length: UInt64
    private var position: UInt64 = 0
    private var digest: SHA256Stream?

    /// `naming`: compute the SHA-256 as well.
    init(_ file: SharedDescriptor, length: UInt64, naming: Bool = false) throws(ImageError) {
        (self.file, self.length) = (file, length)
        digest = naming ? try SHA256Stream() : nil
    }

    func read(into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        let wanted = min(buffer.count, Int(clamping: length - position))
        guard wanted > 0 else { return 0 }
        while true {
            let count = pread(file.raw, buffer.baseAddress, wanted, off_t(position))
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw .io(errno: errno, operation: "reading the archived image") }
            try digest?.update(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
            position += UInt64(count)
            return count
        }
    }

    /// Reads what is left, and gives the SHA-256 of the whole.
    func finish() throws(ImageError) -> [UInt8] {
        let rest = UnsafeMutableRawBufferPointer.allocate(byteCount: 128 << 10, alignment: 16)
        defer { rest.deallocate() }
        while try read(into: rest) > 0 {}
        guard let digest = digest.take() else { preconditionFailure("no digest was asked for") }
        return try digest.finish()
    }
}
