// What is written is what is read, and it costs what it should.

import Testing

@testable import SCImage

@Suite struct RoundTripTests {
    @Test func `3,000 random images decode to what was encoded`() throws {
        for seed in UInt64(0)..<3000 {
            var random = Seeded(state: seed)
            let inventory = random.inventory()
            let expected = (0..<random.below(4)).map { _ in random.session() }
            let bytes = try image(expected, inventory)
            var reader = try ImageReader(MemorySource(bytes))
            #expect(reader.inventory == inventory)
            #expect(reader.formatVersion == 1)
            for session in expected { #expect(try reader.next() == session, "seed \(seed)") }
            #expect(try reader.next() == nil)
            #expect(try reader.next() == nil)
            #expect(reader.bytesRead == UInt64(bytes.count))
        }
    }

    @Test func `An idle session costs at most 160 bytes`() throws {
        var random = Seeded(state: 1)
        let bytes = try image((0..<1000).map { idleSession($0, &random) })
        let each = Double(bytes.count) / 1000
        print("bytes per idle session, frames included: \(each)")
        #expect(each <= 160)
    }
}
