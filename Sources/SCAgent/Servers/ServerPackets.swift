// The packets of sc_wire.h as bytes: read with their lengths checked, written whole.

import CProc
import Glibc
import SC
import SCEngine

/// A packet that has arrived, with its descriptors.
struct ServerPacket {
    let bytes: [UInt8]
    let head: sc_wire_head
    let descriptors: [SharedDescriptor]

    /// Receives one without waiting; nil: nothing is there. Throws when the connection has ended or what came is no packet.
    init?(from connection: SharedDescriptor) throws(CheckpointError) {
        guard cproc_poll(connection.raw, Int16(POLLIN), 0) > 0 else { return nil }
        var buffer = [UInt8](repeating: 0, count: Int(SC_WIRE_MAX) + 1)
        var descriptors = [Int32](repeating: -1, count: Int(SC_WIRE_CHANNELS))
        var count = Int32(descriptors.count)
        let length = Int(try check(cproc_recv_fds(connection.raw, &buffer, buffer.count, &descriptors, &count), "cannot read from a server"))
        self.descriptors = descriptors.prefix(Int(count)).map { SharedDescriptor($0) }
        bytes = Array(buffer.prefix(length))
        guard length >= MemoryLayout<sc_wire_head>.size else {
            throw CheckpointError("a server ended the conversation", why: "connection closed", errno: ECONNRESET)
        }
        head = bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_head.self) }
        guard Int(head.length) == length else { throw Self.malformed }
    }

    static var malformed: CheckpointError {
        CheckpointError("a server's packet cannot be understood", why: "its length is not its type's", errno: EBADMSG)
    }

    /// The packet as its type's struct; `rest` bytes may follow.
    func content<Packet: BitwiseCopyable>(_ type: Packet.Type, rest: Int = 0) throws(CheckpointError) -> Packet {
        guard bytes.count == MemoryLayout<Packet>.size + rest else { throw Self.malformed }
        return bytes.withUnsafeBytes { $0.loadUnaligned(as: type) }
    }

    /// The bytes after the struct, whose number it names itself.
    func content<Packet: BitwiseCopyable>(_ type: Packet.Type, rest: (Packet) -> UInt32) throws(CheckpointError) -> (Packet, [UInt8]) {
        guard bytes.count >= MemoryLayout<Packet>.size else { throw Self.malformed }
        let packet = bytes.withUnsafeBytes { $0.loadUnaligned(as: type) }
        guard rest(packet) <= SC_WIRE_STATE, bytes.count == MemoryLayout<Packet>.size + Int(rest(packet)) else { throw Self.malformed }
        return (packet, Array(bytes.dropFirst(MemoryLayout<Packet>.size)))
    }
}

/// The head of a packet that is `Packet` and `more` bytes.
func packetHead<Packet>(_ type: sc_wire_type, _ number: UInt64, _ packet: Packet.Type, more: Int = 0) -> sc_wire_head {
    sc_wire_head(type: type.rawValue, length: UInt32(MemoryLayout<Packet>.size + more), continuation: number)
}

/// The text of a fixed field, up to its NUL.
func fieldText<Field>(_ field: Field) -> String {
    withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
}

/// Writes a text into a fixed field, which keeps its NUL.
func setField<Field>(_ field: inout Field, to text: String) {
    withUnsafeMutableBytes(of: &field) { bytes in
        bytes.copyBytes(from: text.utf8.prefix(bytes.count - 1))
    }
}
