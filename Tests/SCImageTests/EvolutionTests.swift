// Images of other versions, and what released versions wrote.

import Glibc
import Testing

@testable import SCImage

@Suite struct EvolutionTests {
    @Test func `Unknown optional records are skipped wherever they are`() throws {
        var random = Seeded(state: 9)
        let expected = [random.session(), random.session()]
        let all = try records(image(expected))
        for index in 0...all.count {
            var more = all
            more.insert(RawRecord(type: RecordType(rawValue: 0x8001), flags: [], payload: random.bytes(70)), at: index)
            more.insert(RawRecord(type: RecordType(rawValue: 0x42), flags: .init(rawValue: 0x8000), payload: []), at: index)
            let result = outcome(try assemble(more))
            #expect(result.error == nil)
            #expect(result.sessions == expected)
        }
    }

    @Test func `Unknown required records are refused wherever they are`() throws {
        var random = Seeded(state: 10)
        let all = try records(image([random.session()]))
        for index in 0...all.count {
            var more = all
            more.insert(RawRecord(type: RecordType(rawValue: 0x42), payload: [1, 2, 3]), at: index)
            guard case .unknownRequiredRecord(RecordType(rawValue: 0x42), _) = outcome(try assemble(more)).error else {
                Issue.record("accepted at \(index)")
                continue
            }
        }
    }

    @Test func `Records of the wire have no place in an image`() throws {
        let all = try records(image([]))
        guard case .unexpectedRecord(.offer, _) = outcome(try assemble(all + [RawRecord(type: .offer, payload: [])])).error else {
            Issue.record("accepted")
            return
        }
        guard case .unexpectedRecord(.session, offset: 16) = outcome(try assemble([RawRecord(type: .session, payload: [])])).error
        else {
            Issue.record("accepted without an inventory")
            return
        }
    }

    @Test func `Unknown flags of a known record are refused`() throws {
        var all = try records(image([]))
        all[0].flags = RecordFlags(rawValue: 3)
        guard case .malformed = outcome(try assemble(all)).error else {
            Issue.record("accepted")
            return
        }
    }

    @Test func `Newer versions are refused by number`() throws {
        var newer = try image([])
        (newer[8], newer[10]) = (2, 2)
        #expect(outcome(newer).error == .unsupportedVersion(found: 2, known: 1...1))
        #expect(outcome(newer).error?.description.contains("version 2; this program knows version 1") == true)
        // Version 2 that version 1 can read: right up to the digest, which covers the preamble.
        newer[10] = 1
        guard case .digest = outcome(newer).error else {
            Issue.record("not read to its end")
            return
        }
        // Impossible: readable only by versions after its own.
        (newer[8], newer[10]) = (1, 2)
        guard case .malformed = outcome(newer).error else {
            Issue.record("accepted")
            return
        }
    }

    /// What `Golden/v1.sci` holds. Never to be changed: it was written when version 1 was made.
    static let golden: (inventory: Inventory, sessions: [Session]) = {
        var inventory = Inventory()
        (inventory.host, inventory.tool) = ("source.example", "sc-checkpoint 0.1.0")
        (inventory.pid, inventory.command, inventory.createdAt) = (4321, "httpd -DFOREGROUND", 1_700_000_000)

        var plain = TCPChannel(
            local: SocketAddress(IPAddress(ipv4: 0xc000_0201), port: 80),
            peer: SocketAddress(IPAddress(ipv4: 0xc633_6407), port: 40123))
        (plain.fd, plain.writeSeq, plain.rcvNxt, plain.unsentLength) = (9, 0xffff_fffe, 5, 3)
        (plain.receiveQueue, plain.sendQueue) = (Array("GET / HTTP/1.1\r\n".utf8), Array("HTTP/1.1 200 OK\r\n".utf8))
        (plain.options.timestamps, plain.options.sack, plain.options.windowScaling) = (true, true, true)
        (plain.options.sendScale, plain.options.receiveScale, plain.options.mssClamp) = (7, 9, 1460)
        (plain.window.sndWl1, plain.window.sndWnd, plain.window.maxWindow) = (0xffff_fff0, 64256, 65152)
        (plain.window.rcvWnd, plain.window.rcvWup) = (65024, 5)
        (plain.timestamp, plain.sendMSS, plain.congestionWindow, plain.congestionControl) = (123_456_788, 1448, 10, "cubic")
        (plain.sendBuffer, plain.receiveBuffer, plain.bufferLock) = (87040, 131072, 2)
        plain.socketOptions = [
            SocketOption(level: 6, name: 1, value: [1, 0, 0, 0]), SocketOption(level: 1, name: 9, value: [1, 0, 0, 0]),
        ]
        (plain.bytesWritten, plain.bytesRead) = (5_000_000_000, 420)

        var link = TCPChannel(
            local: SocketAddress(IPAddress(ipv6High: 0xfe80 << 48, low: 1), port: 5432, scope: 2),
            peer: SocketAddress(IPAddress(ipv6High: 0xfe80 << 48, low: 2), port: 50001, scope: 3))
        (link.isIPv6Socket, link.state, link.name, link.fd) = (true, .closeWait, "database", 11)
        (link.options.ecn, link.writeSeq, link.rcvNxt) = (true, 1, 2)

        var mapped = TCPChannel(
            local: SocketAddress(IPAddress(ipv6High: 0, low: 0xffff_c000_0201), port: 8000),
            peer: SocketAddress(IPAddress(ipv6High: 0, low: 0xffff_c633_6408), port: 40124))
        (mapped.isIPv6Socket, mapped.state) = (true, .finWait2)

        return (
            inventory,
            [
                Session(id: SessionID(high: 1, low: 2), channels: [plain]),
                Session(
                    id: SessionID(high: 0xfedc_ba98_7654_3210, low: .max), channels: [link, mapped],
                    state: Array("user=alice".utf8), adapter: AdapterState(name: "http", bytes: [0, 1, 2, 255])),
                Session(id: SessionID(high: 0, low: 0), channels: [], adapter: AdapterState(name: "raw", bytes: [])),
            ]
        )
    }()

    @Test func `The golden image of version 1 is read and written exactly`() throws {
        let bytes = try Self.goldenFile("v1.sci", orElse: try image(Self.golden.sessions, Self.golden.inventory))
        let reader = try ImageReader(MemorySource(bytes))
        #expect(reader.inventory == Self.golden.inventory)
        #expect(try sessions(bytes) == Self.golden.sessions)
        #expect(try image(Self.golden.sessions, Self.golden.inventory) == bytes)
    }

    /// What `Golden/v1.scw` holds. Never to be changed.
    static let goldenWire: [WireMessage] = {
        var offer = Offer()
        (offer.tool, offer.host, offer.steering) = ("sc-checkpoint 0.1.0", "source.example", "route")
        offer.formatVersions = 1...1
        let channel = golden.sessions[0].channels[0]
        offer.flows = [
            Flow(local: channel.local, peer: channel.peer), Flow(local: golden.sessions[1].channels[1].local.onWire, peer: channel.peer),
        ]
        offer.namespace = NamespaceIdentity(device: 4, inode: 4_026_531_840, bootID: Array(0..<16))
        offer.handover = .onto(pid: 77, adapter: "http", options: ["url=/big", "rate=1"])
        (offer.queueBytes, offer.stateBytes, offer.deadlineMilliseconds, offer.dryRun) = (70_000, 12, 200, true)
        var exec = Offer()
        exec.handover = .exec(arguments: [Array("server".utf8), [0xff, 0xfe], []])
        var into = Offer()
        into.handover = .into(path: [0] + Array("acceptor".utf8))
        var answer = Answer(accepted: false)
        answer.reasons = [
            Reason(flow: 1, what: "the flow", why: "the port is taken", advice: "choose another target", errno: 98),
            Reason(what: "memory", why: "none left"),
        ]
        (answer.host, answer.isReturning, answer.isSameNamespace) = ("target.example", true, true)
        answer.addresses = [
            AddressPrefix(IPAddress(ipv4: 0xc000_0202), length: 24),
            AddressPrefix(IPAddress(ipv6High: 0x2001_0db8 << 32, low: 2), length: 64),
        ]
        answer.timings = [Timing(stage: "prepare", startNanoseconds: 1_000_000_007, durationNanoseconds: 250_000)]
        let failure = Failure(what: "rebuild", why: "no route", advice: "add one", errno: 113, needsRecover: true)
        return [.offer(offer), .offer(exec), .offer(into), .answer(answer), .session(golden.sessions[1])]
            + [.report(Report(stages: answer.timings)), .failure(failure)]
    }()

    @Test func `The golden stream of version 1 is read and written exactly`() throws {
        let written = try WireTests.stream(Self.goldenWire)
        let bytes = try Self.goldenFile("v1.scw", orElse: written)
        var reader = try WireReader(MemorySource(bytes))
        for message in Self.goldenWire { #expect(try reader.next() == message) }
        #expect(try reader.next() == nil)
        #expect(written == bytes)
    }

    /// A file that a released version wrote. With SC_WRITE_GOLDEN set, a missing one is made: once per format version.
    static func goldenFile(_ name: String, orElse bytes: [UInt8]) throws -> [UInt8] {
        let path = #filePath.split(separator: "/").dropLast().reduce("") { $0 + "/" + $1 } + "/Golden/" + name
        if access(path, F_OK) != 0, getenv("SC_WRITE_GOLDEN") != nil {
            try ImageFile.write(path) { sink throws(ImageError) in
                var sink = sink
                try bytes.withUnsafeBufferPointer { bytes throws(ImageError) in try sink.write(UnsafeRawBufferPointer(bytes)) }
            }
        }
        let file = open(path, O_RDONLY)
        try #require(file >= 0, "\(path) is missing")
        defer { close(file) }
        var contents = [UInt8](repeating: 0, count: 4096)
        return Array(contents[..<max(0, read(file, &contents, contents.count))])
    }
}
