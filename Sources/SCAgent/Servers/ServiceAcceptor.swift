// The agent as an acceptor (docs/acceptors.md) in the place of the registered servers of a service: it passes on offers, sessions and answers.

import CProc
import FoundationEssentials
import Glibc
import SC
import SCEngine

/// What the receiving end of a move says.
private struct ReceiverMessage: Decodable {
    struct Flow: Decodable { var local, peer: String }
    struct Channel: Decodable { var name, local, peer: String }
    var type: String
    var flows: [Flow]?
    /// Of a session of several processes.
    var names: [String]?
    var channels: [Channel]?
    var state_bytes: Int?
    var state_version: UInt32?
    var repeat_bytes: Int?
}

private struct ReceiverReply: Encodable {
    var type: String
    var reason: String?
    var pid: Int32?
    var repeats: Bool?
}

/// One conversation with the receiving end of a move.
final class ReceiverConversation {
    private struct Offered {
        let number: UInt64
        let server: RegisteredServer
        let local, peer: String
        var continuation: UInt64?
        var isReady = false
    }

    let connection: SharedDescriptor
    private let service: String
    private unowned let servers: Servers
    private var offers: [Offered] = []
    private var isLive = false

    init(_ connection: SharedDescriptor, _ service: String, in servers: Servers) {
        (self.connection, self.service, self.servers) = (connection, service, servers)
    }

    func receive() throws(CheckpointError) {
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        var descriptors = [Int32](repeating: -1, count: Int(SC_WIRE_CHANNELS) + 1)
        var count = Int32(descriptors.count)
        let length = Int(try check(cproc_recv_fds(connection.raw, &buffer, buffer.count, &descriptors, &count), "cannot read from the receiver"))
        let passed = descriptors.prefix(Int(count)).map { SharedDescriptor($0) }
        guard length > 0, let message = try? JSONDecoder().decode(ReceiverMessage.self, from: Data(buffer.prefix(length))) else {
            throw CheckpointError("the receiver has ended the conversation", why: "connection closed", errno: ECONNRESET)
        }
        switch message.type {
        case "offer": offer(message)
        case "session": bring(message, passed)
        case "go":
            isLive = true
            for offer in offers { if let number = offer.continuation { offer.server.tell(SC_WIRE_RESUME, number) } }
        case "cancel": abandon()
        default: throw CheckpointError("the receiver lost its place in the conversation", why: "it said \"\(message.type)\"", errno: EPROTO)
        }
    }

    private func reply(_ type: String, _ reason: String? = nil, pid: Int32? = nil, repeats: Bool? = nil) {
        let reply = ReceiverReply(type: type, reason: reason, pid: pid, repeats: repeats)
        let bytes = Array((try? JSONEncoder().encode(reply)) ?? Data()) + [UInt8(ascii: "\n")]
        _ = cproc_send_fds(connection.raw, bytes, bytes.count, nil, 0)
    }

    private func decline(_ reason: String) {
        abandon()
        reply("decline", reason)
    }

    private func offer(_ message: ReceiverMessage) {
        guard message.names == nil else { return decline("servers of \(service) take connections, not sessions of several processes") }
        for flow in message.flows ?? [] {
            guard let server = servers.nextServer(of: service, local: flow.local, peer: flow.peer) else { return decline("no server of \(service) takes sessions now") }
            let number = servers.nextOffer()
            var offer = sc_wire_offer()
            offer.head = packetHead(SC_WIRE_OFFER, number, sc_wire_offer.self)
            offer.state_bytes = UInt32(clamping: min(message.state_bytes ?? 0, Int(SC_WIRE_STATE)))
            setField(&offer.local, to: flow.local)
            setField(&offer.peer, to: flow.peer)
            offers.append(Offered(number: number, server: server, local: flow.local, peer: flow.peer))
            guard server.outbox.send(offer) else { return decline("process \(server.pid) does not read what it is told") }
        }
        if offers.isEmpty { decline("the offer names no connection") }
    }

    /// Returns false when the offer is not of this conversation.
    func accepted(_ number: UInt64, as continuation: UInt64) -> Bool {
        guard let index = offers.firstIndex(where: { $0.number == number }) else { return false }
        offers[index].continuation = continuation
        guard offers.allSatisfy({ $0.continuation != nil }) else { return true }
        reply("accept", repeats: offers.allSatisfy { $0.server.version >= 2 })
        return true
    }

    func declined(_ number: UInt64, by server: RegisteredServer, _ reason: String) -> Bool {
        guard let index = offers.firstIndex(where: { $0.server === server && ($0.number == number || $0.continuation == number) }) else {
            return false
        }
        offers.remove(at: index)
        decline("process \(server.pid): \(reason)")
        return true
    }

    private func bring(_ message: ReceiverMessage, _ descriptors: [SharedDescriptor]) {
        let channels = message.channels ?? []
        let length = message.state_bytes ?? 0
        guard let first = channels.first, channels.count <= Int(SC_WIRE_CHANNELS),
            let offered = offers.first(where: { $0.local == first.local && $0.peer == first.peer }), let number = offered.continuation
        else { return decline("a session came that was not offered") }
        let repeated = message.repeat_bytes ?? 0
        guard descriptors.count == channels.count + (length + repeated > 0 ? 1 : 0) else { return decline("a session came without its descriptors") }
        guard length <= Int(SC_WIRE_STATE) else { return decline("its state has \(length) bytes, \(SC_WIRE_STATE) are allowed") }
        var state = [UInt8](repeating: 0, count: length)
        if length > 0, pread(descriptors[channels.count].raw, &state, length, 0) != length { return decline("its state cannot be read") }
        guard repeated <= MemoryLayout<sc_memory_repeat>.size + Int(SC_MEMORY_OUTPUT_SIZE) else {
            return decline("its server would have to repeat \(repeated) bytes of output")
        }
        if repeated > 0 {
            var record = [UInt8](repeating: 0, count: repeated)
            guard pread(descriptors[channels.count].raw, &record, repeated, off_t(length)) == repeated else { return decline("its output cannot be read") }
            offered.server.outbox.send(packetHead(SC_WIRE_REPEAT, number, sc_wire_head.self, more: repeated), record)
        }
        var packet = sc_wire_import()
        packet.head = packetHead(SC_WIRE_IMPORT, number, sc_wire_import.self, more: length)
        (packet.state_version, packet.state_length, packet.channels) = (message.state_version ?? 0, UInt32(length), UInt32(channels.count))
        withUnsafeMutableBytes(of: &packet.roles) { roles in
            for (index, channel) in channels.enumerated() {
                let start = index * Int(SC_WIRE_ROLE)
                for (place, byte) in channel.name.utf8.prefix(Int(SC_WIRE_ROLE) - 1).enumerated() { roles[start + place] = byte }
            }
        }
        guard offered.server.outbox.send(packet, state, descriptors: Array(descriptors.prefix(channels.count))) else {
            return decline("process \(offered.server.pid) does not read what it is told")
        }
    }

    func ready(_ number: UInt64, at server: RegisteredServer) -> Bool {
        guard let index = offers.firstIndex(where: { $0.server === server && $0.continuation == number }) else { return false }
        offers[index].isReady = true
        if offers.allSatisfy(\.isReady) { reply("ready", pid: server.pid) }
        return true
    }

    func ended(_ server: RegisteredServer) {
        guard !isLive, offers.contains(where: { $0.server === server }) else { return }
        offers.removeAll { $0.server === server }
        decline("process \(server.pid) has gone")
    }

    /// The sessions do not come.
    func abandon() {
        guard !isLive else { return }
        for offer in offers { offer.server.tell(SC_WIRE_GONE, offer.continuation ?? offer.number) }
        offers = []
    }
}
