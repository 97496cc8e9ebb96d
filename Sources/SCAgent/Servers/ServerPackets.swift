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

    /// PARKED with its state, from behind it or from a file, which must be one that can neither shrink nor keep its reader waiting.
    var parked: (sc_wire_parked, [UInt8]) {
        get throws(CheckpointError) {
            guard bytes.count >= MemoryLayout<sc_wire_parked>.size else { throw Self.malformed }
            let packet = bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_parked.self) }
            guard packet.state_length > UInt32(SC_WIRE_STATE) else {
                _ = try content(sc_wire_parked.self, rest: Int(packet.state_length))
                return (packet, Array(bytes.dropFirst(MemoryLayout<sc_wire_parked>.size)))
            }
            _ = try content(sc_wire_parked.self)
            var state = [UInt8](repeating: 0, count: Int(min(packet.state_length, UInt32(SC_STATE_MAX))))
            guard packet.state_length <= UInt32(SC_STATE_MAX), descriptors.count == 1, cproc_is_sealed(descriptors[0].raw),
                pread(descriptors[0].raw, &state, state.count, 0) == state.count
            else { throw Self.malformed }
            return (packet, state)
        }
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
