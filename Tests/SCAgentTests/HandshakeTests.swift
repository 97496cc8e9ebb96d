// Who is let in, who is not, and what each of them is told.

import Glibc
import SCAgent
import SCEngine
import SCImage
import Support
import Testing

@Suite(.serialized)
struct HandshakeTests {
    /// Both ends' words after the client `a` has connected to `b`.
    private func refusals(_ a: Host, _ b: Host, _ limits: TerminatorLimits = testLimits()) throws -> (
        client: CheckpointError?, server: CheckpointError?
    ) {
        let door = try Door()
        let peer = try a.store.peer(named: "b")
        try a.store.trust(Peer(name: "b", address: "127.0.0.1:\(door.port)", fingerprint: peer.fingerprint))
        let store = a.store
        let dialling = Background { () -> CheckpointError? in
            do throws(CheckpointError) {
                _ = try connectPeer("b", store: store, timeout: 5000, limits: limits)
                return nil
            } catch { return error }
        }
        let pending = try acceptPeer(door.accept(), store: b.store, limits: limits)
        var server: CheckpointError?
        do throws(CheckpointError) { _ = try pending.result() } catch { server = error }
        return (try dialling.value(), server)
    }

    private func refusal(_ limits: TerminatorLimits = testLimits(), _ stranger: (UInt16) throws -> Program) throws -> CheckpointError? {
        let host = try Host()
        let door = try Door()
        let program = try stranger(door.port)
        return try withExtendedLifetime(program) {
            let pending = try acceptPeer(door.accept(), store: host.store, limits: limits)
            do throws(CheckpointError) {
                _ = try pending.result()
                return nil
            } catch {
                #expect(drain(pending.link.raw).isEmpty)
                return error
            }
        }
    }

    @Test func `hosts that trust each other talk in both directions`() throws {
        let joined = try Joined()
        var up = try WireWriter(DescriptorSink(joined.client.raw))
        var down = try WireWriter(DescriptorSink(joined.server.link.raw))
        var upEnd = try WireReader(DescriptorSource(joined.server.link.raw))
        var downEnd = try WireReader(DescriptorSource(joined.client.raw))
        for number in 0..<50 as Range<UInt64> {
            try up.write(report(number))
            #expect(try upEnd.next() == report(number))
            try down.write(report(number + 1000))
            #expect(try downEnd.next() == report(number + 1000))
        }
        // One direction ends, the other goes on.
        shutdown(joined.client.raw, Int32(SHUT_WR))
        #expect(try upEnd.next() == nil)
        try down.write(report(7))
        #expect(try downEnd.next() == report(7))
        shutdown(joined.server.link.raw, Int32(SHUT_WR))
        #expect(try downEnd.next() == nil)
    }

    @Test func `an unknown client is refused and both are told`() throws {
        let (a, b) = (try Host(), try Host())
        try a.trust("b", b)
        let (client, server) = try refusals(a, b)
        #expect(client?.what.contains("does not trust this host") == true, "\(client?.description ?? "nothing")")
        let expected = try a.store.identity.fingerprint.description
        #expect(
            server?.description.contains("sc-checkpoint peers trust NAME HOST:PORT --fingerprint \(expected)") == true,
            "\(server?.description ?? "nothing")")
    }

    @Test func `a server with another certificate is refused and both are told`() throws {
        let (a, b, c) = (try Host(), try Host(), try Host())
        try a.trust("b", c)
        try b.trust("a", a)
        let (client, server) = try refusals(a, b)
        let found = try b.store.identity.fingerprint.description
        #expect(client?.description.contains(found) == true && client?.errno == EACCES, "\(client?.description ?? "nothing")")
        #expect(server?.what.contains("does not trust this host") == true, "\(server?.description ?? "nothing")")
    }

    @Test(arguments: [true, false], [true, false]) func `a certificate that is not valid now is refused`(atClient: Bool, expired: Bool) throws {
        let (a, b) = (try Host(), try Host())
        let now = Int64(time(nil))
        let (from, until) = expired ? (now - 2000, now - 1000) : (now + 1000, now + 2000)
        // Its owner would not even try, so the other host gets a copy with the right fingerprint while the owner's clock is past the check.
        let culprit = atClient ? a : b
        _ = try culprit.store.renewIdentity(from: from, until: until)
        try a.trust("b", b)
        try b.trust("a", a)
        if atClient {
            let (door, own) = (try Door(), culprit)
            let program = try openssl(own, port: door.port)
            try withExtendedLifetime(program) {
                let pending = try acceptPeer(door.accept(), store: b.store, limits: testLimits())
                let error = #expect(throws: CheckpointError.self) { try pending.result() }
                #expect(
                    error?.errno == (expired ? EKEYEXPIRED : EKEYREJECTED) && error?.what.contains("certificate of") == true,
                    "\(error?.description ?? "")")
            }
            let error = #expect(throws: CheckpointError.self) { try connectPeer("127.0.0.1:1", store: a.store, timeout: 1000) }
            #expect(error != nil)
        } else {
            let door = try Door()
            let server = try Program([
                "openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", "\(b.directory)/cert.pem", "-key", "\(b.directory)/key.pem", "-tls1_3",
            ])
            _ = door
            #expect(eventually(within: .seconds(5)) { server.output.contains("ACCEPT 127.0.0.1:") })
            let port = UInt16(server.output.split(separator: ":")[1].prefix { $0.isNumber })!
            try a.trust("b", b, at: port)
            let error = #expect(throws: CheckpointError.self) { try connectPeer("b", store: a.store, timeout: 5000, limits: testLimits()) }
            #expect(
                error?.errno == (expired ? EKEYEXPIRED : EKEYREJECTED) && error?.what.contains("certificate of b") == true,
                "\(error?.description ?? "")")
        }
        let own = #expect(throws: CheckpointError.self) { try culprit.store.identity.checkValidity() }
        #expect(own?.what.contains("this host's certificate") == true)
    }

    @Test func `plain text, an older TLS, and a missing certificate are told apart`() throws {
        let host = try Host()
        let plain = try refusal { try Program(["nc", "127.0.0.1", String($0)], input: Array("GET / HTTP/1.0\r\n\r\n".utf8)) }
        #expect(plain?.what.contains("does not speak TLS") == true, "\(plain?.description ?? "nothing")")
        let garbage = try refusal {
            try Program(["nc", "127.0.0.1", String($0)], input: (0..<4000).map { UInt8(truncatingIfNeeded: $0 &* 37 &+ 11) })
        }
        #expect(garbage?.what.contains("does not speak TLS") == true, "\(garbage?.description ?? "nothing")")
        let old = try refusal { try openssl(host, port: $0, ["-tls1_2"]) }
        #expect(old?.errno == EPROTONOSUPPORT, "\(old?.description ?? "nothing")")
        let naked = try refusal { try Program(["openssl", "s_client", "-connect", "127.0.0.1:\($0)", "-tls1_3", "-quiet"]) }
        #expect(naked?.what.contains("shows no certificate") == true, "\(naked?.description ?? "nothing")")
    }

    @Test func `a peer that says nothing is dropped at the deadline`() throws {
        var limits = testLimits()
        limits.handshakeMilliseconds = 300
        let silent = try refusal(limits) { try Program(["nc", "127.0.0.1", String($0)]) }
        #expect(silent?.errno == ETIMEDOUT, "\(silent?.description ?? "nothing")")
        // The other way round: what listens does not answer.
        let (a, door) = (try Host(), try Door())
        try a.trust("b", try Host(), at: door.port)
        let error = #expect(throws: CheckpointError.self) { try connectPeer("b", store: a.store, timeout: 500, limits: testLimits()) }
        #expect(error?.errno == ETIMEDOUT, "\(error?.description ?? "")")
    }

    @Test func `a server that speaks no TLS, or does not listen, is named`() throws {
        let (a, door) = (try Host(), try Door())
        try a.trust("b", try Host(), at: door.port)
        let store = a.store
        let dialling = Background { () -> CheckpointError? in
            do throws(CheckpointError) {
                _ = try connectPeer("b", store: store, timeout: 5000, limits: testLimits())
                return nil
            } catch { return error }
        }
        let connection = try door.accept()
        _ = write(connection.raw, "SSH-2.0-OpenSSH_9.2\r\n", 21)
        let plain = try dialling.value()
        #expect(plain?.what.contains("does not speak TLS") == true, "\(plain?.description ?? "nothing")")
        try a.trust("b", try Host(), at: 1)
        let closed = #expect(throws: CheckpointError.self) { try connectPeer("b", store: a.store, timeout: 1000, limits: testLimits()) }
        #expect(closed?.errno == ECONNREFUSED, "\(closed?.description ?? "")")
        let stranger = #expect(throws: CheckpointError.self) { try connectPeer("127.0.0.1:2", store: a.store, timeout: 1000, limits: testLimits()) }
        #expect(stranger?.description.contains("peers trust NAME 127.0.0.1:2") == true)
    }

    @Test func `a probe sees a certificate that it does not trust`() throws {
        let (a, b, door) = (try Host(), try Host(), try Door())
        let (store, port) = (a.store, door.port)
        let probing = Background { try probePeer("127.0.0.1:\(port)", store: store, timeout: 5000, limits: testLimits()).fingerprint }
        let pending = try acceptPeer(door.accept(), store: b.store, limits: testLimits())
        #expect(try probing.value() == b.store.identity.fingerprint)
        _ = #expect(throws: CheckpointError.self) { try pending.result() }
    }
}
