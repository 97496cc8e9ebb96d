// The queues of an image as packets for Wireshark and tshark: a pcapng file.
//
// Addresses, ports, sequence numbers, windows and checksums are those that the connection's packets have on the wire. The handshake was never captured: it
// is made up, so that a reader follows the stream from its first byte, and a comment on each packet says where it comes from.

import SCImage

/// pcapng (draft-ietf-opsawg-pcapng), with raw IP packets.
package struct PacketFile {
    private var bytes: [UInt8] = []
    private var packets: UInt64 = 0
    private var identification: UInt16 = 0
    private let start: UInt64
    private static let linkTypeRaw: UInt16 = 101

    /// All TCP connections of the sessions; others have no packets.
    package static func encode(_ inventory: Inventory, _ sessions: [Session]) -> [UInt8] {
        var file = PacketFile(inventory)
        for channel in sessions.flatMap(\.channels) { file.add(channel) }
        return file.bytes
    }

    private init(_ inventory: Inventory) {
        start = inventory.createdAt * 1_000_000
        block(0x0a0d_0d0a, [0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0] + Array(repeating: 0xff, count: 8) + option(4, inventory.tool) + endOfOptions)
        block(1, little(Self.linkTypeRaw) + little(UInt16(0)) + little(UInt32(0)) + option(2, "image of \(inventory.host)") + endOfOptions)
    }

    private mutating func add(_ channel: TCPChannel) {
        let (client, server) = (channel.peer.onWire, channel.local.onWire)
        let (finIn, finOut) = (channel.state.finReceived, channel.state.finSent)
        // The sequence numbers of the first byte of each queue.
        let received = channel.rcvNxt &- (finIn ? 1 : 0) &- UInt32(truncatingIfNeeded: channel.receiveQueue.count)
        let written = channel.writeSeq &- (finOut ? 1 : 0) &- UInt32(truncatingIfNeeded: channel.sendQueue.count)
        let scaling = channel.options.windowScaling
        let clientWindow = UInt16(clamping: channel.window.sndWnd >> (scaling ? UInt32(channel.options.sendScale) : 0))
        let serverWindow = UInt16(clamping: channel.window.rcvWnd >> (scaling ? UInt32(channel.options.receiveScale) : 0))
        var segment = Segment(from: client, to: server)

        segment.options = options(channel, scale: channel.options.sendScale)
        (segment.sequence, segment.flags, segment.window) = (received &- 1, [.syn], 65_535)
        write(segment, "made up: the handshake was not captured")
        segment = Segment(from: server, to: client)
        segment.options = options(channel, scale: channel.options.receiveScale)
        (segment.sequence, segment.acknowledgement, segment.flags, segment.window) = (written &- 1, received, [.syn, .ack], 65_535)
        write(segment, "made up: the handshake was not captured")
        segment = Segment(from: client, to: server)
        (segment.sequence, segment.acknowledgement, segment.flags, segment.window) = (received, written, [.ack], clientWindow)
        write(segment, "made up: the handshake was not captured")

        let size = channel.sendMSS >= 64 ? min(Int(channel.sendMSS), 32_768) : 1440
        var template = Segment(from: client, to: server)
        (template.sequence, template.acknowledgement, template.window) = (received, written, clientWindow)
        stream(template, channel.receiveQueue[...], size, isFIN: finIn, "received, acknowledged, not read by the server")
        template = Segment(from: server, to: client)
        (template.sequence, template.acknowledgement, template.window) = (written, channel.rcvNxt, serverWindow)
        let sent = channel.sendQueue.count - channel.unsentLength
        stream(template, channel.sendQueue[..<sent], size, isFIN: finOut && channel.unsentLength == 0, "sent, not acknowledged by the client")
        template.sequence &+= UInt32(truncatingIfNeeded: sent)
        stream(template, channel.sendQueue[sent...], size, isFIN: finOut && channel.unsentLength > 0, "written by the server, not sent yet")
    }

    /// Bytes of a queue in segments, the last of them pushed, and the FIN after them.
    private mutating func stream(_ template: Segment, _ queue: ArraySlice<UInt8>, _ size: Int, isFIN: Bool, _ comment: String) {
        var segment = template
        var rest = queue
        while !rest.isEmpty {
            segment.payload = rest.prefix(size)
            rest = rest.dropFirst(size)
            segment.flags = rest.isEmpty ? [.ack, .push] : [.ack]
            if rest.isEmpty, isFIN { segment.flags.insert(.fin) }
            write(segment, comment)
            segment.sequence &+= UInt32(truncatingIfNeeded: segment.payload.count)
        }
        if queue.isEmpty, isFIN {
            segment.flags = [.ack, .fin]
            write(segment, comment)
        }
    }

    /// What the SYNs agreed on. Timestamps are left out: those of the queued segments are not known.
    private func options(_ channel: TCPChannel, scale: UInt8) -> [UInt8] {
        let mss = channel.options.mssClamp == 0 ? 536 : channel.options.mssClamp
        var bytes: [UInt8] = [2, 4, UInt8(mss >> 8), UInt8(mss & 255)]
        if channel.options.sack { bytes += [1, 1, 4, 2] }
        if channel.options.windowScaling { bytes += [1, 3, 3, scale] }
        return bytes
    }

    private mutating func write(_ segment: Segment, _ comment: String) {
        identification &+= 1
        let packet = segment.packet(identification)
        let time = start + packets
        packets += 1
        let length = little(UInt32(packet.count))
        block(
            6, little(UInt32(0)) + little(UInt32(time >> 32)) + little(UInt32(truncatingIfNeeded: time)) + length + length + padded(packet)
                + option(1, comment) + endOfOptions)
    }

    // MARK: Blocks

    private mutating func block(_ type: UInt32, _ body: [UInt8]) {
        let length = little(UInt32(body.count + 12))
        bytes += little(type) + length + body + length
    }

    private func option(_ code: UInt16, _ text: String) -> [UInt8] {
        let value = Array(text.utf8)
        return little(code) + little(UInt16(value.count)) + padded(value)
    }

    private var endOfOptions: [UInt8] { [0, 0, 0, 0] }

    private func padded(_ bytes: [UInt8]) -> [UInt8] { bytes + Array(repeating: 0, count: (4 - bytes.count % 4) % 4) }

    private func little<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] { withUnsafeBytes(of: number.littleEndian) { Array($0) } }
}

/// One TCP segment and the addresses of its packet.
struct Segment {
    struct Flags: OptionSet {
        let rawValue: UInt8
        static let fin = Flags(rawValue: 1)
        static let syn = Flags(rawValue: 2)
        static let push = Flags(rawValue: 8)
        static let ack = Flags(rawValue: 16)
    }

    let source, destination: SocketAddress
    var sequence: UInt32 = 0
    var acknowledgement: UInt32 = 0
    var flags: Flags = []
    var window: UInt16 = 0
    /// A multiple of four bytes.
    var options: [UInt8] = []
    var payload: ArraySlice<UInt8> = []

    /// Both ends of one family.
    init(from source: SocketAddress, to destination: SocketAddress) { (self.source, self.destination) = (source, destination) }

    /// The IP packet, its checksums right (RFC 791, RFC 8200, RFC 9293).
    func packet(_ identification: UInt16) -> [UInt8] {
        let (from, to) = (source.address.bytes, destination.address.bytes)
        var tcp = big(source.port) + big(destination.port) + big(sequence) + big(acknowledgement)
        tcp += [UInt8((20 + options.count) / 4) << 4, flags.rawValue] + big(window) + [0, 0, 0, 0] + options + payload
        let pseudo = from + to + (source.address.isIPv6 ? big(UInt32(tcp.count)) + [0, 0, 0, 6] : [0, 6] + big(UInt16(tcp.count)))
        let sum = checksum(pseudo + tcp)
        (tcp[16], tcp[17]) = (UInt8(sum >> 8), UInt8(sum & 255))
        if source.address.isIPv6 { return [0x60, 0, 0, 0] + big(UInt16(tcp.count)) + [6, 64] + from + to + tcp }
        var ip: [UInt8] = [0x45, 0] + big(UInt16(20 + tcp.count)) + big(identification) + [0x40, 0, 64, 6, 0, 0] + from + to
        let header = checksum(ip)
        (ip[10], ip[11]) = (UInt8(header >> 8), UInt8(header & 255))
        return ip + tcp
    }

    private func big<Number: FixedWidthInteger>(_ number: Number) -> [UInt8] { withUnsafeBytes(of: number.bigEndian) { Array($0) } }

    /// RFC 1071.
    private func checksum(_ bytes: [UInt8]) -> UInt16 {
        var sum: UInt32 = 0
        for index in stride(from: 0, to: bytes.count, by: 2) {
            sum += UInt32(bytes[index]) << 8 | (index + 1 < bytes.count ? UInt32(bytes[index + 1]) : 0)
        }
        while sum > 0xffff { sum = sum & 0xffff + sum >> 16 }
        return ~UInt16(sum)
    }
}
