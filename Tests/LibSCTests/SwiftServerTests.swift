// libsc from Swift, without an agent and with one that a test plays.

import Glibc
import SC
import SCServer
import Support
import Testing

@Suite(.serialized) struct SwiftServerTests {
    final class Client {
        var served = true
    }

    private func participant(_ name: String = "swift", offers: Bool = false) throws(SCError) -> Participant<Client> {
        try Participant(
            name, stateVersion: 7,
            Callbacks(
                park: { continuation in
                    continuation.session.served = false
                    try? continuation.export([1, 2, 3])
                    try? continuation.parked()
                },
                resume: { $0.session.served = true }, gone: { $0.end() },
                offer: offers ? { $0.decline("version \($0.stateVersion), part \"\($0.part)\"") } : nil, import: offers ? { _, _ in } : nil))
    }

    private func failure(_ body: () throws(SCError) -> Void) -> SCError? {
        do throws(SCError) { try body() } catch { return error }
        return nil
    }

    @Test func `wrong use throws the errno of the call that was wrong, and nothing has changed`() throws {
        setenv("SC_AGENT_SOCKET", "/nonexistent/agent", 1)
        defer { unsetenv("SC_AGENT_SOCKET") }
        #expect(failure { () throws(SCError) in _ = try participant("no name") } == SCError(errno: EINVAL, call: "sc_open"))
        let part = try participant()
        #expect(part.status == .absent)
        #expect(failure { () throws(SCError) in try part.acceptOffers(true) }?.errno == EINVAL)
        let (server, client) = try tcpPair()
        defer { for descriptor in [server, client] { close(descriptor) } }
        let continuation = try part.create(Client())
        #expect(failure { () throws(SCError) in try continuation.associate(-1, as: "client") }?.errno == EBADF)
        #expect(failure { () throws(SCError) in try continuation.associate(server, as: "a role") }?.errno == EINVAL)
        #expect(failure { () throws(SCError) in try continuation.join([1, 2], as: "front") }?.errno == EINVAL)
        #expect(failure { () throws(SCError) in try continuation.join([UInt8](repeating: 1, count: 16), as: "a.part") }?.errno == EINVAL)
        try continuation.associate(server, as: "client")
        #expect(failure { () throws(SCError) in try continuation.join([UInt8](repeating: 1, count: 16), as: "front") }?.errno == EALREADY)
        #expect(failure { () throws(SCError) in try continuation.associate(server, as: "client") }?.errno == EALREADY)
        #expect(failure { () throws(SCError) in try continuation.dissociate(client) }?.errno == ENOENT)
        #expect(failure { () throws(SCError) in try continuation.export([UInt8](repeating: 0, count: 65537)) }?.errno == EFBIG)
        #expect(failure { () throws(SCError) in try continuation.parked() }?.errno == ESTALE)
        continuation.end()
        continuation.end()
        #expect(failure { () throws(SCError) in try continuation.export([1]) } == SCError(errno: ESTALE, call: "sc_export"))
    }

    @Test func `a continuation is kept until its end, and no longer`() throws {
        let part = try participant()
        weak var kept: Continuation<Client>?
        weak var session: Client?
        do {
            let client = Client()
            session = client
            kept = try part.create(client)
        }
        try #require(kept != nil && session != nil)
        kept?.end()
        #expect(kept == nil && session == nil)
    }

    @Test func `an offer says what would come, and its refusal why it does not`() throws {
        let path = "/tmp/sc-swift-\(getpid()).sock"
        setenv("SC_AGENT_SOCKET", path, 1)
        defer { unsetenv("SC_AGENT_SOCKET") }
        let agent = try FakeAgent(path)
        let part = try participant(offers: true)
        _ = try agent.accept()
        try agent.welcome(version: 3)
        try part.acceptOffers(true)
        try part.dispatch()
        try agent.offer(1 << 63, peer: "192.0.2.1:9", version: 7)
        try part.dispatch()
        _ = try agent.next()
        let refused = try agent.next()
        #expect(refused.type == SC_WIRE_REFUSED && String(decoding: refused.bytes, as: UTF8.self).contains("version 7, part \"\""))
        try agent.takePart(1 << 63 + 1, "worker")
        try agent.offer(1 << 63 + 1, peer: "192.0.2.1:9", version: 8)
        try part.dispatch()
        #expect(String(decoding: try agent.next().bytes, as: UTF8.self).contains("version 8, part \"worker\""))
    }

    @Test func `an agent that asks gets the state, and the session goes on when it stays`() throws {
        let path = "/tmp/sc-swift-\(getpid()).sock"
        setenv("SC_AGENT_SOCKET", path, 1)
        defer { unsetenv("SC_AGENT_SOCKET") }
        let agent = try FakeAgent(path)
        let part = try participant()
        let hello = try agent.accept()
        #expect(hello.state_version == 7)
        try agent.welcome()
        try part.dispatch()
        #expect(part.status == .connected)
        let (server, client) = try tcpPair()
        defer { for descriptor in [server, client] { close(descriptor) } }
        let session = Client()
        let continuation = try part.create(session)
        try continuation.associate(server, as: "client")
        let association = try agent.next()
        #expect(association.type == SC_WIRE_ASSOCIATE && association.fds.count == 1)
        let number = association.bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_head.self).continuation }
        try agent.park(number)
        try part.dispatch()
        #expect(!session.served)
        let parked = try agent.next()
        #expect(parked.type == SC_WIRE_PARKED && parked.bytes.suffix(3) == [1, 2, 3])
        try agent.say(SC_WIRE_RESUME, number)
        try part.dispatch()
        #expect(session.served)
        try agent.park(number)
        try part.dispatch()
        _ = try agent.next()
        try agent.say(SC_WIRE_GONE, number)
        try part.dispatch()
        #expect(failure { () throws(SCError) in try continuation.parked() }?.errno == ESTALE)
    }
}
