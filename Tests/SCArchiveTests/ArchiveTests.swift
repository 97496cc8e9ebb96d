// Images in and out of an archive, and an index that is lost, damaged or behind.

import Glibc
import SCArchive
import SCEngine
import SCImage
import Testing

struct ArchiveTests {
    private let scratch = Scratch()

    @Test func `an image comes out as it went in, and is kept once`() throws {
        let archive = try scratch.archive()
        let image = try Sample.image([Sample.session(sent: Sample.noise(300_000))])
        var details = Archive.Details()
        (details.note, details.tags) = ("hangs", ["one"])
        let first = try archive.add(MemorySource(image), details, from: "test")
        #expect(first.service == "nginx" && first.sessions == 1 && first.flowCount == 1 && first.imageLength == UInt64(image.count))
        (details.note, details.tags) = ("", ["two"])
        let second = try archive.add(MemorySource(image), details, from: "test")
        #expect(second.id == first.id && second.tags == ["one", "two"] && second.note == "hangs")
        let listed = try archive.list(ArchiveFilter())
        #expect(listed.entries == [second] && listed.unreadable.isEmpty)
        let name = try archive.find(String(first.name.prefix(8)))
        #expect(try contents(of: archive.image(name)) == image)
        let copy = "\(scratch.path)/copy"
        try archive.extract(name, to: copy)
        #expect(readBytes(copy) == image)
        var status = stat()
        #expect(stat(scratch.files[0], &status) == 0 && status.st_mode & 0o777 == 0o600)
        #expect(try archive.verify().problems.isEmpty)
    }

    @Test func `zstd itself unpacks an archived image`() throws {
        let archive = try scratch.archive()
        let image = try Sample.image([Sample.session(sent: Sample.noise(200_000))])
        _ = try archive.add(MemorySource(image), Archive.Details(), from: "test")
        let result = try runCommand(["zstd", "-q", "-d", "-o", "\(scratch.path)/out", scratch.files[0]])
        #expect(result.status == 0, "\(result.errors)")
        #expect(readBytes("\(scratch.path)/out") == image)
    }

    @Test(arguments: ["lost", "cut", "damaged", "foreign", "behind"]) func `an index that is not right is made anew`(how: String) throws {
        let archive = try scratch.archive()
        for client in 0..<30 { _ = try archive.add([Sample.session(client)], Sample.inventory, Archive.Details()) }
        let index = "\(scratch.archivePath)/index"
        let before = try archive.list(ArchiveFilter()).entries
        #expect(before.count == 30)
        let bytes = try #require(readBytes(index))
        switch how {
        case "lost": unlink(index)
        case "cut": truncate(index, off_t(bytes.count - 50))
        case "damaged": _ = scratch.write("archive/index", bytes.enumerated().map { $0 == bytes.count / 2 ? $1 ^ 0x40 : $1 })
        case "foreign": _ = scratch.write("archive/index", Array("something else".utf8))
        default: _ = scratch.write("archive/index", Array(bytes.prefix(16)))
        }
        #expect(try archive.list(ArchiveFilter()).entries == before)
        // Now it is right again, and is left alone.
        let repaired = try #require(readBytes(index))
        var reader = try ArchiveEntryReader(MemorySource(repaired))
        var names: Set<String> = []
        while let entry = try reader.next() { names.insert(entry.name) }
        #expect(names == Set(before.map(\.name)))
        #expect(try archive.list(ArchiveFilter()).entries == before)
        #expect(readBytes(index) == repaired)
    }

    @Test func `filters`() throws {
        let archive = try scratch.archive()
        for client in 0..<20 {
            var (details, inventory) = (Archive.Details(), Sample.inventory)
            details.reason = ArchiveReason.allCases[client % 4]
            details.service = client < 10 ? "www" : "mail"
            details.tags = client % 5 == 0 ? ["five"] : []
            inventory.createdAt = 1_000_000 + UInt64(client) * 1000
            inventory.host = client.isMultiple(of: 2) ? "even" : "odd"
            _ = try archive.add([Sample.session(client)], inventory, details)
        }
        func count(_ change: (inout ArchiveFilter) -> Void) throws -> Int {
            var filter = ArchiveFilter()
            change(&filter)
            return try archive.list(filter).entries.count
        }
        #expect(try count { $0.services = ["www"] } == 10)
        #expect(try count { $0.hosts = ["odd"] } == 10)
        #expect(try count { $0.reasons = [.crash, .refused] } == 10)
        #expect(try count { $0.tags = ["five"] } == 4)
        #expect(try count { $0.peers = [PeerFilter("192.0.2.3")!] } == 1)
        #expect(try count { $0.peers = [PeerFilter("192.0.2.3:40000")!, PeerFilter("192.0.2.4")!] } == 2)
        #expect(try count { $0.peers = [PeerFilter("192.0.2.3:1")!] } == 0)
        #expect(try count { ($0.since, $0.until) = (1_005_000, 1_009_000) } == 5)
        let id = try archive.list(ArchiveFilter()).entries[3].session(0)
        #expect(try count { $0.session = id } == 1)
        #expect(pointInTime("2026-11-25") == 1_795_564_800 && pointInTime("2026-11-25T14:30Z") == 1_795_617_000)
        #expect(pointInTime("2d", now: 1_000_000) == 827_200 && pointInTime("soon") == nil && pointInTime("2026-13-01") == nil)
    }

    @Test func `retention by age, count and size`() throws {
        func entries(_ count: Int) -> [ArchiveEntry] {
            (0..<count).map { index in
                var entry = ArchiveEntry(id: Array(repeating: UInt8(index), count: 32))
                (entry.addedAt, entry.bodyLength, entry.tags) = (UInt64(1000 + index * 10), 100, index == 0 ? ["keep"] : [])
                return entry
            }
        }
        func excess(_ change: (inout Retention) -> Void) -> [UInt8] {
            var retention = Retention()
            change(&retention)
            return retention.excess(entries(10), now: 1100).map { $0.id[0] }
        }
        #expect(excess { $0.age = 60 } == [0, 1, 2, 3])
        #expect(excess { $0.count = 7 } == [0, 1, 2])
        #expect(excess { $0.size = 450 } == [0, 1, 2, 3, 4, 5])
        #expect(excess { ($0.count, $0.keptTags) = (7, ["keep"]) } == [1, 2])
        #expect(excess { ($0.count, $0.age) = (9, 80) } == [0, 1])
        let archive = try scratch.archive()
        for client in 0..<5 { _ = try archive.add([Sample.session(client)], Sample.inventory, Archive.Details()) }
        var retention = Retention()
        retention.count = 2
        #expect(try archive.prune(retention, among: ArchiveFilter(), isRehearsal: true).count == 3)
        #expect(scratch.files.count == 5)
        #expect(try archive.prune(retention, among: ArchiveFilter()).count == 3)
        #expect(try archive.list(ArchiveFilter()).entries.count == 2 && scratch.files.count == 2)
    }

    @Test func `redacted images keep their structure and none of their bytes`() throws {
        let archive = try scratch.archive()
        let session = Sample.session(received: Array("secret-question".utf8), sent: Array("secret-answer".utf8))
        var details = Archive.Details()
        details.isRedacted = true
        let entry = try archive.add(MemorySource(try Sample.image([session])), details, from: "test")
        let loaded = try archive.load(archive.find(entry.name))
        #expect(entry.isRedacted && loaded.sessions[0].channels[0].receiveQueue == Array(repeating: 0, count: 15))
        #expect(loaded.sessions[0].channels[0].sendQueue.count == 13 && loaded.sessions[0].state == [0, 0, 0, 0, 0])
        #expect(loaded.sessions[0].channels[0].rcvNxt == session.channels[0].rcvNxt && loaded.sessions[0].id == session.id)
        #expect(loaded.inventory.command == "nginx:")
        let plain = try contents(of: archive.image(archive.find(entry.name)))
        #expect(!plain.indices.contains { plain[$0...].starts(with: "secret".utf8) })
    }
}
