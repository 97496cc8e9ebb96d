// Memory, speed, checksums, addresses as text.

import Glibc
import Testing

@testable import SCImage

/// Lets the test count what the writer does.
final class CountingSink: ByteSink {
    var writes = 0
    var largest = 0
    var total = 0
    func write(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        writes += 1
        largest = max(largest, bytes.count)
        total += bytes.count
    }
}

private func residentBytes() -> Int {
    let file = open("/proc/self/statm", O_RDONLY)
    defer { close(file) }
    var buffer = [UInt8](repeating: 0, count: 128)
    let count = read(file, &buffer, buffer.count)
    let fields = String(decoding: buffer[..<max(0, count)], as: UTF8.self).split(separator: " ")
    return fields.count > 1 ? (Int(fields[1]) ?? 0) * 4096 : 0
}

private func seconds(_ body: () throws -> Void) rethrows -> Double {
    let clock = ContinuousClock()
    let time = try clock.measure(body)
    return Double(time.components.seconds) + Double(time.components.attoseconds) / 1e18
}

@Suite(.serialized) struct StreamTests {
    @Test func `10,000 sessions of 32 KiB stream through constant memory`() throws {
        var random = Seeded(state: 5)
        var session = idleSession(0, &random)
        session.channels[0].receiveQueue = random.bytes(16 << 10)
        session.channels[0].sendQueue = random.bytes(16 << 10)
        var ends: [Int32] = [0, 0]
        try #require(pipe(&ends) == 0)
        // A thread of the C library, as blocking calls have no place in the cooperative pool.
        final class Job {
            let session: Session
            let end: Int32
            init(_ session: Session, _ end: Int32) { (self.session, self.end) = (session, end) }
        }
        var thread = pthread_t()
        let job = Unmanaged.passRetained(Job(session, ends[1])).toOpaque()
        pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                let job = Unmanaged<Job>.fromOpaque(argument).takeRetainedValue()
                if var writer = try? ImageWriter(DescriptorSink(job.end), Inventory()) {
                    for _ in 0..<10_000 { try? writer.write(job.session) }
                    try? writer.finish()
                }
                close(job.end)
                return nil
            }, job)
        var reader = try ImageReader(DescriptorSource(ends[0]))
        var (count, before, most) = (0, 0, 0)
        while let next = try reader.next() {
            if count % 500 == 0 { #expect(next == session) }
            if count == 100 { before = residentBytes() }
            if count > 100, count % 100 == 0 { most = max(most, residentBytes()) }
            count += 1
        }
        pthread_join(thread, nil)
        close(ends[0])
        #expect(count == 10_000)
        print("memory grew by \((most - before) >> 10) KiB over \(reader.bytesRead >> 20) MiB")
        #expect(most - before < 32 << 20)
    }

    @Test func `Small sessions share writes and queues are written from where they lie`() throws {
        var random = Seeded(state: 6)
        let sink = CountingSink()
        var writer = try ImageWriter(sink, Inventory())
        try writer.flush()
        try writer.write(idleSession(0, &random))
        #expect(sink.writes == 1)
        try writer.flush()
        #expect(sink.writes == 2)
        for index in 0..<1000 { try writer.write(idleSession(index, &random)) }
        #expect(sink.writes <= 4)
        var session = idleSession(0, &random)
        session.channels[0].sendQueue = random.bytes(3 << 20)
        try writer.flush()
        let before = sink.writes
        try writer.write(session)
        try writer.finish()
        #expect(sink.writes - before == 7)
        #expect(sink.largest == 1 << 20)
        #expect(sink.total == Int(writer.bytesWritten))
    }

    @Test func `Speed`() throws {
        var random = Seeded(state: 7)
        let idle = (0..<1000).map { idleSession($0, &random) }
        let bytes = try image(idle)
        let encoding = try seconds { for _ in 0..<20 { _ = try image(idle) } } / 20_000
        let decoding = try seconds { for _ in 0..<20 { _ = try sessions(bytes) } } / 20_000
        var bulk = idleSession(0, &random)
        bulk.channels[0].sendQueue = random.bytes(32 << 20)
        let sink = CountingSink()
        var writer = try ImageWriter(sink, Inventory())
        let writing = try seconds { for _ in 0..<8 { try writer.write(bulk) } }
        try writer.finish()
        let bulkImage = try image([bulk])
        let reading = try seconds { for _ in 0..<8 { _ = try sessions(bulkImage) } }
        print("idle session: encode \(encoding * 1e6) µs, decode \(decoding * 1e6) µs")
        print("queues: write \(0.25 / writing) GiB/s, read \(0.25 / reading) GiB/s")
        var wire = try WireWriter(sink)
        let sending = try seconds { for _ in 0..<8 { try wire.write(.session(bulk)) } }
        let stream = try WireTests.stream([.session(bulk)])
        let receiving = try seconds {
            for _ in 0..<8 {
                var reader = try WireReader(MemorySource(stream))
                _ = try reader.next()
            }
        }
        print("queues on the wire, without SHA-256: write \(0.25 / sending) GiB/s, read \(0.25 / receiving) GiB/s")
        // Far above what is measured: this only notices a change of kind.
        #expect(encoding < 500e-6)
        #expect(decoding < 500e-6)
    }

    @Test func `Checksums are the standard ones`() throws {
        let text = Array("123456789".utf8)
        #expect(text.withUnsafeBytes { checksum(0, $0) } == 0xe306_9283)
        var random = Seeded(state: 8)
        for length in 0..<200 {
            let bytes = random.bytes(length)
            let fast = bytes.withUnsafeBytes { checksum(0, $0) }
            #expect(fast == bytes.withUnsafeBytes { portableChecksum(0, $0) })
            let cut = random.below(length + 1)
            let first = bytes[..<cut].withUnsafeBytes { checksum(0, $0) }
            #expect(bytes[cut...].withUnsafeBytes { checksum(first, $0) } == fast)
        }
        let digest = try sha256(Array("abc".utf8))
        #expect(digest.prefix(8) == [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea])
        #expect(try sha256([]).prefix(4) == [0xe3, 0xb0, 0xc4, 0x42])
    }

    @Test func `Addresses are printed as RFC 5952 wants`() {
        func ipv6(_ high: UInt64, _ low: UInt64) -> String { IPAddress(ipv6High: high, low: low).description }
        #expect(IPAddress(ipv4: 0xc000_0201).description == "192.0.2.1")
        #expect(ipv6(0, 0) == "::")
        #expect(ipv6(0, 1) == "::1")
        #expect(ipv6(0x2001_0db8 << 32, 1) == "2001:db8::1")
        #expect(ipv6(0x2001_0db8_0000_0001, 0x0001_0001_0001_0001) == "2001:db8:0:1:1:1:1:1")
        #expect(ipv6(0x2001_0000_0000_0001, 0x0000_0000_0000_0001) == "2001:0:0:1::1")
        #expect(ipv6(0x2001_0db8_0000_0000, 0x0001_0000_0000_0001) == "2001:db8::1:0:0:1")
        #expect(ipv6(0x0001_0000_0000_0000, 0) == "1::")
        #expect(ipv6(0, 0xffff_c000_0201) == "::ffff:192.0.2.1")
        #expect(SocketAddress(IPAddress(ipv6High: 0xfe80 << 48, low: 1), port: 22, scope: 3).description == "[fe80::1%3]:22")
        #expect(SessionID(high: 1, low: .max).description == "0000000000000001ffffffffffffffff")
    }
}
