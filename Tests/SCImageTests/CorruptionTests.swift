// A damaged image is refused: never a crash, never a session that was not written.

import Testing

@testable import SCImage

@Suite struct CorruptionTests {
    /// Images of different kinds, with what is in them.
    static let samples: [(image: [UInt8], sessions: [Session])] = (0..<6).map { index in
        var random = Seeded(state: 100 + UInt64(index))
        let sessions = index == 0 ? [] : (0..<index).map { _ in random.session(queues: 120) }
        guard let bytes = try? image(sessions, random.inventory()) else { fatalError("cannot write sample \(index)") }
        return (bytes, sessions)
    }

    @Test(arguments: samples.indices) func `An image cut anywhere is refused`(_ index: Int) {
        let (image, sessions) = Self.samples[index]
        for length in 0..<image.count {
            let result = outcome(Array(image[..<length]))
            #expect(result.error != nil, "cut at \(length)")
            #expect(sessions.starts(with: result.sessions), "cut at \(length)")
        }
        for length in 16..<image.count {
            guard case .truncated(let offset) = outcome(Array(image[..<length])).error else {
                Issue.record("cut at \(length) is not said to be cut")
                continue
            }
            #expect(offset <= UInt64(length))
        }
    }

    @Test(arguments: samples.indices) func `A flipped bit or byte is refused`(_ index: Int) {
        let (image, sessions) = Self.samples[index]
        for position in image.indices {
            for flip in [0xff, 1, 2, 4, 8, 16, 32, 64, 128] as [UInt8] {
                var damaged = image
                damaged[position] ^= flip
                let result = outcome(damaged)
                #expect(result.error != nil, "\(flip) at \(position)")
                #expect(sessions.starts(with: result.sessions), "\(flip) at \(position)")
            }
        }
    }

    @Test func `A record left out, doubled or moved is refused`() throws {
        var random = Seeded(state: 7)
        let expected = (0..<3).map { _ in random.session(queues: 50) }
        let all = try records(image(expected))
        for index in all.indices {
            var fewer = all
            fewer.remove(at: index)
            // The End record agrees with what is there, so only the structure can be wrong - or a whole session is gone.
            let result = outcome(try assemble(fewer))
            #expect(result.error != nil || result.sessions.count < 3, "without record \(index)")
            for session in result.sessions { #expect(expected.contains(session)) }
            var more = all
            more.insert(all[index], at: index)
            let doubled = outcome(try assemble(more))
            #expect(doubled.error != nil || doubled.sessions.count > 3, "record \(index) twice")
        }
    }

    @Test func `Wrong counts and a wrong digest are refused`() throws {
        var random = Seeded(state: 8)
        let all = try records(image([random.session(), random.session()]))
        for (what, change) in [
            ("sessions", { $0.sessions += 1 }), ("channels", { $0.channels -= 1 }), ("records", { $0.records = 0 }),
        ] as [(String, (inout ImageEnd) -> Void)] {
            guard case .countMismatch(what, _, _, _) = outcome(try assemble(all, change: change)).error else {
                Issue.record("\(what) not checked")
                continue
            }
        }
        guard case .digest = outcome(try assemble(all) { $0.sha256[31] ^= 1 }).error else {
            Issue.record("digest not checked")
            return
        }
        guard case .digest = outcome(try assemble(all) { $0.sha256.removeLast() }).error else {
            Issue.record("length of the digest not checked")
            return
        }
    }

    @Test func `Bytes after the end are refused`() throws {
        let image = Self.samples[2].image
        #expect(outcome(image + [0]).error == .trailingBytes(offset: UInt64(image.count)))
        #expect(outcome(image + image).error == .trailingBytes(offset: UInt64(image.count)))
    }

    @Test func `Other files are told apart`() throws {
        let image = Self.samples[1].image
        #expect(outcome([]).error == .truncated(offset: 0))
        #expect(outcome([0x8b]).error == .notAnImage)
        #expect(outcome(Array("#!/bin/sh\nexit 0\n".utf8)).error == .notAnImage)
        #expect(outcome([UInt8](repeating: 0, count: 4096)).error == .notAnImage)
        // Unix to DOS, DOS to Unix, seven bits.
        let toDOS = image.flatMap { $0 == 10 ? [13, 10] : [$0] }
        let toUnix = image.enumerated().filter { !($0.element == 13 && image[$0.offset + 1] == 10) }.map(\.element)
        for damaged in [toDOS, toUnix, image.map { $0 & 0x7f }] { #expect(outcome(damaged).error == .damagedByTextTransfer) }
        var wire = try WireWriter(MemorySink())
        try wire.write(.report(Report(stages: [])))
        #expect(outcome(wire.sink.bytes).error == .notAnImage)
    }

    @Test func `An error stays`() throws {
        var reader = try ImageReader(MemorySource(Array(Self.samples[3].image.dropLast())))
        var errors: [ImageError] = []
        for _ in 0..<6 {
            do { _ = try reader.next() } catch { errors.append(error) }
        }
        #expect(errors.count == 3)
        #expect(Set(errors.map(\.description)).count == 1)
    }
}
