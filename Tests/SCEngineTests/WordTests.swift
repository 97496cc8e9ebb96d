// What users write on the command line, and the form of what they are told.

import Glibc
import SCEngine
import SCImage
import Testing

@Suite struct WordTests {
    @Test(
        arguments: [
            ("192.0.2.7", "192.0.2.7", nil), ("192.0.2.7:40112", "192.0.2.7", 40112), ("2001:db8::7", "2001:db8::7", nil),
            ("[2001:db8::7]:443", "2001:db8::7", 443), ("[::1]", "::1", nil),
        ] as [(String, String, UInt16?)]) func `a peer is an address with or without a port`(text: String, address: String, port: UInt16?) throws
    {
        let peer = try #require(PeerFilter(text))
        #expect(peer.address == IPAddress(address) && peer.port == port)
    }

    @Test(arguments: ["", "host.example", "192.0.2.7:", "192.0.2.7:99999", "[::1", "[::1]x", "192.0.2.300"])
    func `what is no peer is refused`(text: String) {
        #expect(PeerFilter(text) == nil)
    }

    @Test func `targets are hosts or sockets, never options of ssh`() {
        #expect(TargetAddress("root@hostb") == .ssh("root@hostb"))
        #expect(TargetAddress("unix:/run/x.sock") == .unix("/run/x.sock"))
        for text in ["", "-oProxyCommand=x", "unix:", "a b", "a/b"] { #expect(TargetAddress(text) == nil) }
    }

    @Test func `steering drivers have names`() {
        for text in ["none", "nft-forward", "tunnel", "arp-takeover", "arp-takeover,force", "router:unix:/run/r", "router:root@r", "exec:/bin/steer"]
        { #expect(SteeringChoice(text)?.name == text) }
        for text in ["", "exec:", "nft", "router:", "router:-x", "arp-takeover,", "tunnel:x"] { #expect(SteeringChoice(text) == nil) }
    }

    @Test func `an error says what, why, the errno's name, and what to do`() {
        let error = CheckpointError("cannot open process 7", result: Int(-ESRCH))
        #expect(error.description.hasPrefix("cannot open process 7: no such process (ESRCH). "))
        #expect(error.outcome.rawValue == 1)
        #expect(CheckpointError("x", why: "y").description == "x: y")
    }

    @Test func `an IPv4-mapped flow is the IPv4 flow on the wire`() throws {
        let mapped = SocketAddress(try #require(IPAddress("::ffff:192.0.2.1")), port: 80)
        let client = SocketAddress(try #require(IPAddress("::ffff:192.0.2.7")), port: 4000)
        let flow = Flow(client: client, service: mapped)
        #expect(flow.description == "192.0.2.7:4000 -> 192.0.2.1:80" && !flow.isIPv6)
    }

    @Test func `hexadecimal text is bytes and back`() {
        let bytes: [UInt8] = [0, 1, 0x7f, 0xff]
        #expect(SCEngine.bytes(hexadecimal: bytes.map(hexadecimal).joined()) == bytes)
        for text in ["0", "0g", "é0"] { #expect(SCEngine.bytes(hexadecimal: text) == nil) }
    }
}
