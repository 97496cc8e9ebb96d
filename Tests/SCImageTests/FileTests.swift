// Image files are whole or not there.

import Glibc
import Testing

@testable import SCImage

/// A directory of its own, gone with the value.
struct Scratch: ~Copyable {
    let path: String

    init() throws {
        var template = Array("/tmp/sc-image-test-XXXXXX".utf8CString)
        try #require(mkdtemp(&template) != nil)
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit {
        for name in names { unlink(path + "/" + name) }
        rmdir(path)
    }

    var names: [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }
}

@Suite struct FileTests {
    static func write(_ path: String, queue: Int = 0) throws(ImageError) {
        try ImageFile.write(path) { sink throws(ImageError) in
            var random = Seeded(state: 1)
            var session = idleSession(0, &random)
            session.channels[0].sendQueue = random.bytes(queue)
            var writer = try ImageWriter(sink, Inventory())
            try writer.write(session)
            try writer.finish()
        }
    }

    static func count(_ path: String) throws -> Int {
        let file = open(path, O_RDONLY)
        try #require(file >= 0)
        defer { close(file) }
        var reader = try ImageReader(DescriptorSource(file))
        var count = 0
        while try reader.next() != nil { count += 1 }
        return count
    }

    @Test func `A file is whole, private, and the only one`() throws {
        let scratch = try Scratch()
        let path = scratch.path + "/" + String(repeating: "x", count: 255)
        try Self.write(path, queue: 100_000)
        #expect(try Self.count(path) == 1)
        var status = stat()
        #expect(stat(path, &status) == 0)
        #expect(status.st_mode & 0o7777 == 0o600)
        #expect(scratch.names.count == 1)
        try Self.write(path)
        #expect(try Self.count(path) == 1)
        #expect(scratch.names.count == 1)
    }

    @Test func `A failure leaves the old file and nothing else`() throws {
        let scratch = try Scratch()
        let path = scratch.path + "/image"
        try Self.write(path)
        #expect(throws: ImageError.truncated(offset: 7)) {
            try ImageFile.write(path) { sink throws(ImageError) in
                var writer = try ImageWriter(sink, Inventory())
                try writer.flush()
                throw .truncated(offset: 7)
            }
        }
        #expect(scratch.names == ["image"])
        #expect(try Self.count(path) == 1)
        // Never committed at all.
        do { _ = try ImageFile(creating: scratch.path + "/other") }
        #expect(scratch.names == ["image"])
    }

    @Test(.enabled(if: geteuid() == 0)) func `A full disk leaves nothing behind`() throws {
        let scratch = try Scratch()
        try #require(mount("none", scratch.path, "tmpfs", 0, "size=64k") == 0)
        defer { umount2(scratch.path, Int32(MNT_DETACH)) }
        #expect(throws: ImageError.io(errno: ENOSPC, operation: "writing the image")) {
            try Self.write(scratch.path + "/image", queue: 1 << 20)
        }
        #expect(scratch.names == [])
        try Self.write(scratch.path + "/image", queue: 1000)
        #expect(scratch.names == ["image"])
    }

    @Test func `What is not a file is written directly or refused`() throws {
        let scratch = try Scratch()
        #expect(throws: ImageError.io(errno: ENOSPC, operation: "writing the image")) { try Self.write("/dev/full") }
        try Self.write("/dev/null")
        var status = stat()
        #expect(stat("/dev/null", &status) == 0 && status.st_mode & S_IFMT == S_IFCHR)
        #expect(throws: ImageError.io(errno: EISDIR, operation: "writing the image")) { try Self.write(scratch.path) }
        #expect(throws: ImageError.io(errno: EISDIR, operation: "writing the image")) { try Self.write(scratch.path + "/") }
        #expect(throws: ImageError.io(errno: ENOENT, operation: "writing the image")) { try Self.write("") }
        #expect(throws: ImageError.io(errno: ENOENT, operation: "writing the image")) { try Self.write(scratch.path + "/no/image") }
        #expect(throws: ImageError.io(errno: ENOTDIR, operation: "writing the image")) { try Self.write("/dev/null/image") }
        #expect(scratch.names == [])
    }

    @Test func `A FIFO is written directly and a link stays a link`() throws {
        let scratch = try Scratch()
        let fifo = scratch.path + "/fifo"
        #expect(mkfifo(fifo, 0o600) == 0)
        let end = open(fifo, O_RDONLY | O_NONBLOCK)
        try #require(end >= 0)
        defer { close(end) }
        try Self.write(fifo)
        var reader = try ImageReader(DescriptorSource(end))
        #expect(try reader.next() != nil)
        #expect(try reader.next() == nil)

        try Self.write(scratch.path + "/image")
        #expect(symlink("image", scratch.path + "/link") == 0)
        try Self.write(scratch.path + "/link", queue: 10)
        var status = stat()
        #expect(lstat(scratch.path + "/link", &status) == 0 && status.st_mode & S_IFMT == S_IFLNK)
        #expect(try Self.count(scratch.path + "/image") == 1)
        #expect(scratch.names == ["fifo", "image", "link"])
    }

    @Test func `Errors say what and where`() {
        let error = ImageError.io(errno: ENOSPC, operation: "writing the image")
        #expect(error.description == "writing the image: No space left on device (28)")
        #expect(ImageError.truncated(offset: 99).description == "the image is cut off at byte 99")
        #expect(
            ImageError.checksum(record: .sendQueue, offset: 5).description
                == "the checksum of the SendQueue record at byte 5 is wrong")
    }
}
