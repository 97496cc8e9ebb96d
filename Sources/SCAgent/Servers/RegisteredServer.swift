// A server that is linked with libsc, as the agent knows it: its service, and its continuations with duplicates of their descriptors.

import CProc
import Glibc
import SC
import SCEngine
import SCImage

/// A session of several processes of a service; what the servers have drawn for it is theirs alone.
struct GroupName: Hashable {
    var service: String
    var bytes: [UInt8]
}

/// One session of a server, or its part of one.
final class RegisteredContinuation {
    struct Channel {
        var descriptor: SharedDescriptor
        var inode: UInt64
        var role: String
        /// As it was when it was associated; a connection that has ended has no addresses.
        var local, peer: String
        /// A TCP connection; the others join the processes of a session.
        var isConnection: Bool
        /// The server's number for it.
        var number: Int32
        var flow: String { Self.flow(local, peer) }
        static func flow(_ local: String, _ peer: String) -> String { "\(local) \(peer)" }
    }

    enum State {
        case running
        /// Asked to park, and parked, for a mover.
        case asked(ParkConversation), parked(ParkConversation)
        /// Taken by a mover from a server that does not answer, or is dead.
        case seized(ParkConversation)
        /// Parked, and nobody says how the move ended: from when on its socket is looked at (monotonic ns).
        case watched(from: UInt64)
    }

    let number: UInt64
    unowned let server: RegisteredServer
    var channels: [UInt32: Channel] = [:]
    var state = State.running
    /// What the process does in a session of several.
    var part: (name: String, group: GroupName)?
    var connection: Channel? { channels.values.first { $0.isConnection } }
    /// A session of one process and one connection.
    var isAlone: Bool { part == nil && channels.count == 1 && connection != nil }
    /// It can be served from what its server keeps in memory, if that says enough.
    var canBeSeized: Bool { server.memory != nil && (isAlone || part != nil) }
    /// The process that has its descriptors, and a descriptor's number there: this one keeps those of the dead.
    var holder: Int32 { server.isDead ? getpid() : server.pid }
    func number(of channel: Channel) -> Int32 { server.isDead ? channel.descriptor.raw : channel.number }
    /// Why its server says that it cannot move (sc_pin); nil: it does not say so.
    var pin: String?
    /// Why it was not parked when that was tried last, and when (monotonic ns).
    var refusal: (reason: String, at: UInt64)?
    /// The most bytes of its state (sc_reserve).
    var room = Int(SC_STATE_DEFAULT)
    let begun = monotonicNanoseconds()
    /// The kernel's counters when the server had died.
    var counted: (read: UInt64, written: UInt64)?

    init(_ number: UInt64, of server: RegisteredServer) { (self.number, self.server) = (number, server) }
}

/// One connection of libsc.
final class RegisteredServer {
    let connection: SharedDescriptor
    let outbox: Outbox
    let pid: Int32
    let uid: UInt32
    /// nil: it has said nothing yet.
    private(set) var service: String?
    /// Of the protocol.
    private(set) var version: UInt16 = 0
    /// Of the state that it exports.
    private(set) var stateVersion: UInt32 = 0
    private(set) var accepts = false
    private(set) var memory: ServerMemory?
    /// Readable when the process has ended; nil on a kernel without pidfds.
    let process: SharedDescriptor?
    /// Its sessions wait for another server.
    var isDead = false
    private(set) var continuations: [UInt64: RegisteredContinuation] = [:]
    private unowned let servers: Servers

    /// Continuations that one server may have.
    private static let limit = 1_000_000

    init(_ connection: SharedDescriptor, in servers: Servers) throws(CheckpointError) {
        (self.connection, self.servers, outbox) = (connection, servers, Outbox(connection))
        var (pid, uid, gid): (Int32, UInt32, UInt32) = (0, 0, 0)
        try check(cproc_peer_credentials(connection.raw, &pid, &uid, &gid), "cannot tell who registers")
        (self.pid, self.uid) = (pid, uid)
        let pidfd = cproc_pidfd_open(pid)
        process = pidfd >= 0 ? SharedDescriptor(pidfd) : nil
    }

    /// The process has ended, not only its connection.
    var hasEnded: Bool { process.map { cproc_poll($0.raw, Int16(POLLIN), 0) > 0 } ?? false }

    /// Everything that has arrived, within bounds; throws when the connection has to end.
    func receive() throws(CheckpointError) {
        for _ in 0..<64 {
            guard let packet = try ServerPacket(from: connection) else { return }
            try handle(packet)
        }
    }

    private func handle(_ packet: ServerPacket) throws(CheckpointError) {
        let type = sc_wire_type(packet.head.type)
        guard service != nil || type == SC_WIRE_HELLO else { throw ServerPacket.malformed }
        let number = packet.head.continuation
        switch type {
        case SC_WIRE_HELLO: try greet(packet.content(sc_wire_hello.self))
        case SC_WIRE_ASSOCIATE: try associate(packet.content(sc_wire_associate.self), packet.descriptors)
        case SC_WIRE_JOIN: try join(packet.content(sc_wire_part.self))
        case SC_WIRE_DISSOCIATE:
            let channel = try packet.content(sc_wire_channel.self).channel
            if let continuation = continuations[number], let former = continuation.channels.removeValue(forKey: channel) {
                servers.forget(former, of: continuation)
            }
        case SC_WIRE_END: remove(number)
        case SC_WIRE_PARKED:
            let (parked, state) = try packet.parked
            guard let continuation = continuations[number], case .asked(let mover) = continuation.state else { return }
            continuation.state = .parked(mover)
            mover.parked(continuation, state: state, version: parked.state_version)
        case SC_WIRE_REFUSED:
            let reason = fieldText(try packet.content(sc_wire_reason.self).text)
            if let continuation = continuations[number], case .asked(let mover) = continuation.state {
                let isPassing = (try? packet.content(sc_wire_reason.self).error) == EAGAIN
                continuation.state = .running
                continuation.refusal = (reason, monotonicNanoseconds())
                mover.failed(continuation, "process \(pid) refuses: \(reason)", isPassing: isPassing)
            } else {
                servers.declined(number, by: self, reason)
            }
        case SC_WIRE_MEMORY:
            let told = try packet.content(sc_wire_memory.self)
            guard packet.descriptors.count == 1 else { throw ServerPacket.malformed }
            // The memory of another libsc says nothing to this agent; its sessions are served, and end with it.
            if told.version == SC_MEMORY_VERSION, told.stride == SC_MEMORY_STRIDE { memory = ServerMemory(file: packet.descriptors[0]) }
        case SC_WIRE_PIN:
            let reason = fieldText(try packet.content(sc_wire_reason.self).text)
            continuations[number]?.pin = reason.isEmpty ? nil : reason
        case SC_WIRE_ROOM:
            let bytes = try packet.content(sc_wire_room.self).bytes
            guard UInt32(SC_STATE_DEFAULT)...UInt32(SC_STATE_MAX) ~= bytes else { throw ServerPacket.malformed }
            continuations[number]?.room = Int(bytes)
        case SC_WIRE_DIFFERS:
            servers.differed(number, at: self, fieldText(try packet.content(sc_wire_reason.self).text))
        case SC_WIRE_OFFERS:
            accepts = try packet.content(sc_wire_offers.self).accepts != 0
            servers.updateAcceptors()
        case SC_WIRE_ACCEPTED:
            let accepted = try packet.content(sc_wire_accepted.self).continuation
            if !servers.accepted(number, as: accepted) { tell(SC_WIRE_GONE, accepted) }
        case SC_WIRE_READY: servers.ready(number, at: self)
        default: throw ServerPacket.malformed
        }
    }

    private func greet(_ hello: sc_wire_hello) throws(CheckpointError) {
        let name = fieldText(hello.service)
        let why: (Int32, String)? =
            if hello.magic != SC_WIRE_MAGIC || hello.oldest > UInt16(SC_WIRE_NEWEST) || hello.newest < UInt16(SC_WIRE_OLDEST) {
                (EPROTONOSUPPORT, "this agent speaks version \(SC_WIRE_OLDEST) to \(SC_WIRE_NEWEST), the library \(hello.oldest) to \(hello.newest)")
            } else if let service = servers.policy().services[name] {
                servers.policy().admits(server: uid, of: service)
                    ? nil : (EACCES, "user \(uid) may not serve \(name): see services.\(name).server_users")
            } else {
                (ENOENT, "the policy of \(hostName()) names no service \(name)")
            }
        if let (error, text) = why {
            var reason = sc_wire_reason()
            (reason.head, reason.error) = (packetHead(SC_WIRE_UNWELCOME, 0, sc_wire_reason.self), error)
            setField(&reason.text, to: text)
            outbox.send(reason)
            throw CheckpointError("process \(pid) may not register", why: text, errno: error)
        }
        service = name
        (version, stateVersion) = (min(hello.newest, UInt16(SC_WIRE_NEWEST)), hello.state_version)
        outbox.send(
            sc_wire_welcome(head: packetHead(SC_WIRE_WELCOME, 0, sc_wire_welcome.self), version: UInt32(version), pid: UInt32(getpid())))
    }

    private func associate(_ packet: sc_wire_associate, _ descriptors: [SharedDescriptor]) throws(CheckpointError) {
        var stat = cproc_stat()
        guard descriptors.count == 1, packet.channel < UInt32(SC_WIRE_CHANNELS), continuations.count < Self.limit,
            cproc_fstat(descriptors[0].raw, &stat) >= 0
        else { throw ServerPacket.malformed }
        let number = packet.head.continuation
        let continuation = continuations[number] ?? RegisteredContinuation(number, of: self)
        continuations[number] = continuation
        let view = SocketView(descriptors[0].raw)
        let channel = RegisteredContinuation.Channel(
            descriptor: descriptors[0], inode: stat.inode, role: fieldText(packet.role), local: view.local?.description ?? "",
            peer: view.peer?.description ?? "", isConnection: view.tcpInfo != nil, number: packet.fd)
        continuation.channels[packet.channel] = channel
        if packet.flags & SC_WIRE_IS_PARKED != 0, case .running = continuation.state { servers.watch(continuation, isMoverDead: false) }
        if channel.isConnection { servers.know(channel, as: continuation) }
    }

    private func join(_ packet: sc_wire_part) throws(CheckpointError) {
        let number = packet.head.continuation
        let continuation = continuations[number] ?? RegisteredContinuation(number, of: self)
        let name = fieldText(packet.part)
        guard !name.isEmpty, continuation.part == nil, continuation.channels.isEmpty, continuations.count < Self.limit else {
            throw ServerPacket.malformed
        }
        continuations[number] = continuation
        continuation.part = (name, GroupName(service: service ?? "", bytes: withUnsafeBytes(of: packet.group) { Array($0) }))
        servers.join(continuation)
    }

    func remove(_ number: UInt64) {
        guard let continuation = continuations.removeValue(forKey: number) else { return }
        for channel in continuation.channels.values { servers.forget(channel, of: continuation) }
        servers.leave(continuation)
        let state = continuation.state
        continuation.state = .running
        switch state {
        case .asked(let mover), .parked(let mover): mover.ended(continuation)
        case .seized(let mover): mover.ended(continuation)
        case .running, .watched: break
        }
    }

    /// The connection has ended: the server is gone, or will tell everything again.
    func removeAll() {
        for number in continuations.keys { remove(number) }
    }

    // MARK: Requests

    func park(_ continuation: RegisteredContinuation, for mover: ParkConversation, within milliseconds: Int) -> Bool {
        continuation.state = .asked(mover)
        return outbox.send(
            sc_wire_park(
                head: packetHead(SC_WIRE_PARK, continuation.number, sc_wire_park.self), deadline_ms: UInt32(clamping: milliseconds), reserved: 0))
    }

    func resume(_ continuation: RegisteredContinuation) {
        continuation.state = .running
        if isDead { return }
        tell(SC_WIRE_RESUME, continuation.number)
    }

    /// The server is to close its descriptors; the duplicates here end now.
    func gone(_ continuation: RegisteredContinuation) {
        continuation.state = .running
        remove(continuation.number)
        if !isDead { tell(SC_WIRE_GONE, continuation.number) }
    }

    func tell(_ type: sc_wire_type, _ number: UInt64) { outbox.send(packetHead(type, number, sc_wire_head.self)) }
}
