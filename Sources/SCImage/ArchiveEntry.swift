// What an archive knows of one image without opening it.

/// Why an image was archived.
package enum ArchiveReason: UInt32, Sendable, CaseIterable {
    case manual = 1
    /// A move failed after the capture, and the session went back.
    case migration
    /// The target would not have the session.
    case refused
    /// The session was lost with the process or the host that had it.
    case crash

    /// `manual`, `migration`, `refused`, `crash`.
    package var name: String { String(describing: self) }

    package init?(name: String) {
        guard let reason = Self.allCases.first(where: { $0.name == name }) else { return nil }
        self = reason
    }
}

/// One image of an archive. Texts come from users and other hosts; they hold no promise about control characters.
package struct ArchiveEntry: Equatable, Sendable {
    /// SHA-256 of the file's bytes before the entry: 32 bytes.
    package var id: [UInt8]
    /// Seconds since 1970, UTC.
    package var addedAt: UInt64 = 0
    package var reason = ArchiveReason.manual
    /// What the image's inventory says; the command is empty for a sealed image.
    package var inventory = Inventory()
    package var service = ""
    package var note = ""
    package var tags: [String] = []
    /// What went wrong, as the user was told.
    package var failure = ""
    package var sessions: UInt64 = 0
    package var channels: UInt64 = 0
    /// The TCP connections, 36 bytes each (`FlowKey`), at most `flowCapacity`; none for a sealed image.
    package var flows: [UInt8] = []
    package var flowsLeftOut: UInt64 = 0
    /// The sessions' ids, 16 bytes each, as many at most.
    package var sessionIDs: [UInt8] = []
    /// Bytes of the image, and of the file before the entry.
    package var imageLength: UInt64 = 0
    package var bodyLength: UInt64 = 0
    package var formatVersion: UInt16 = 0
    package var isRedacted = false
    /// The ids of the public keys whose owners can open it, 8 bytes each; empty: it is not sealed.
    package var recipients: [UInt8] = []

    package static let flowCapacity = 10_000
    package static let noteCapacity = 4096
    package static let tagCapacity = 64

    package init(id: [UInt8]) { self.id = id }

    package var isSealed: Bool { !recipients.isEmpty }

    /// 64 hexadecimal digits.
    package var name: String { hexadecimalText(id) }

    /// Notes the ends of one more connection.
    package mutating func add(_ channel: TCPChannel) {
        channels += 1
        guard flows.count < Self.flowCapacity * FlowKey.size else {
            flowsLeftOut += 1
            return
        }
        flows += FlowKey.bytes(channel.peer) + FlowKey.bytes(channel.local)
    }

    /// Notes one more session's id.
    package mutating func add(_ id: SessionID) {
        sessions += 1
        guard sessionIDs.count < Self.flowCapacity * 16 else { return }
        for half in [id.high, id.low] { sessionIDs += (0..<8).map { UInt8(truncatingIfNeeded: half >> (56 - 8 * $0)) } }
    }

    /// The client's and the service's end of connection `index`.
    package func flow(_ index: Int) -> (client: SocketAddress, service: SocketAddress) {
        let start = index * FlowKey.size
        return (FlowKey.end(flows[start..<start + 18]), FlowKey.end(flows[(start + 18)..<(start + 36)]))
    }

    package var flowCount: Int { flows.count / FlowKey.size }

    /// The id of session `index`.
    package func session(_ index: Int) -> SessionID {
        let halves = [0, 8].map { half in sessionIDs[(index * 16 + half)..<(index * 16 + half + 8)].reduce(UInt64(0)) { $0 << 8 | UInt64($1) } }
        return SessionID(high: halves[0], low: halves[1])
    }

    package var sessionIDCount: Int { sessionIDs.count / 16 }
}

/// Both ends of a connection in 36 bytes that compare as bytes.
package enum FlowKey {
    package static let size = 36

    /// 16 address bytes, IPv4 as IPv4-mapped, and the port, in network order.
    package static func bytes(_ end: SocketAddress) -> [UInt8] {
        let wire = end.address.unmapped.bytes
        return (wire.count == 4 ? [UInt8](repeating: 0, count: 10) + [0xff, 0xff] + wire : wire) + [UInt8(end.port >> 8), UInt8(end.port & 255)]
    }

    static func end(_ bytes: ArraySlice<UInt8>) -> SocketAddress {
        let address = IPAddress(bytes: bytes.prefix(16))!.unmapped
        return SocketAddress(address, port: bytes.suffix(2).reduce(0) { $0 << 8 | UInt16($1) })
    }
}

/// Bytes as hexadecimal digits.
package func hexadecimalText(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    var text: [UInt8] = []
    for byte in bytes {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 15)])
    }
    return String(decoding: text, as: UTF8.self)
}
