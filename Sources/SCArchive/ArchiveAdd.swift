// Adding an image: written beside its place, made lasting, and given its name in one step.

import Glibc
import SCEngine
import SCImage

extension Archive {
    /// What whoever adds an image says about it.
    package struct Details: Sendable {
        package var reason = ArchiveReason.manual
        package var service = ""
        package var note = ""
        package var tags: [String] = []
        package var failure = ""
        /// Who can open it; nobody: it is not sealed.
        package var recipients: [PublicKey] = []
        package var isRedacted = false
        /// Zstandard's level, 1 to 19.
        package var level: Int32 = 3
        package init() {}
    }

    /// Adds the image that a source gives, after checking it to its end. Gives its entry; the same image is kept once, with all its tags.
    package func add(_ source: some ByteSource, _ details: Details, from name: String) throws(CheckpointError) -> ArchiveEntry {
        // What is wrong with the image is told apart from what is wrong with the archive.
        var complaint: ImageError?
        return try add(details) { entry, sink throws(ImageError) in
            do throws(ImageError) {
                if details.isRedacted {
                    var reader = try ImageReader(source)
                    var writer = try ImageWriter(sink, reader.inventory.redacted)
                    while let session = try reader.next() {
                        try writer.write(session.redacted)
                        entry.add(session)
                    }
                    try writer.finish()
                    (entry.inventory, entry.formatVersion) = (reader.inventory.redacted, reader.formatVersion)
                } else {
                    var reader = try ImageReader(TeeSource(source, sink))
                    while let session = try reader.next() { entry.add(session) }
                    (entry.inventory, entry.formatVersion) = (reader.inventory, reader.formatVersion)
                }
            } catch {
                if case .io(_, let operation) = error, operation.hasPrefix("writing") { throw error }
                complaint = error
                throw error
            }
        } failure: { error in complaint == error ? imageFailure(error, name) : nil }
    }

    /// Adds sessions from memory.
    package func add(_ sessions: [Session], _ inventory: Inventory, _ details: Details) throws(CheckpointError) -> ArchiveEntry {
        try add(details) { entry, sink throws(ImageError) in
            entry.inventory = details.isRedacted ? inventory.redacted : inventory
            var writer = try ImageWriter(sink, entry.inventory)
            for session in sessions {
                try writer.write(details.isRedacted ? session.redacted : session)
                entry.add(session)
            }
            try writer.finish()
            entry.formatVersion = Preamble.version
        }
    }

    private func add(
        _ details: Details, _ write: (inout ArchiveEntry, ImageSink) throws(ImageError) -> Void,
        failure: (ImageError) -> CheckpointError? = { _ in nil }
    ) throws(CheckpointError) -> ArchiveEntry {
        let draft = try Draft(self)
        do throws(ImageError) {
            var entry = ArchiveEntry(id: Array(repeating: 0, count: 32))
            (entry.reason, entry.service, entry.note) = (details.reason, details.service, details.note)
            (entry.tags, entry.failure, entry.isRedacted) = (details.tags, details.failure.cut(ArchiveEntry.noteCapacity), details.isRedacted)
            entry.recipients = details.recipients.flatMap(\.id)
            // A bad note or tag is refused before anything is written.
            _ = try EntryFrame.encode(entry)
            let file = try NamingSink(draft.raw)
            let sink = try ImageSink(file, details)
            try write(&entry, sink)
            try sink.finish()
            (entry.id, entry.bodyLength, entry.imageLength) = (try file.finish(), file.count, sink.taken)
            if entry.service.isEmpty { entry.service = serviceName(entry.inventory.command) }
            if entry.isSealed { (entry.flows, entry.flowsLeftOut, entry.inventory.command) = ([], 0, "") }
            entry.addedAt = UInt64(max(0, time(nil)))
            return try commit(draft, entry)
        } catch {
            throw failure(error) ?? self.failure(error, "cannot add to the archive \(path)")
        }
    }

    private func commit(_ draft: borrowing Draft, _ entry: ArchiveEntry) throws(ImageError) -> ArchiveEntry {
        // The body is on disk before the lock is taken, so that nobody waits for it.
        guard fdatasync(draft.raw) == 0 else { throw .io(errno: errno, operation: "writing to the archive") }
        var failure: ImageError?
        var final = entry
        do throws(CheckpointError) {
            try locked { () throws(CheckpointError) in
                do throws(ImageError) { final = try place(draft, entry) } catch { failure = error }
            }
        } catch {
            throw .io(errno: error.errno, operation: "locking the archive")
        }
        if let failure { throw failure }
        return final
    }

    /// The lock is held.
    private func place(_ draft: borrowing Draft, _ new: ArchiveEntry) throws(ImageError) -> ArchiveEntry {
        var entry = new
        let name = ImageName(entry)
        let former = (try? open(name)).flatMap { file in try? EntryFrame.read(file.raw) }
        if let former { entry.join(former) }
        var sink = DescriptorSink(draft.raw, operation: "writing to the archive")
        try sink.write(try EntryFrame.encode(entry))
        guard fsync(draft.raw) == 0 else { throw .io(errno: errno, operation: "writing to the archive") }
        if former != nil { try markStale() }
        guard renameat(drafts.raw, draft.name, images.raw, name.file) == 0, fsync(images.raw) == 0 else {
            throw .io(errno: errno, operation: "naming the archived image")
        }
        // The image is there; without an index everything is only slower. A replaced entry makes the next reader write the index anew.
        if former == nil { try? appendToIndex([entry]) }
        return entry
    }
}

/// A file below `new/` that goes away with this value unless it was given its name in `images/`.
struct Draft: ~Copyable {
    let name: String
    private let directory: SharedDescriptor
    private let file: OwnedDescriptor
    var raw: Int32 { file.raw }

    /// Makes it, and removes what writers that died have left.
    init(_ archive: Archive) throws(CheckpointError) {
        directory = archive.drafts
        name = String(UInt64.random(in: 0 ... .max), radix: 16)
        let (name, directory) = (self.name, self.directory)
        // Under the lock, so that no file is seen before its writer has locked it.
        let raw = try archive.locked { () throws(CheckpointError) -> Int32 in
            Self.sweep(archive)
            let raw = openat(directory.raw, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
            guard raw >= 0, flock(raw, LOCK_EX | LOCK_NB) == 0 else {
                let number = errno
                throw CheckpointError("cannot write to the archive \(archive.path)", result: -Int(number), advice: archive.writeAdvice(number))
            }
            return raw
        }
        file = OwnedDescriptor(raw)
    }

    deinit { unlinkat(directory.raw, name, 0) }

    /// Removes the files of dead writers. The lock is held.
    static func sweep(_ archive: Archive) {
        for name in entryNames(of: "\(archive.path)/new") ?? [] {
            let raw = openat(archive.drafts.raw, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
            guard raw >= 0 else { continue }
            if flock(raw, LOCK_EX | LOCK_NB) == 0 { unlinkat(archive.drafts.raw, name, 0) }
            close(raw)
        }
    }
}

/// Where the bytes of an image go on their way into an archive.
final class ImageSink: ByteSink {
    private enum Way {
        case plain(CompressingSink<NamingSink>)
        case sealed(CompressingSink<SealingSink<NamingSink>>, SealingSink<NamingSink>)
    }
    private let way: Way

    init(_ file: NamingSink, _ details: Archive.Details) throws(ImageError) {
        if details.recipients.isEmpty {
            way = .plain(try CompressingSink(file, level: details.level))
        } else {
            let seal = try SealingSink(file, to: details.recipients)
            way = .sealed(try CompressingSink(seal, level: details.level), seal)
        }
    }

    /// Bytes of the image so far.
    var taken: UInt64 {
        switch way {
        case .plain(let sink): sink.taken
        case .sealed(let sink, _): sink.taken
        }
    }

    func write(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        switch way {
        case .plain(let sink): try sink.write(bytes)
        case .sealed(let sink, _): try sink.write(bytes)
        }
    }

    func finish() throws(ImageError) {
        switch way {
        case .plain(let sink): try sink.finish()
        case .sealed(let sink, let seal):
            try sink.finish()
            try seal.finish()
        }
    }
}

/// Gives what its source gives, and a copy of it to a sink.
private struct TeeSource<Source: ByteSource>: ByteSource {
    private var source: Source
    private let sink: ImageSink

    init(_ source: Source, _ sink: ImageSink) { (self.source, self.sink) = (source, sink) }

    mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        let count = try source.read(into: buffer)
        try sink.write(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
        return count
    }
}

extension ArchiveEntry {
    fileprivate mutating func add(_ session: Session) {
        add(session.id)
        for channel in session.channels { add(channel) }
        channels += UInt64(session.locals.count)
    }

    /// The same image was archived before: what was said then stays.
    fileprivate mutating func join(_ former: ArchiveEntry) {
        addedAt = former.addedAt
        tags = former.tags + tags.filter { !former.tags.contains($0) }
        if note.isEmpty { note = former.note }
        if failure.isEmpty { (failure, reason) = (former.failure, failure.isEmpty && reason == .manual ? former.reason : reason) }
    }
}

/// A server's name from its command line: `nginx` for "nginx: worker process" and for "/usr/sbin/nginx -c FILE".
func serviceName(_ command: String) -> String {
    let word = command.split(separator: " ").first ?? ""
    let name = word.split(separator: "/").last ?? ""
    return String((name.hasSuffix(":") ? name.dropLast() : name).prefix(64))
}
