// libsc as a server sees it: without an agent, with one that refuses, and with one that comes and goes.

import CProc
import Glibc
import SC
import SCEngine
import Testing

/// What the callbacks were called with.
private final class Heard {
    var calls: [String] = []
    var parks = true
    var accepts = true
    /// The session that was imported and is answered later; only when `answersLater`.
    var imported: OpaquePointer?
    var answersLater = false
}

@Suite(.serialized) struct LibSCTests {
    private let path = "/tmp/libsc-test-\(getpid()).sock"
    private let heard = Heard()

    private func open(_ name: String = "test") throws -> OpaquePointer {
        setenv("SC_AGENT_SOCKET", path, 1)
        var callbacks = sc_callbacks_t()
        callbacks.size = MemoryLayout<sc_callbacks_t>.size
        callbacks.park = { c, session in
            LibSC.heard(session).calls.append("park")
            guard LibSC.heard(session).parks else { return }
            _ = sc_export(c, "state", 5)
            _ = sc_parked(c)
        }
        callbacks.resume = { _, session in LibSC.heard(session).calls.append("resume") }
        callbacks.gone = { c, session in
            LibSC.heard(session).calls.append("gone")
            sc_end(c)
        }
        callbacks.offer = { _, offer, user in
            var c: OpaquePointer?
            LibSC.heard(user).calls.append("offer \(String(cString: sc_offer_peer(offer)))")
            if LibSC.heard(user).accepts { sc_accept(offer, user, &c) } else { sc_decline(offer, "full") }
        }
        callbacks.`import` = { c, session, content in
            guard let content = content?.pointee else { return -EINVAL }
            guard content.state_version == 7 else { return -EPROTONOSUPPORT }
            let state = UnsafeRawBufferPointer(start: content.state, count: content.length)
            LibSC.heard(session).calls.append("import \(String(decoding: state, as: UTF8.self)) \(String(cString: content.roles[0]!))")
            if LibSC.heard(session).answersLater {
                LibSC.heard(session).imported = c
                return SC_LATER
            }
            close(content.fds[0])
            return 0
        }
        var sc: OpaquePointer?
        try #require(sc_open(name, 7, &callbacks, Unmanaged.passUnretained(heard).toOpaque(), 0, &sc) == 0)
        return sc!
    }

    private func create(_ sc: OpaquePointer) throws -> OpaquePointer {
        var c: OpaquePointer?
        try #require(sc_create(sc, Unmanaged.passUnretained(heard).toOpaque(), &c) == 0)
        return c!
    }

    /// Dispatches until the condition holds, for three seconds at most.
    private func dispatch(_ sc: OpaquePointer, until isDone: () -> Bool) {
        let deadline = Deadline(milliseconds: 3000)
        while !isDone(), !deadline.hasPassed {
            _ = cproc_poll(sc_fd(sc), Int16(POLLIN), 50)
            _ = sc_dispatch(sc)
        }
    }

    @Test func `without an agent every call succeeds and does nothing`() throws {
        unlink(path)
        let sc = try open()
        let pair = try tcpPair()
        let c = try create(sc)
        #expect(sc_associate(c, pair.server, "client") == 0)
        #expect(sc_export(c, "abc", 3) == 0)
        #expect(sc_status(sc) == 0 && sc_dispatch(sc) == 0)
        #expect(sc_accept_offers(sc, 1) == 0)
        #expect(sc_parked(c) == -ESTALE)
        #expect(sc_dissociate(c, pair.server) == 0)
        sc_end(c)
        sc_close(sc)
        close(pair.server)
        close(pair.client)
    }

    @Test func `wrong use is told and changes nothing`() throws {
        unlink(path)
        var none: OpaquePointer?
        #expect(sc_open("no name", 1, nil, nil, 0, &none) == -EINVAL)
        #expect(sc_open("name", 1, nil, nil, 2, &none) == -EINVAL)
        let sc = try open()
        let (one, other) = (try create(sc), try create(sc))
        let pair = try tcpPair()
        #expect(sc_associate(one, -1, "client") == -EBADF)
        #expect(sc_associate(one, sc_fd(sc), "client") == -EPROTOTYPE)
        #expect(sc_associate(one, pair.server, "") == -EINVAL)
        #expect(sc_associate(one, pair.server, "a:b") == -EINVAL)
        #expect(sc_associate(one, pair.server, "client") == 0)
        #expect(sc_associate(one, pair.server, "client") == -EALREADY)
        #expect(sc_associate(other, pair.server, "client") == -EALREADY)
        #expect(sc_dissociate(other, pair.server) == -ENOENT)
        let large = [UInt8](repeating: 1, count: Int(SC_STATE_DEFAULT) + 1)
        #expect(sc_export(one, large, large.count) == -EFBIG)
        #expect(sc_export(one, large, large.count - 1) == 0)
        sc_end(one)
        #expect(sc_associate(other, pair.server, "client") == 0)
        sc_close(sc)
        close(pair.server)
        close(pair.client)
    }

    @Test func `an agent of another version refuses, and the server serves on`() throws {
        let agent = try FakeAgent(path)
        let sc = try open()
        let hello = try agent.accept()
        #expect(hello.magic == SC_WIRE_MAGIC && hello.state_version == 7)
        var reason = sc_wire_reason()
        reason.head = sc_wire_head(type: SC_WIRE_UNWELCOME.rawValue, length: UInt32(MemoryLayout<sc_wire_reason>.size), continuation: 0)
        reason.error = EPROTONOSUPPORT
        withUnsafeMutableBytes(of: &reason.text) { $0.copyBytes(from: "versions 2 to 3".utf8) }
        try agent.send(reason)
        dispatch(sc) { sc_status(sc) != 0 }
        #expect(sc_status(sc) == -EPROTONOSUPPORT)
        #expect(String(cString: sc_reason(sc)) == "versions 2 to 3")
        let c = try create(sc)
        let pair = try tcpPair()
        #expect(sc_associate(c, pair.server, "client") == 0)
        sc_close(sc)
        close(pair.server)
        close(pair.client)
    }

    @Test func `a restarted agent is told the associations again`() throws {
        var agent: FakeAgent? = try FakeAgent(path)
        let sc = try open()
        let c = try create(sc)
        let pair = try tcpPair()
        #expect(sc_associate(c, pair.server, "client") == 0)
        for _ in 0..<2 {
            if agent == nil { agent = try FakeAgent(path) }
            dispatch(sc) { agent!.isWanted }
            _ = try agent!.accept()
            try agent!.welcome()
            dispatch(sc) { sc_status(sc) == 1 }
            let packet = try agent!.next()
            #expect(packet.type == SC_WIRE_ASSOCIATE && packet.fds.count == 1)
            let told = packet.bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_associate.self) }
            #expect(told.fd == pair.server && told.flags == 0)
            agent = nil
            dispatch(sc) { sc_status(sc) == 0 }
        }
        #expect(heard.calls.isEmpty)
        sc_close(sc)
        close(pair.server)
        close(pair.client)
    }

    @Test func `a session is parked with its state, resumed, parked again and gone`() throws {
        let agent = try FakeAgent(path)
        let sc = try open()
        _ = try agent.accept()
        try agent.welcome()
        dispatch(sc) { sc_status(sc) == 1 }
        let c = try create(sc)
        let pair = try tcpPair()
        #expect(sc_associate(c, pair.server, "client") == 0)
        let number = try agent.next().bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_head.self) }.continuation
        try agent.park(number)
        dispatch(sc) { heard.calls.count == 1 }
        let packet = try agent.next()
        #expect(packet.type == SC_WIRE_PARKED && packet.bytes.suffix(5) == Array("state".utf8)[...])
        #expect(sc_export(c, "x", 1) == -EBUSY && sc_dissociate(c, pair.server) == -EBUSY && sc_parked(c) == -ESTALE)
        try agent.say(SC_WIRE_RESUME, number)
        dispatch(sc) { heard.calls.count == 2 }
        try agent.park(number)
        dispatch(sc) { heard.calls.count == 3 }
        #expect(try agent.next().type == SC_WIRE_PARKED)
        try agent.say(SC_WIRE_GONE, number)
        dispatch(sc) { heard.calls.count == 4 }
        #expect(heard.calls == ["park", "resume", "park", "gone"])
        sc_close(sc)
        close(pair.server)
        close(pair.client)
    }

    /// The number that the library gives the session of an accepted offer.
    private func accept(_ sc: OpaquePointer, _ agent: FakeAgent, _ calls: Int) throws -> UInt64 {
        try agent.offer(1 << 63, peer: "192.0.2.7:9")
        dispatch(sc) { heard.calls.count == calls }
        let packet = try agent.next()
        try #require(packet.type == SC_WIRE_ACCEPTED)
        return packet.bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_accepted.self) }.continuation
    }

    /// A server that takes sessions, and an agent that has heard so.
    private func openForOffers() throws -> (FakeAgent, OpaquePointer) {
        let agent = try FakeAgent(path)
        let sc = try open()
        _ = try agent.accept()
        try agent.welcome()
        #expect(sc_accept_offers(sc, 1) == 0)
        dispatch(sc) { sc_status(sc) == 1 }
        #expect(try agent.next().type == SC_WIRE_OFFERS)
        return (agent, sc)
    }

    @Test func `what is pinned is refused by the library, and each agent is told why`() throws {
        let agent = try FakeAgent(path)
        let sc = try open()
        _ = try agent.accept()
        let pair = try tcpPair()
        let c = try create(sc)
        #expect(sc_pin(c, "") == -EINVAL && sc_pin(c, String(repeating: "x", count: 200)) == -EINVAL)
        #expect(sc_pin(c, "keys") == 0 && sc_pin(c, "keys") == 0)
        #expect(sc_associate(c, pair.server, "client") == 0)
        try agent.welcome(version: 5)
        dispatch(sc) { agent.hasPacket }
        let number = try agent.next().bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_head.self) }.continuation
        try #expect(agent.reason() == (SC_WIRE_PIN, number, "keys") && !agent.hasPacket)
        try agent.park(number)
        dispatch(sc) { agent.hasPacket }
        try #expect(agent.reason() == (SC_WIRE_REFUSED, number, "keys") && heard.calls.isEmpty)
        #expect(sc_pin(c, nil) == 0 && sc_pin(c, nil) == 0)
        try #expect(agent.reason() == (SC_WIRE_PIN, number, "") && !agent.hasPacket)
        try agent.park(number)
        dispatch(sc) { !heard.calls.isEmpty }
        #expect(heard.calls == ["park"])
        sc_end(c)
        sc_close(sc)
        close(pair.server)
        close(pair.client)
    }

    @Test func `a long state is reserved, and comes in a sealed file`() throws {
        let agent = try FakeAgent(path)
        let sc = try open()
        _ = try agent.accept()
        let pair = try tcpPair()
        let c = try create(sc)
        let long = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        #expect(sc_reserve(c, 1) == -EINVAL && sc_reserve(c, Int(SC_STATE_MAX) + 1) == -EINVAL)
        #expect(sc_export(c, long, long.count) == -EFBIG)
        #expect(sc_reserve(c, long.count) == 0 && sc_export(c, long, long.count) == 0 && sc_export(c, long, long.count + 1) == -EFBIG)
        #expect(sc_associate(c, pair.server, "client") == 0)
        try agent.welcome(version: 5)
        dispatch(sc) { agent.hasPacket }
        let number = try agent.next().bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_head.self) }.continuation
        let room = try agent.next()
        #expect(room.type == SC_WIRE_ROOM && room.bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_room.self) }.bytes == 200_000)
        heard.parks = false
        try agent.park(number)
        dispatch(sc) { !heard.calls.isEmpty }
        #expect(sc_export(c, long, long.count) == 0 && sc_parked(c) == 0)
        let parked = try agent.next()
        var state = [UInt8](repeating: 0, count: long.count)
        try #require(parked.type == SC_WIRE_PARKED && parked.bytes.count == MemoryLayout<sc_wire_parked>.size && parked.fds.count == 1)
        #expect(cproc_is_sealed(parked.fds[0].raw) && !cproc_is_sealed(pair.client))
        #expect(pread(parked.fds[0].raw, &state, state.count, 0) == state.count && state == long)
        sc_end(c)
        sc_close(sc)
        close(pair.server)
        close(pair.client)
    }

    @Test func `an agent of a former version gets no long state`() throws {
        let agent = try FakeAgent(path)
        let sc = try open()
        _ = try agent.accept()
        try agent.welcome(version: 4)
        dispatch(sc) { sc_status(sc) == 1 }
        let pair = try tcpPair()
        let c = try create(sc)
        let long = [UInt8](repeating: 1, count: 70_000)
        #expect(sc_reserve(c, 100_000) == 0 && sc_pin(c, "why") == 0 && sc_associate(c, pair.server, "client") == 0)
        #expect(sc_export(c, long, long.count) == -EFBIG && sc_export(c, long, Int(SC_STATE_DEFAULT)) == 0)
        #expect(try agent.next().type == SC_WIRE_ASSOCIATE && !agent.hasPacket)
        sc_end(c)
        sc_close(sc)
        close(pair.server)
        close(pair.client)
    }

    @Test func `an offer is declined, refused at the import, and taken`() throws {
        let (agent, sc) = try openForOffers()
        heard.accepts = false
        try agent.offer(1 << 63, peer: "192.0.2.7:9")
        dispatch(sc) { heard.calls.count == 1 }
        let declined = try agent.next()
        #expect(declined.type == SC_WIRE_REFUSED)
        heard.accepts = true

        let pair = try tcpPair()
        try agent.bring(accept(sc, agent, 2), state: "abc", version: 8, fd: pair.server)
        dispatch(sc) { agent.hasPacket }
        let refused = try agent.next().bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_reason.self) }
        #expect(refused.head.type == SC_WIRE_REFUSED.rawValue && refused.error == EPROTONOSUPPORT)

        let number = try accept(sc, agent, 3)
        try agent.bring(number, state: "abc", version: 7, fd: pair.server)
        dispatch(sc) { heard.calls.count == 4 }
        #expect(try agent.next().type == SC_WIRE_READY)
        try agent.say(SC_WIRE_GONE, number)
        dispatch(sc) { heard.calls.count == 5 }
        #expect(heard.calls.suffix(3) == ["offer 192.0.2.7:9", "import abc client", "gone"])
        sc_close(sc)
        close(pair.server)
        close(pair.client)
    }

    @Test func `an import is answered later, with a reason when it is refused`() throws {
        let (agent, sc) = try openForOffers()
        let pair = try tcpPair()
        heard.answersLater = true
        for isTaken in [true, false] {
            heard.imported = nil
            let number = try accept(sc, agent, isTaken ? 1 : 4)
            try agent.bring(number, state: "abc", version: 7, fd: pair.server)
            dispatch(sc) { heard.imported != nil }
            #expect(!agent.hasPacket)
            let c = try #require(heard.imported)
            if isTaken {
                #expect(sc_ready(c) == 0 && sc_ready(c) == -ESTALE)
                #expect(try agent.next().type == SC_WIRE_READY)
                try agent.say(SC_WIRE_GONE, number)
                dispatch(sc) { heard.calls.last == "gone" }
                #expect(heard.calls.last == "gone")
            } else {
                #expect(sc_refuse(c, "another file") == 0)
                let refused = try agent.next().bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_reason.self) }
                let text = withUnsafeBytes(of: refused.text) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
                #expect(refused.head.type == SC_WIRE_REFUSED.rawValue && refused.head.continuation == number && text == "another file")
            }
        }
        sc_close(sc)
        close(pair.server)
        close(pair.client)
    }

    @Test func `an agent that dies while a session is parked leaves it to its socket`() throws {
        var agent: FakeAgent? = try FakeAgent(path)
        let sc = try open()
        _ = try agent?.accept()
        try agent?.welcome()
        dispatch(sc) { sc_status(sc) == 1 }
        let c = try create(sc)
        let pair = try tcpPair()
        #expect(sc_associate(c, pair.server, "client") == 0)
        let number = try agent!.next().bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_head.self) }.continuation
        try agent?.park(number)
        dispatch(sc) { heard.calls == ["park"] }
        agent = nil
        let began = monotonicNanoseconds()
        // The grace is two seconds, looked at once a second.
        for _ in 0..<2 { dispatch(sc) { heard.calls.count == 2 } }
        #expect(heard.calls == ["park", "resume"])
        #expect(monotonicNanoseconds() - began > 1_900_000_000)
        sc_close(sc)
        close(pair.server)
        close(pair.client)
    }
}

/// Callbacks are C functions: they find the test's record by the session.
private enum LibSC {
    static func heard(_ pointer: UnsafeMutableRawPointer?) -> Heard { Unmanaged<Heard>.fromOpaque(pointer!).takeUnretainedValue() }
}
