// An archived image as a stream of its bytes again.

import Glibc
import SCEngine
import SCImage

/// The bytes of one archived image: decompressed, and decrypted if it is sealed.
package struct ArchivedImage: ByteSource {
    package let entry: ArchiveEntry
    private var source: any ByteSource
    private var given: UInt64 = 0

    init(_ entry: ArchiveEntry, _ body: BodySource, key: SecretKey?) throws(ImageError) {
        self.entry = entry
        if entry.isSealed {
            guard let key else { throw .io(errno: ENOKEY, operation: "opening a sealed image") }
            source = try DecompressingSource(UnsealingSource(body, key: key))
        } else {
            source = try DecompressingSource(body)
        }
    }

    package mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        let count = try source.read(into: buffer)
        given += UInt64(count)
        // A small file can be made to unfold without an end.
        guard given <= entry.imageLength else {
            throw .overBudget(what: "bytes of the archived image", value: given, limit: entry.imageLength, offset: nil)
        }
        guard count > 0 || given == entry.imageLength || buffer.isEmpty else {
            throw .countMismatch(what: "bytes of the archived image", stated: entry.imageLength, found: given, offset: given)
        }
        return count
    }
}

extension Archive {
    /// Opens an image for reading. ENOKEY, EKEYREJECTED: it is sealed, and `key` is missing or another one.
    package func image(_ name: ImageName, key: SecretKey? = nil) throws(CheckpointError) -> ArchivedImage {
        let entry = try entry(of: name)
        let file = try open(name)
        do throws(ImageError) {
            return try ArchivedImage(entry, BodySource(file, length: entry.bodyLength), key: key)
        } catch {
            throw sealFailure(error, name)
        }
    }

    /// All sessions of an image, checked to its end.
    package func load(_ name: ImageName, key: SecretKey? = nil) throws(CheckpointError) -> (
        entry: ArchiveEntry, inventory: Inventory, version: UInt16, sessions: [Session]
    ) {
        let image = try image(name, key: key)
        do throws(ImageError) {
            var reader = try ImageReader(image)
            var sessions: [Session] = []
            while let session = try reader.next() { sessions.append(session) }
            return (image.entry, reader.inventory, reader.formatVersion, sessions)
        } catch {
            throw failure(error, "the archived image \(name.id.prefix(12)) cannot be read")
        }
    }

    /// Writes an image to a file of its own (`-`: standard output), as it was before it was archived; nothing stays behind of one that is damaged.
    package func extract(_ name: ImageName, to path: String, key: SecretKey? = nil, isRedacted: Bool = false) throws(CheckpointError) {
        let image = try image(name, key: key)
        do throws(ImageError) {
            try ImageFile.write(path) { sink throws(ImageError) in
                if isRedacted {
                    var reader = try ImageReader(image)
                    var writer = try ImageWriter(sink, reader.inventory.redacted)
                    while let session = try reader.next() { try writer.write(session.redacted) }
                    try writer.finish()
                } else {
                    try copy(image, to: sink)
                }
            }
        } catch {
            throw failure(error, "cannot get the archived image \(name.id.prefix(12))")
        }
    }

    func sealFailure(_ error: ImageError, _ name: ImageName) -> CheckpointError {
        guard case .io(ENOKEY, _) = error else { return failure(error, "cannot open the archived image \(name.id.prefix(12))") }
        return CheckpointError(
            "cannot open the archived image \(name.id.prefix(12))", why: "it is sealed", errno: ENOKEY,
            advice: "Name the secret key of one of its recipients with --key")
    }
}

/// All bytes of a source into a sink.
private func copy(_ source: ArchivedImage, to sink: DescriptorSink) throws(ImageError) {
    var (source, sink) = (source, sink)
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 128 << 10, alignment: 16)
    defer { buffer.deallocate() }
    while true {
        let count = try source.read(into: buffer)
        if count == 0 { return }
        try sink.write(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
    }
}
