// Hostile images get no more memory than the limits allow.

import Testing

@testable import SCImage

@Suite struct BudgetTests {
    static func record(_ type: RecordType, _ payload: [UInt8]) throws -> ImageError? {
        var all = try records(image([]))
        all.append(RawRecord(type: type, payload: payload))
        return outcome(try assemble(all)).error
    }

    /// A session header: id, then other fields.
    static let header: [UInt8] = [0x09, 1, 1, 1, 1, 1, 1, 1, 1, 0x11, 1, 1, 1, 1, 1, 1, 1, 1]
    static let channel: [UInt8] =
        field(1, [192, 0, 2, 1, 0, 80]) + field(2, [192, 0, 2, 2, 0, 81]) + [0x1d, 0, 0, 0, 0, 0x25, 0, 0, 0, 0]

    /// Header and channel as they are, and what one more channel field does.
    static func channelError(_ more: [UInt8]) throws -> ImageError? {
        var all = try records(image([]))
        all += [RawRecord(type: .session, payload: header), RawRecord(type: .tcpChannel, payload: channel + more)]
        return outcome(try assemble(all)).error
    }

    @Test func `A record length of 0xffffffff is refused before anything is read`() throws {
        var bytes = Array(try image([])[..<16])
        bytes += [2, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]
        #expect(outcome(bytes).error == .overBudget(what: "record length", value: 0xffff_ffff, limit: 1 << 20, offset: 16))
    }

    @Test func `Lengths stated in messages are refused before memory is spent`() throws {
        let huge: [UInt8] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]
        for message in [[0x18] + huge, [0x20] + huge, field(5, [65]) + [0x30] + huge] {
            guard case .overBudget(_, _, _, .some) = try Self.record(.session, Self.header + message) else {
                Issue.record("accepted \(message)")
                continue
            }
        }
        #expect(try Self.channelError([]) == nil)
        for tag: [UInt8] in [[0xb8, 1], [0xc0, 1], [0xc8, 1]] {
            guard case .overBudget(_, value: .max, _, .some) = try Self.channelError(tag + huge) else {
                Issue.record("accepted \(tag)")
                continue
            }
        }
        // Allowed by itself, but more than a session may take.
        guard case .overBudget("bytes of a session", _, _, _) = try Self.channelError([0xb8, 1] + varint(300 << 20)) else {
            Issue.record("accepted 300 MiB")
            return
        }
        // Stated but not there: nothing of the size is touched.
        guard case .countMismatch = try Self.channelError([0xb8, 1] + varint(100 << 20)) else {
            Issue.record("accepted 100 MiB that are not there")
            return
        }
    }

    @Test func `Impossible values are refused`() throws {
        for (what, message) in [
            ("a scale of 15", [0x38, 0x0f]), ("a scale of 15 for us", [0x38] + varint(0xf0)), ("scales", [0x38] + varint(0x100)),
            ("options", [0x30, 16]), ("an MSS", [0x40] + varint(65536)), ("LISTEN", [0xb0, 1, 10]), ("state 12", [0xb0, 1, 12]),
            ("state 257", [0xb0, 1] + varint(257)), ("five address bytes", field(1, [1, 2, 3, 4, 5, 0, 80])),
            ("no address", field(1, [])), ("one byte", field(2, [1])), ("port 0", field(1, [1, 2, 3, 4, 0, 0])),
            ("two families", field(1, [UInt8](repeating: 1, count: 18))), ("unsent bytes", [0xc8, 1, 1]),
            ("a scope", [0xd8, 1, 2]), ("a colon", field(26, Array("a:b".utf8))), ("no name", field(26, [])),
            ("a NUL", field(26, [65, 0])), ("no UTF-8", field(26, [0xc3])), ("a long name", field(26, [UInt8](repeating: 65, count: 256))),
            ("a long algorithm", field(13, [UInt8](repeating: 65, count: 16))), ("fd -2", [0x28, 3]),
            ("a long option", field(30, [8, 1, 16, 1] + field(3, [UInt8](repeating: 0, count: 4097)))),
            ("an option without a value", field(30, [8, 1, 16, 1])),
            ("many options", (0..<257).flatMap { _ in field(30, [8, 1, 16, 1] + field(3, [0])) }),
        ] as [(String, [UInt8])] {
            #expect(try Self.channelError(message) != nil, "\(what)")
        }
    }

    @Test func `Repeated and nested fields stay within the arena`() throws {
        let option = field(30, [8, 1, 16, 1] + field(3, []))
        let options = [UInt8]((0..<100_000).flatMap { _ in option })
        let unknown = [UInt8]((0..<200_000).flatMap { _ in [0xf8, 0x7f, 0] as [UInt8] })
        for (what, message) in [("options", options), ("unknown fields", unknown)] {
            guard case .overBudget("memory of the TCPChannel message", _, limit: 4 << 20, _) = try Self.channelError(message) else {
                Issue.record("\(what) accepted, or refused for another reason")
                continue
            }
        }
        // One message given again and again is merged each time, at a cost.
        let merged = [UInt8]((0..<200_000).flatMap { _ in field(10, [8, 1]) })
        guard case .overBudget("memory of the Offer message", _, _, _) = try Self.wireError(.offer, [0x10, 1, 0x18, 1] + merged) else {
            Issue.record("merged messages accepted, or refused for another reason")
            return
        }
    }

    /// What a record on the wire is refused for.
    static func wireError(_ type: RecordType, _ payload: [UInt8]) throws(ImageError) -> ImageError? {
        var frames = try FrameWriter(MemorySink(), kind: .wire)
        try frames.write(RawRecord(type: type, payload: payload))
        try frames.flush()
        var reader = try WireReader(MemorySource(frames.sink.bytes))
        do {
            _ = try reader.next()
            return nil
        } catch {
            return error
        }
    }

    @Test func `What would be refused is not written`() throws {
        var random = Seeded(state: 3)
        func refused(_ what: String, _ change: (inout TCPChannel) -> Void) {
            var session = idleSession(0, &random)
            change(&session.channels[0])
            #expect(throws: ImageError.self, "\(what)") { try image([session]) }
        }
        refused("name") { $0.name = "a:b" }
        refused("state") { $0.state = .listen }
        refused("unsent") { $0.unsentLength = 1 }
        refused("negative") { $0.unsentLength = -1 }
        refused("family") { $0.isIPv6Socket = true }
        refused("port") { $0.peer.port = 0 }
        refused("scale") { $0.options.sendScale = 15 }
        refused("options") { $0.socketOptions = Array(repeating: SocketOption(level: 1, name: 1, value: []), count: 257) }
        var limits = ImageLimits()
        (limits.stateBytes, limits.sessionBytes, limits.channels) = (10, 15, 1)
        let channel = idleSession(0, &random).channels[0]
        var long = channel
        long.sendQueue = random.bytes(16)
        for session in [
            Session(id: .random(), channels: [], state: random.bytes(11)), Session(id: .random(), channels: [channel, channel]),
            Session(id: .random(), channels: [long]),
            Session(id: .random(), channels: [], adapter: AdapterState(name: "x", bytes: random.bytes(11))),
        ] {
            #expect(throws: ImageError.self) { try image([session], limits: limits) }
            let bytes = try image([session])
            guard case .overBudget(_, _, _, .some) = outcome(bytes, limits: limits).error else {
                Issue.record("read over budget")
                continue
            }
        }
    }

    @Test func `A refused session leaves the image as it was, a full disk ends it`() throws {
        var random = Seeded(state: 11)
        let good = idleSession(1, &random)
        var bad = good
        bad.channels[0].name = ""
        var writer = try ImageWriter(MemorySink(), Inventory())
        try writer.write(good)
        #expect(throws: ImageError.self) { try writer.write(bad) }
        try writer.write(good)
        try writer.finish()
        #expect(try sessions(writer.sink.bytes) == [good, good])

        struct FullSink: ByteSink {
            var left = 3
            mutating func write(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
                left -= 1
                if left < 0 { throw .io(errno: 28, operation: "writing") }
            }
        }
        var full = try ImageWriter(FullSink(), Inventory())
        var large = good
        large.channels[0].sendQueue = random.bytes(1 << 20)
        try full.write(large)
        for _ in 0..<3 { #expect(throws: ImageError.io(errno: 28, operation: "writing")) { try full.write(large) } }
        #expect(throws: ImageError.io(errno: 28, operation: "writing")) { try full.finish() }

        // More socket options than one record takes: found when the session has already begun.
        var wide = good
        let option = SocketOption(level: 1, name: 2, value: [UInt8](repeating: 7, count: 4096))
        wide.channels[0].socketOptions = Array(repeating: option, count: 256)
        var broken = try ImageWriter(MemorySink(), Inventory())
        #expect(throws: ImageError.self) { try broken.write(wide) }
        #expect(throws: ImageError.self) { try broken.write(good) }
        #expect(throws: ImageError.self) { try broken.finish() }
    }

    @Test func `Records of any length make the same session`() throws {
        var random = Seeded(state: 12)
        let expected = [random.session(queues: 9000), random.session(queues: 9000), random.session(queues: 9000)]
        for length in [700, 1000, 4096, 16 << 10] {
            var limits = ImageLimits()
            limits.recordLength = length
            #expect(try sessions(try image(expected, limits: limits)) == expected)
        }
    }

    @Test func `No message contains itself, and none has a string`() {
        let messages = MessageSchema.messages
        let contains = Dictionary(uniqueKeysWithValues: messages.map { ($0.name, $0.contains) })
        #expect(messages.count == 27)
        for message in messages {
            #expect(message.strings.isEmpty, "\(message.name)")
            var inside: Set<String> = []
            var next = message.contains
            while let name = next.popFirst() {
                guard inside.insert(name).inserted else { continue }
                guard let more = contains[name] else {
                    Issue.record("\(name) is not in the list")
                    continue
                }
                next.formUnion(more)
            }
            #expect(!inside.contains(message.name), "\(message.name) contains itself")
        }
    }
}
