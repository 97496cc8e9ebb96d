// Reading everything: names, entries, checksums, and the images themselves as far as they can be opened.

import Glibc
import SCEngine
import SCImage

/// What `verify` found.
package struct ArchiveFindings: Sendable {
    package struct Problem: Sendable {
        /// The file's name in `images/`.
        package var file: String
        package var why: String
        /// The kernel's error number; 0: none.
        package var errno: Int32
    }

    package var images = 0
    package var bytes: UInt64 = 0
    /// Sealed images of which, for want of a key, only the outside was checked.
    package var unopened = 0
    /// Images that were removed while the archive was read.
    package var vanished = 0
    /// Files of writers that died; the next add or prune removes them.
    package var drafts = 0
    package var problems: [Problem] = []
    /// Files that no archive has made.
    package var foreign: [String] = []
}

extension Archive {
    /// Reads every image to its end. `progress` hears how many have been read, of how many.
    package func verify(key: SecretKey? = nil, progress: (Int, Int) -> Void = { _, _ in }) throws(CheckpointError) -> ArchiveFindings {
        var findings = ArchiveFindings()
        let (images, foreign) = try names()
        findings.foreign = foreign.sorted()
        for (index, name) in images.sorted().enumerated() {
            progress(index, images.count)
            do throws(CheckpointError) {
                try verify(name, key, &findings)
                findings.images += 1
            } catch {
                if error.errno == ENOENT {
                    findings.vanished += 1
                } else {
                    findings.problems.append(.init(file: name.file, why: error.why, errno: error.errno))
                }
            }
        }
        findings.drafts = (entryNames(of: "\(path)/new") ?? []).count
        return findings
    }

    private func verify(_ name: ImageName, _ key: SecretKey?, _ findings: inout ArchiveFindings) throws(CheckpointError) {
        let file = try open(name)
        do throws(ImageError) {
            let entry = try EntryFrame.read(file.raw)
            findings.bytes += entry.bodyLength
            let body = try BodySource(file, length: entry.bodyLength, naming: true)
            var failure: ImageError?
            // What the image itself says is told rather than that its checksum is wrong.
            do throws(ImageError) { try readThrough(entry, body, key, &findings) } catch { failure = error }
            let id = try body.finish()
            guard hexadecimalText(id) == name.id, ImageName(entry) == name else {
                throw failure ?? .malformed(what: "the SHA-256 of its content is not its name", offset: nil)
            }
            if let failure { throw failure }
        } catch {
            throw self.failure(error, name.file)
        }
    }

    private func readThrough(
        _ entry: ArchiveEntry, _ body: BodySource, _ key: SecretKey?, _ findings: inout ArchiveFindings
    ) throws(ImageError) {
        let opened: ArchivedImage
        do throws(ImageError) { opened = try ArchivedImage(entry, body, key: key) } catch {
            guard case .io(let number, _) = error, number == ENOKEY || number == EKEYREJECTED else { throw error }
            findings.unopened += 1
            return
        }
        var reader = try ImageReader(opened)
        while try reader.next() != nil {}
    }
}
