// The messages of a migration.

import Testing

@testable import SCImage

extension Seeded {
    fileprivate mutating func list<T>(_ make: (inout Seeded) -> T) -> [T] { (0..<below(4)).map { _ in make(&self) } }

    fileprivate mutating func text() -> String { chance(3) ? "" : name(200) }

    fileprivate mutating func timing() -> Timing {
        Timing(stage: text(), startNanoseconds: number(UInt64.self), durationNanoseconds: number(UInt64.self))
    }

    fileprivate mutating func flows() -> [Flow] {
        list { random in
            let isIPv6 = random.chance(2)
            var (local, peer) = (random.end(isIPv6: isIPv6), random.end(isIPv6: isIPv6))
            (local.scope, peer.scope) = (0, 0)
            return Flow(local: local, peer: peer)
        }
    }

    fileprivate mutating func offer() -> Offer {
        var offer = Offer()
        offer.stateVersion = 7
        (offer.tool, offer.host, offer.steering) = (text(), text(), text())
        offer.fence = text()
        let oldest = number(UInt16.self)
        offer.formatVersions = oldest...max(oldest, number(UInt16.self))
        offer.flows = flows()
        if chance(2) { offer.migration = MigrationID(high: number(UInt64.self), low: next()) }
        if chance(2) { offer.namespace = NamespaceIdentity(device: number(UInt64.self), inode: next(), bootID: bytes(16)) }
        switch below(5) {
        case 0: offer.handover = .exec(arguments: list { $0.bytes($0.below(40)) })
        case 1: offer.handover = .into(path: bytes(below(108)))
        case 2: offer.handover = .onto(pid: Int32(truncatingIfNeeded: next()), adapter: text(), options: list { $0.text() })
        case 3: offer.handover = .service(name: text())
        default: break
        }
        (offer.queueBytes, offer.stateBytes) = (number(UInt64.self), number(UInt64.self))
        (offer.deadlineMilliseconds, offer.dryRun) = (number(UInt32.self), chance(2))
        return offer
    }

    fileprivate mutating func answer() -> Answer {
        var answer = Answer(accepted: chance(2))
        answer.reasons = list {
            Reason(
                flow: $0.chance(2) ? nil : Int($0.number(UInt32.self)), what: $0.text(), why: $0.text(), advice: $0.text(),
                errno: Int32(truncatingIfNeeded: $0.next()))
        }
        answer.host = text()
        answer.addresses = list {
            let end = $0.end(isIPv6: $0.chance(2)).address
            return AddressPrefix(end, length: UInt8($0.below(end.isIPv6 ? 129 : 33)))
        }
        (answer.isReturning, answer.isSameNamespace, answer.takesFewer) = (chance(2), chance(2), chance(2))
        answer.timings = list { $0.timing() }
        return answer
    }

    fileprivate mutating func report() -> Report {
        var report = Report(stages: list { $0.timing() })
        report.withdrawn = list { Int($0.number(UInt32.self)) }
        return report
    }

    fileprivate mutating func message() -> WireMessage {
        switch below(9) {
        case 4: .resolve(Resolve(MigrationID(high: number(UInt64.self), low: next())))
        case 5: .standing(Standing(MigrationID(high: next(), low: number(UInt64.self)), Standing.State.allCases[below(4)]))
        case 6: .inquiry(Inquiry(flows: flows()))
        case 7: .living(Living(flows: list { Int($0.number(UInt32.self)) }))
        case 0: .offer(offer())
        case 1: .answer(answer())
        case 2: .report(report())
        case 3:
            .failure(
                Failure(
                    what: text(), why: text(), advice: text(), errno: Int32(truncatingIfNeeded: next()), needsRecover: chance(2)))
        default: .session(session())
        }
    }
}

@Suite struct WireTests {
    static func stream(_ messages: [WireMessage]) throws(ImageError) -> [UInt8] {
        var writer = try WireWriter(MemorySink())
        for message in messages { try writer.write(message) }
        return writer.sink.bytes
    }

    @Test func `3,000 random streams decode to what was encoded`() throws {
        for seed in UInt64(0)..<3000 {
            var random = Seeded(state: seed)
            let messages = (0..<5).map { _ in random.message() }
            var reader = try WireReader(MemorySource(try Self.stream(messages)))
            for message in messages { #expect(try reader.next() == message, "seed \(seed)") }
            #expect(try reader.next() == nil)
        }
    }

    @Test func `A stream cut or damaged anywhere gives no wrong message`() throws {
        for seed in UInt64(50)..<56 {
            var random = Seeded(state: seed)
            let messages = (0..<4).map { _ in random.message() }
            let stream = try Self.stream(messages)
            func check(_ damaged: [UInt8], _ what: String) {
                var heard: [WireMessage] = []
                do {
                    var reader = try WireReader(MemorySource(damaged))
                    while let message = try reader.next() { heard.append(message) }
                } catch {}
                #expect(messages.starts(with: heard), "seed \(seed), \(what)")
            }
            for index in stream.indices {
                check(Array(stream[..<index]), "cut at \(index)")
                for flip in [1, 0x10, 0x80, 0xff] as [UInt8] {
                    var damaged = stream
                    damaged[index] ^= flip
                    // A known type may become an unknown optional one only with a checksum that agrees: it never does.
                    check(damaged, "\(flip) at \(index)")
                }
            }
        }
    }

    @Test func `Impossible messages are refused`() throws {
        for (what, type, payload) in [
            ("a version", .offer, [0x10] + varint(70000) + [0x18, 1]), ("a range", .offer, [0x10, 2, 0x18, 1]),
            ("no range", .offer, []), ("a hand-over", .offer, [0x10, 1, 0x18, 1] + field(10, [8, 5])),
            ("a service", .offer, [0x10, 1, 0x18, 1] + field(10, [8, 4] + field(7, [0xff]))),
            ("a flow", .offer, [0x10, 1, 0x18, 1] + field(5, field(1, [1, 2]) + field(2, [1, 2]))),
            ("no answer", .answer, []), ("a prefix", .answer, [8, 1] + field(4, [192, 0, 2, 1, 33])),
            ("an address", .answer, [8, 1] + field(4, [])), ("a text", .failure, field(1, [0xff])),
            ("an Inventory", .inventory, []), ("a TCPChannel", .tcpChannel, []), ("an End", .end, []),
        ] as [(String, RecordType, [UInt8])] {
            #expect(try BudgetTests.wireError(type, payload) != nil, "\(what)")
        }
    }

    @Test func `An offer of 10,000 flows fits into one record`() throws {
        var random = Seeded(state: 4)
        var offer = Offer()
        offer.flows = (0..<10_000).map { _ in Flow(local: random.end(isIPv6: false), peer: random.end(isIPv6: false)) }
        var reader = try WireReader(MemorySource(try Self.stream([.offer(offer)])))
        #expect(try reader.next() == .offer(offer))
    }
}
