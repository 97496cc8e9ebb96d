// The index: the entries of all images in one file, so that listing ten thousand opens one.
//
// It is believed only for what it can be right about: an entry whose image is gone is passed over, an image without an entry is opened, and an index
// that is damaged, or may be older than an image, is made anew from the images.

import Glibc
import SCEngine
import SCImage

extension Archive {
    private var indexPath: String { "\(path)/index" }
    private var stalePath: String { "\(path)/stale" }

    /// Calls `body` with each image's entry, in no order, in memory that does not grow with the images. Gives the images whose entry cannot be read, with
    /// the reason.
    @discardableResult
    package func forEach(_ body: (ArchiveEntry) -> Void) throws(CheckpointError) -> [(name: ImageName, why: CheckpointError)] {
        var waiting = Set(try names().images)
        let count = waiting.count
        var records = 0
        var isRight = access(stalePath, F_OK) != 0
        if isRight {
            do throws(ImageError) {
                try readIndex { entry in
                    records += 1
                    if waiting.remove(ImageName(entry)) != nil { body(entry) }
                }
            } catch { isRight = false }
        }
        var added: [ArchiveEntry] = []
        var unreadable: [(name: ImageName, why: CheckpointError)] = []
        for name in waiting.sorted() {
            do throws(CheckpointError) {
                let entry = try self.entry(of: name)
                body(entry)
                added.append(entry)
            } catch {
                // Removed since the names were read: it is no longer of the archive.
                if error.errno != ENOENT { unreadable.append((name, error)) }
            }
        }
        refresh(isRight: isRight && records <= 2 * count + 64, added)
        return unreadable
    }

    /// The entry at the end of an image's file.
    package func entry(of name: ImageName) throws(CheckpointError) -> ArchiveEntry {
        let file = try open(name)
        do throws(ImageError) {
            let entry = try EntryFrame.read(file.raw)
            guard ImageName(entry) == name else { throw .malformed(what: "its entry is that of \(entry.name.prefix(12))", offset: nil) }
            return entry
        } catch {
            throw failure(error, "the archived image \(name.id.prefix(12)) cannot be read")
        }
    }

    private func readIndex(_ body: (ArchiveEntry) -> Void) throws(ImageError) {
        let raw = Glibc.open(indexPath, O_RDONLY | O_CLOEXEC)
        guard raw >= 0 else { throw .io(errno: errno, operation: "reading the index") }
        let file = OwnedDescriptor(raw)
        var reader = try ArchiveEntryReader(DescriptorSource(file.raw, operation: "reading the index"))
        while let entry = try reader.next() { body(entry) }
    }

    /// Puts the index right, if that is possible now: a list must not wait for it, nor fail without it.
    private func refresh(isRight: Bool, _ added: [ArchiveEntry]) {
        if isRight, added.isEmpty { return }
        try? locked { () throws(CheckpointError) in
            if isRight { try appendToIndex(added) } else { try rebuildIndex() }
        }
    }

    /// Adds entries at the end. The lock is held.
    func appendToIndex(_ entries: [ArchiveEntry]) throws(CheckpointError) {
        let raw = Glibc.open(indexPath, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        let file = OwnedDescriptor(try check(raw < 0 ? -errno : raw, "cannot write the index of \(path)"))
        do throws(ImageError) {
            var writer = try ArchiveEntryWriter(MemorySink())
            for entry in entries { try writer.write(entry) }
            try writer.flush()
            let isNew = lseek(file.raw, 0, SEEK_END) == 0
            var sink = DescriptorSink(file.raw, operation: "writing the index")
            // In one write: a reader sees the record or does not.
            try sink.write(isNew ? writer.sink.bytes : Array(writer.sink.bytes.dropFirst(Preamble.size)))
        } catch {
            throw failure(error, "cannot write the index of \(path)")
        }
    }

    /// Makes the index anew from the images. The lock is held.
    func rebuildIndex() throws(CheckpointError) {
        let names = try names().images.sorted()
        do throws(ImageError) {
            try ImageFile.write(indexPath) { sink throws(ImageError) in
                var writer = try ArchiveEntryWriter(sink)
                for name in names {
                    guard let entry = try? entry(of: name) else { continue }
                    try writer.write(entry)
                }
                try writer.flush()
            }
        } catch {
            throw failure(error, "cannot write the index of \(path)")
        }
        clearStale()
    }

    /// From here on the index may be older than an image. The lock is held.
    func markStale() throws(ImageError) {
        let raw = Glibc.open(stalePath, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        guard raw >= 0 else { throw .io(errno: errno, operation: "writing to the archive") }
        close(raw)
    }

    func clearStale() { unlink(stalePath) }
}
