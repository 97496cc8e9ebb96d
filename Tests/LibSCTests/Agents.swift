// The agent's end of libsc's socket, played by a test.

import CProc
import Glibc
import SC
import SCEngine
import Testing

/// Listens where libsc looks for the agent (`SC_AGENT_SOCKET`).
final class FakeAgent {
    let path: String
    private let listener: SharedDescriptor
    private var connection: SharedDescriptor?

    init(_ path: String) throws {
        self.path = path
        unlink(path)
        listener = SharedDescriptor(socket(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0))
        try #require(bindUnix(listener.raw, path) && listen(listener.raw, 4) == 0)
    }

    deinit { unlink(path) }

    /// The library waits to be let in.
    var isWanted: Bool { cproc_poll(listener.raw, Int16(POLLIN), 0) > 0 }

    /// Lets the library in and reads its hello.
    func accept() throws -> sc_wire_hello {
        try #require(cproc_poll(listener.raw, Int16(POLLIN), 3000) > 0)
        connection = SharedDescriptor(cproc_accept(listener.raw))
        let packet = try next()
        try #require(packet.bytes.count == MemoryLayout<sc_wire_hello>.size)
        return packet.bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_hello.self) }
    }

    /// The next packet; throws when none comes.
    func next() throws -> (type: sc_wire_type, bytes: [UInt8], fds: [SharedDescriptor]) {
        let raw = try #require(connection).raw
        try #require(cproc_poll(raw, Int16(POLLIN), 1000) > 0, "no packet came")
        var buffer = [UInt8](repeating: 0, count: Int(SC_WIRE_MAX))
        var (fd, count): (Int32, Int32) = (-1, 1)
        let length = cproc_recv_fds(raw, &buffer, buffer.count, &fd, &count)
        try #require(length >= MemoryLayout<sc_wire_head>.size)
        let head = buffer.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_head.self) }
        #expect(Int(head.length) == length)
        return (sc_wire_type(head.type), Array(buffer.prefix(length)), count == 1 ? [SharedDescriptor(fd)] : [])
    }

    /// The next packet, which has a text.
    func reason() throws -> (type: sc_wire_type, number: UInt64, text: String) {
        let packet = try next()
        try #require(packet.bytes.count == MemoryLayout<sc_wire_reason>.size)
        let reason = packet.bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_reason.self) }
        let text = withUnsafeBytes(of: reason.text) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        return (packet.type, reason.head.continuation, text)
    }

    func send<Packet: BitwiseCopyable>(_ packet: Packet) throws {
        let raw = try #require(connection).raw
        let count = withUnsafeBytes(of: packet) { cproc_send_fds(raw, $0.baseAddress!, $0.count, nil, 0) }
        #expect(count == MemoryLayout<Packet>.size)
    }

    func welcome(version: UInt32 = 1) throws {
        let head = sc_wire_head(type: SC_WIRE_WELCOME.rawValue, length: UInt32(MemoryLayout<sc_wire_welcome>.size), continuation: 0)
        try send(sc_wire_welcome(head: head, version: version, pid: 1))
    }

    func say(_ type: sc_wire_type, _ number: UInt64) throws {
        try send(sc_wire_head(type: type.rawValue, length: UInt32(MemoryLayout<sc_wire_head>.size), continuation: number))
    }

    /// What has to be repeated, before an import.
    func `repeat`(_ number: UInt64, role: String = "client", hashed: UInt64 = 0, hash: UInt64 = 0, literal: String) throws {
        let length = MemoryLayout<sc_wire_repeat>.size + MemoryLayout<sc_memory_repeat>.size + literal.utf8.count
        var packet = sc_wire_repeat()
        packet.head = sc_wire_head(type: SC_WIRE_REPEAT.rawValue, length: UInt32(length), continuation: number)
        withUnsafeMutableBytes(of: &packet.role) { $0.copyBytes(from: role.utf8) }
        let record = sc_memory_repeat(hashed: hashed, hash: hash, literal: UInt64(literal.utf8.count))
        let bytes = withUnsafeBytes(of: packet) { Array($0) } + withUnsafeBytes(of: record) { Array($0) } + Array(literal.utf8)
        #expect(cproc_send_fds(try #require(connection).raw, bytes, bytes.count, nil, 0) == length)
    }

    var hasPacket: Bool { connection.map { cproc_poll($0.raw, Int16(POLLIN), 0) > 0 } ?? false }

    /// What a process would do in the session that is offered next.
    func takePart(_ number: UInt64, _ name: String) throws {
        var part = sc_wire_part()
        part.head = sc_wire_head(type: SC_WIRE_TAKE_PART.rawValue, length: UInt32(MemoryLayout<sc_wire_part>.size), continuation: number)
        withUnsafeMutableBytes(of: &part.part) { $0.copyBytes(from: name.utf8) }
        try send(part)
    }

    func offer(_ number: UInt64, peer: String, version: UInt32 = 0) throws {
        var offer = sc_wire_offer()
        offer.state_version = version
        offer.head = sc_wire_head(type: SC_WIRE_OFFER.rawValue, length: UInt32(MemoryLayout<sc_wire_offer>.size), continuation: number)
        withUnsafeMutableBytes(of: &offer.peer) { $0.copyBytes(from: peer.utf8) }
        try send(offer)
    }

    /// An import of one channel.
    func bring(_ number: UInt64, state: String, version: UInt32, fd: Int32) throws {
        var packet = sc_wire_import()
        let length = MemoryLayout<sc_wire_import>.size + state.utf8.count
        packet.head = sc_wire_head(type: SC_WIRE_IMPORT.rawValue, length: UInt32(length), continuation: number)
        (packet.state_version, packet.state_length, packet.channels) = (version, UInt32(state.utf8.count), 1)
        withUnsafeMutableBytes(of: &packet.roles) { $0.copyBytes(from: "client".utf8) }
        let bytes = withUnsafeBytes(of: packet) { Array($0) } + Array(state.utf8)
        #expect(cproc_send_fds(try #require(connection).raw, bytes, bytes.count, [fd], 1) == length)
    }

    func park(_ number: UInt64) throws {
        let head = sc_wire_head(type: SC_WIRE_PARK.rawValue, length: UInt32(MemoryLayout<sc_wire_park>.size), continuation: number)
        try send(sc_wire_park(head: head, deadline_ms: 1000, reserved: 0))
    }
}

/// Two ends of a TCP connection over loopback.
func tcpPair() throws -> (server: Int32, client: Int32) {
    let listener = SharedDescriptor(socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0))
    var endpoint = cproc_endpoint()
    endpoint.family = UInt16(AF_INET)
    (endpoint.address.0, endpoint.address.3) = (127, 1)
    try #require(cproc_bind(listener.raw, &endpoint) >= 0 && listen(listener.raw, 1) == 0)
    try #require(cproc_getsockname(listener.raw, &endpoint) >= 0)
    let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    try #require(cproc_connect(client, &endpoint) >= 0)
    let server = cproc_accept(listener.raw)
    try #require(server >= 0)
    return (server, client)
}
