// Sealed streams: what was sealed comes out for its recipients, and nothing else comes out for anybody.

import Glibc
import SCArchive
import SCEngine
import SCImage
import Testing

struct SealTests {
    private let scratch = Scratch()

    private func seal(_ bytes: [UInt8], to keys: [SecretKey]) throws -> [UInt8] {
        let target = Collector()
        var sink = try SealingSink(target, to: keys.map(\.publicKey))
        // In pieces of every size.
        var (rest, size) = (bytes[...], 1)
        while !rest.isEmpty {
            let piece = Array(rest.prefix(size))
            try sink.write(piece)
            rest = rest.dropFirst(size)
            size = size * 3 % 50_021
        }
        try sink.finish()
        return target.bytes
    }

    private final class Collector: ByteSink {
        var bytes: [UInt8] = []
        func write(_ more: UnsafeRawBufferPointer) throws(ImageError) { bytes += more }
    }

    private func open(_ bytes: [UInt8], _ key: SecretKey) throws -> [UInt8] { try contents(of: UnsealingSource(MemorySource(bytes), key: key)) }

    @Test(arguments: [1, 100, 65_535, 65_536, 65_537, 131_072, 200_000]) func `every recipient gets what was sealed`(length: Int) throws {
        let keys = try (0..<3).map { _ in try SecretKey.make() }
        let text = Sample.noise(length)
        let sealed = try seal(text, to: keys)
        #expect(sealed.count == 16 + 3 * 88 + length + (length + 65_535) / 65_536 * 16)
        for key in keys { #expect(try open(sealed, key) == text) }
        let stranger = #expect(throws: ImageError.self) { _ = try open(sealed, SecretKey.make()) }
        #expect(stranger == .io(errno: EKEYREJECTED, operation: "opening an image that is sealed to other keys"))
    }

    @Test func `cut, swapped, doubled and changed chunks are found`() throws {
        let key = try SecretKey.make()
        let sealed = try seal(Sample.noise(65_536 * 3), to: [key])
        let (header, chunk) = (16 + 88, 65_536 + 16)
        #expect(try open(sealed, key).count == 65_536 * 3)
        func fails(_ bytes: [UInt8], _ what: Comment) { #expect(throws: ImageError.self, what) { _ = try open(bytes, key) } }
        // At the border of two chunks above all: every chunk that is left is authentic.
        for length in [0, 5, 16, 60, header, header + 1, header + chunk, header + 2 * chunk, header + 2 * chunk + 20, sealed.count - 1] {
            fails(Array(sealed.prefix(length)), "cut at \(length)")
        }
        fails(sealed + [0], "a byte more")
        let chunks = (0..<3).map { Array(sealed[(header + $0 * chunk)..<(header + ($0 + 1) * chunk)]) }
        let head = Array(sealed.prefix(header))
        fails(head + chunks[1] + chunks[0] + chunks[2], "swapped")
        fails(head + chunks[0] + chunks[0] + chunks[1] + chunks[2], "doubled")
        fails(head + chunks[1] + chunks[2], "without the first")
        for position in stride(from: 0, to: sealed.count, by: 5003) {
            fails(sealed.enumerated().map { $0 == position ? $1 ^ 1 : $1 }, "byte \(position)")
        }
        for position in 0..<header { fails(sealed.enumerated().map { $0 == position ? $1 ^ 1 : $1 }, "header byte \(position)") }
    }

    @Test func `a sealed image in an archive`() throws {
        let archive = try scratch.archive()
        let (key, other) = (try SecretKey.make(), try SecretKey.make())
        var details = Archive.Details()
        details.recipients = [key.publicKey]
        let image = try Sample.image([Sample.session(received: Array("top secret".utf8))])
        let entry = try archive.add(MemorySource(image), details, from: "test")
        #expect(entry.isSealed && entry.flows.isEmpty && entry.inventory.command.isEmpty && entry.service == "nginx")
        let name = try archive.find(entry.name)
        #expect(try contents(of: archive.image(name, key: key)) == image)
        let file = try #require(readBytes(scratch.files[0]))
        for word in ["192.0.2.1", "worker process", "top secret"] { #expect(!file.indices.contains { file[$0...].starts(with: word.utf8) }) }
        for (given, errno) in [(nil, ENOKEY), (other, EKEYREJECTED)] {
            let refusal = #expect(throws: CheckpointError.self) { _ = try archive.image(name, key: given) }
            #expect(refusal?.errno == errno)
        }
        // From the outside, with the key, and after damage.
        #expect(try archive.verify().unopened == 1)
        #expect(try archive.verify(key: key).unopened == 0)
        var damaged = file
        damaged[300] ^= 1
        _ = scratch.write("archive/images/\(name.file)", damaged)
        #expect(try archive.verify().problems.count == 1)
    }
}
