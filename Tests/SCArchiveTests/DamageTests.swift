// Bad luck and bad files: each a clear error, and the rest of the archive goes on working.

import Glibc
import SCArchive
import SCEngine
import SCImage
import Testing

struct DamageTests {
    private let scratch = Scratch()

    /// An archive with three images.
    private func filled() throws -> (archive: Archive, entries: [ArchiveEntry]) {
        let archive = try scratch.archive()
        let entries = try (0..<3).map { try archive.add([Sample.session($0, sent: Sample.noise(5000))], Sample.inventory, Archive.Details()) }
        return (archive, entries)
    }

    @Test func `every flipped bit and every cut of an archived image is found`() throws {
        let (archive, entries) = try filled()
        let name = try archive.find(entries[1].name)
        let path = "\(scratch.archivePath)/images/\(name.file)"
        let good = try #require(readBytes(path))
        for position in stride(from: 0, to: good.count, by: 97) {
            _ = scratch.write("archive/images/\(name.file)", good.enumerated().map { $0 == position ? $1 ^ 0x10 : $1 })
            let findings = try archive.verify()
            #expect(findings.problems.map(\.file) == [name.file] && findings.images == 2, "byte \(position)")
        }
        for length in stride(from: 0, to: good.count, by: 211) {
            _ = scratch.write("archive/images/\(name.file)", Array(good.prefix(length)))
            let findings = try archive.verify()
            #expect(findings.problems.map(\.file) == [name.file] && findings.images == 2, "\(length) bytes")
        }
        // Nothing of the damaged one is given out; the others are as good as before.
        #expect(throws: CheckpointError.self) { try archive.extract(name, to: "\(scratch.path)/out") }
        #expect(access("\(scratch.path)/out", F_OK) != 0)
        unlink("\(scratch.archivePath)/index")
        let listed = try archive.list(ArchiveFilter())
        #expect(Set(listed.entries.map(\.name)) == [entries[0].name, entries[2].name] && listed.unreadable.count == 1)
        #expect(try archive.load(archive.find(entries[2].name)).sessions.count == 1)
        _ = scratch.write("archive/images/\(name.file)", good)
        #expect(try archive.verify().problems.isEmpty)
    }

    @Test func `foreign files are named and left alone`() throws {
        let (archive, _) = try filled()
        _ = scratch.write("archive/images/README", [1, 2, 3])
        _ = scratch.write("archive/images/\(String(repeating: "a", count: 64)).sci.zst", Array("no image".utf8))
        let findings = try archive.verify()
        #expect(findings.foreign == ["README"] && findings.images == 3 && findings.problems.count == 1)
        #expect(try archive.list(ArchiveFilter()).entries.count == 3)
        mkdir("\(scratch.path)/other", 0o755)
        _ = scratch.write("other/letter.txt", [1])
        let refusal = #expect(throws: CheckpointError.self) { _ = try Archive("\(scratch.path)/other", creating: true) }
        #expect(refusal?.errno == ENOTEMPTY && refusal?.why.contains("letter.txt") == true)
        #expect(try #require(entryNames(of: "\(scratch.path)/other")) == ["letter.txt"])
        let missing = #expect(throws: CheckpointError.self) { _ = try Archive("\(scratch.path)/nowhere") }
        #expect(missing?.errno == ENOENT)
    }

    @Test func `images and archives of newer versions are refused by their version`() throws {
        let (archive, entries) = try filled()
        var image = try Sample.image([Sample.session()])
        (image[8], image[10]) = (9, 9)
        let refusal = #expect(throws: CheckpointError.self) { _ = try archive.add(MemorySource(image), Archive.Details(), from: "new.sci") }
        #expect(refusal?.errno == EPROTONOSUPPORT && refusal?.description.contains("version 9") == true && refusal?.what.contains("new.sci") == true)
        #expect(entryNames(of: "\(scratch.archivePath)/new") == [] && scratch.files.count == 3)
        let cut = Array(try Sample.image([Sample.session()]).dropLast(5))
        let damaged = #expect(throws: CheckpointError.self) { _ = try archive.add(MemorySource(cut), Archive.Details(), from: "cut.sci") }
        #expect(damaged?.errno == EBADMSG && scratch.files.count == 3)
        _ = scratch.write("archive/sc-archive", Array("sc-checkpoint archive, version 7\n".utf8))
        let newer = #expect(throws: CheckpointError.self) { _ = try Archive(scratch.archivePath) }
        #expect(newer?.errno == EPROTONOSUPPORT && newer?.why.contains("version 7") == true)
        #expect(entries.count == 3)
    }

    @Test func `an image that vanishes is no longer of the archive`() throws {
        let (archive, entries) = try filled()
        let name = try archive.find(entries[0].name)
        var image = try archive.image(name)
        unlink("\(scratch.archivePath)/images/\(name.file)")
        // Who has it open reads it to its end.
        #expect(try contents(of: image).count == Int(entries[0].imageLength))
        _ = image
        let refusal = #expect(throws: CheckpointError.self) { _ = try archive.image(name) }
        #expect(refusal?.errno == ENOENT && refusal?.why.contains("removed meanwhile") == true)
        #expect(try archive.list(ArchiveFilter()).entries.count == 2)
        // One that shrinks while it is read is damaged.
        let other = try archive.find(entries[1].name)
        image = try archive.image(other)
        truncate("\(scratch.archivePath)/images/\(other.file)", 100)
        #expect(throws: ImageError.self) { _ = try contents(of: image) }
    }

    @Test func `an id has to be one image`() throws {
        let (archive, _) = try filled()
        for (prefix, errno) in [("xyz", EINVAL), ("12", EINVAL), (String(repeating: "0", count: 64), ENOENT)] {
            let refusal = #expect(throws: CheckpointError.self) { _ = try archive.find(prefix) }
            #expect(refusal?.errno == errno)
        }
    }
}
