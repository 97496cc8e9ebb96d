// The agent as an acceptor (docs/acceptors.md) in the place of the registered servers of a service: it passes on offers, sessions and answers.

import CProc
import FoundationEssentials
import Glibc
import SC
import SCEngine

/// One conversation with the receiving end of a move.
final class ReceiverConversation {
    struct Offered {
        var number: UInt64
        /// nil: none has been asked yet.
        var server: RegisteredServer?
        let local, peer: String
        /// What the server would do in a session of several processes.
        let part: String?
        /// Those that were asked before, and do not do that.
        var tried: [RegisteredServer] = []
        var continuation: UInt64?
        var isReady = false
        /// Its process gets the client's connection.
        var hasConnection = true
    }

    let connection: SharedDescriptor
    private let service: String
    private unowned let servers: Servers
    var offers: [Offered] = []
    private var isLive = false
    /// Of a session of several processes.
    private var group = [UInt8](repeating: 0, count: Int(SC_WIRE_GROUP))
    private var stateBytes = 0
    /// The form of the state, by part; of sessions of one process under "".
    private var versions: [String: UInt32] = [:]

    init(_ connection: SharedDescriptor, _ service: String, in servers: Servers) {
        (self.connection, self.service, self.servers) = (connection, service, servers)
    }

    func receive() throws(CheckpointError) {
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        var descriptors = [Int32](repeating: -1, count: Int(CPROC_MAX_FDS))
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
            // Who reads from the client begins last.
            let others = offers.filter { !$0.hasConnection }
            for offer in others + offers.filter(\.hasConnection) { if let number = offer.continuation { offer.server?.tell(SC_WIRE_RESUME, number) } }
        case "cancel": abandon()
        default: throw CheckpointError("the receiver lost its place in the conversation", why: "it said \"\(message.type)\"", errno: EPROTO)
        }
    }

    private func reply(_ type: String, _ reason: String? = nil, pid: Int32? = nil, repeats: Bool? = nil) {
        let reply = ReceiverReply(type: type, reason: reason, pid: pid, repeats: repeats)
        let bytes = Array((try? JSONEncoder().encode(reply)) ?? Data()) + [UInt8(ascii: "\n")]
        _ = cproc_send_fds(connection.raw, bytes, bytes.count, nil, 0)
    }

    func decline(_ reason: String) {
        abandon()
        reply("decline", reason)
    }

    private func offer(_ message: ReceiverMessage) {
        stateBytes = message.state_bytes ?? 0
        for state in message.states ?? [] { versions[state.process] = state.version }
        versions[""] = message.state_version
        let flows = message.flows ?? []
        guard let first = flows.first else { return decline("the offer names no connection") }
        if let names = message.names, !names.isEmpty {
            group = (0..<group.count).map { _ in UInt8.random(in: 0...255) }
            var parts: [String] = []
            for name in names {
                let part = String(name.prefix { $0 != "." })
                if !parts.contains(part) { parts.append(part) }
            }
            guard parts.allSatisfy({ $0.utf8.count < Int(SC_WIRE_PART) }) else { return decline("a part of the session has too long a name") }
            for part in parts { offers.append(Offered(number: 0, local: first.local, peer: first.peer, part: part)) }
        } else {
            for flow in flows { offers.append(Offered(number: 0, local: flow.local, peer: flow.peer, part: nil)) }
        }
        for index in offers.indices {
            guard ask(index, "no server of \(service) takes sessions now") else { return }
        }
    }

    /// Offers it to the next server; declines the whole with this reason when there is none.
    private func ask(_ index: Int, _ reason: String) -> Bool {
        let (local, peer) = (offers[index].local, offers[index].peer)
        guard let server = servers.nextServer(of: service, local: local, peer: peer, besides: offers[index].tried) else {
            decline(reason)
            return false
        }
        (offers[index].number, offers[index].server) = (servers.nextOffer(), server)
        if let part = offers[index].part {
            var packet = sc_wire_part()
            packet.head = packetHead(SC_WIRE_TAKE_PART, offers[index].number, sc_wire_part.self)
            withUnsafeMutableBytes(of: &packet.group) { $0.copyBytes(from: group) }
            setField(&packet.part, to: part)
            guard server.version >= 3, server.outbox.send(packet) else {
                offers[index].tried.append(server)
                return ask(index, "process \(server.pid) has a libsc that knows no sessions of several processes")
            }
        }
        var offer = sc_wire_offer()
        offer.head = packetHead(SC_WIRE_OFFER, offers[index].number, sc_wire_offer.self)
        offer.state_bytes = UInt32(clamping: min(stateBytes, Int(SC_STATE_MAX)))
        offer.state_version = versions[offers[index].part ?? ""] ?? 0
        setField(&offer.local, to: local)
        setField(&offer.peer, to: peer)
        guard server.outbox.send(offer) else {
            decline("process \(server.pid) does not read what it is told")
            return false
        }
        return true
    }

    /// Returns false when the offer is not of this conversation.
    func accepted(_ number: UInt64, as continuation: UInt64) -> Bool {
        guard let index = offers.firstIndex(where: { $0.number == number }) else { return false }
        offers[index].continuation = continuation
        guard offers.allSatisfy({ $0.continuation != nil }) else { return true }
        reply("accept", repeats: offers.allSatisfy { $0.server?.version ?? 0 >= 4 })
        return true
    }

    func declined(_ number: UInt64, by server: RegisteredServer, _ reason: String) -> Bool {
        guard let index = offers.firstIndex(where: { $0.server === server && ($0.number == number || $0.continuation == number) }) else {
            return false
        }
        let why = "process \(server.pid): \(reason)"
        // Not every process of the service does every part.
        if let part = offers[index].part, offers[index].continuation == nil {
            offers[index].tried.append(server)
            _ = ask(index, "nobody takes the part \(part); \(why)")
            return true
        }
        offers.remove(at: index)
        decline(why)
        return true
    }

    func ready(_ number: UInt64, at server: RegisteredServer) -> Bool {
        guard let index = offers.firstIndex(where: { $0.server === server && $0.continuation == number }) else { return false }
        offers[index].isReady = true
        if offers.allSatisfy(\.isReady) { reply("ready", pid: (offers.first(where: \.hasConnection)?.server ?? server).pid) }
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
        for offer in offers { offer.server?.tell(SC_WIRE_GONE, offer.continuation ?? offer.number) }
        offers = []
    }
}
