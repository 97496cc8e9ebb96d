// The servers of this host that take part by libsc: who they are, who has which socket, and who speaks with them just now.

import CProc
import Glibc
import SC
import SCEngine
import SCImage

/// The agent's registry. It lives in the agent's loop: `entries` are waited for, `handle` does what is due.
final class Servers {
    let policy: () -> Policy
    let log: (String, [String: String]) -> Void
    private let listener: SharedDescriptor
    var acceptors: [String: SharedDescriptor] = [:]
    var servers: [RegisteredServer] = []
    private var movers: [ParkConversation] = []
    var receivers: [ReceiverConversation] = []
    private var watched: [RegisteredContinuation] = []
    private var bySocket: [UInt64: RegisteredContinuation] = [:]
    var byFlow: [String: RegisteredContinuation] = [:]
    private var groups: [GroupName: [RegisteredContinuation]] = [:]
    /// Connections that have ended while their process has not: it may be about to end, or to connect again.
    private var lost: [(server: RegisteredServer, until: Deadline)] = []
    private(set) var orphans: Orphans!
    var offers: UInt64 = 1 << 63
    var turns = 0

    /// How long a session that was parked for a former agent is left alone before its socket is looked at: its mover may not have locked it yet.
    private static let grace: UInt64 = 2_000_000_000

    /// How long a server without a connection may take to end or to connect again, in milliseconds.
    private static let patienceWithLost = 2500

    /// Processes that may be registered at once.
    private static let limit = 4096

    /// `start` runs this program with arguments and tells its pid, `isRunning` whether it still does.
    init(
        policy: @escaping () -> Policy, start: @escaping ([String]) -> Int32?, isRunning: @escaping (Int32) -> Bool,
        log: @escaping (String, [String: String]) -> Void
    ) throws(CheckpointError) {
        (self.policy, self.log) = (policy, log)
        listener = try AgentListeners.servers()
        // A duplicate of each descriptor of each server.
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        limit.rlim_cur = limit.rlim_max
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        orphans = Orphans(of: self, start: start, isRunning: isRunning, log: log)
    }

    func close() {
        unlink("\(StateDirectory.path)/servers.sock")
        for name in acceptors.keys { unlink(AgentListeners.serverAcceptor(name)) }
        rmdir("\(StateDirectory.path)/servers")
    }

    // MARK: The loop

    private enum Source {
        case listener, acceptor(String), server(RegisteredServer), process(RegisteredServer), mover(ParkConversation), receiver(ReceiverConversation)
    }
    private var sources: [Source] = []

    var entries: [pollfd] {
        sources = [.listener] + acceptors.keys.map { .acceptor($0) }
        sources += servers.map { .server($0) }
        // A child may keep the connection of a dead server open.
        sources += (servers + lost.map(\.server)).filter { $0.memory != nil }.map { .process($0) }
        sources += movers.map { .mover($0) }
        sources += receivers.map { .receiver($0) }
        return sources.map { source in
            var entry = pollfd(fd: -1, events: Int16(POLLIN), revents: 0)
            switch source {
            case .listener: entry.fd = listener.raw
            case .acceptor(let name): entry.fd = acceptors[name]?.raw ?? -1
            case .server(let server):
                entry.fd = server.connection.raw
                if server.outbox.isWaiting { entry.events |= Int16(POLLOUT) }
            case .process(let server): entry.fd = server.process?.raw ?? -1
            case .mover(let mover): entry.fd = mover.connection.raw
            case .receiver(let receiver): entry.fd = receiver.connection.raw
            }
            return entry
        }
    }

    /// Milliseconds until something is due without an event.
    var patience: Int32 { movers.contains(where: \.isWaiting) || !watched.isEmpty || !lost.isEmpty || !orphans.isEmpty ? 20 : 1000 }

    func handle(_ isReady: (Int) -> Bool) {
        for (index, source) in sources.enumerated() where isReady(index) { handle(source) }
        for mover in movers { mover.look() }
        settle()
        for entry in lost where entry.until.hasPassed { entry.server.removeAll() }
        lost.removeAll { $0.until.hasPassed }
        orphans.look()
    }

    private func handle(_ source: Source) {
        do throws(CheckpointError) {
            switch source {
            case .listener: try admit()
            case .acceptor(let name): try receive(for: name)
            case .server(let server):
                server.outbox.flush()
                try server.receive()
            case .process(let server): ended(server)
            case .mover(let mover): try mover.receive()
            case .receiver(let receiver): try receiver.receive()
            }
        } catch {
            end(source, error)
        }
    }

    private func end(_ source: Source, _ error: CheckpointError) {
        switch source {
        case .listener, .acceptor: log("server-refused", ["reason": error.description])
        case .server(let server):
            guard servers.contains(where: { $0 === server }) else { return }
            remove(server)
            log("server-gone", ["service": server.service ?? "-", "pid": String(server.pid), "reason": error.why])
            if server.memory == nil {
                server.removeAll()
            } else if server.hasEnded {
                orphans.take(server)
            } else {
                lost.append((server, Deadline(milliseconds: Self.patienceWithLost)))
            }
        case .process: break
        case .mover(let mover):
            movers.removeAll { $0 === mover }
            mover.abandon()
        case .receiver(let receiver):
            receivers.removeAll { $0 === receiver }
            receiver.abandon()
        }
    }

    private func remove(_ server: RegisteredServer) {
        servers.removeAll { $0 === server }
        for receiver in receivers { receiver.ended(server) }
        updateAcceptors()
    }

    /// The process has ended; what it has said before is heard first.
    private func ended(_ server: RegisteredServer) {
        if servers.contains(where: { $0 === server }) {
            try? server.receive()
            remove(server)
        } else if !lost.contains(where: { $0.server === server }) {
            return
        }
        lost.removeAll { $0.server === server }
        orphans.take(server)
    }

    private func admit() throws(CheckpointError) {
        let raw = cproc_accept(listener.raw)
        guard raw >= 0 else { return }
        let server = try RegisteredServer(SharedDescriptor(raw), in: self)
        // Strangers get no place; what they are told at a hello, they are told by the end of the connection.
        guard policy().services.values.contains(where: { policy().admits(server: server.uid, of: $0) }) else {
            throw CheckpointError("process \(server.pid) may not register", why: "user \(server.uid) serves nothing here", errno: EACCES)
        }
        guard servers.count < Self.limit else {
            throw CheckpointError("process \(server.pid) cannot register", why: "\(Self.limit) processes have", errno: EAGAIN)
        }
        // It connects again: it lives, and tells everything anew.
        for entry in lost where entry.server.pid == server.pid && !entry.server.hasEnded { entry.server.removeAll() }
        lost.removeAll { $0.server.pid == server.pid && !$0.server.hasEnded }
        servers.append(server)
    }

    private func receive(for service: String) throws(CheckpointError) {
        guard let acceptor = acceptors[service] else { return }
        let raw = cproc_accept(acceptor.raw)
        guard raw >= 0 else { return }
        let connection = SharedDescriptor(raw)
        var (pid, uid, gid): (Int32, UInt32, UInt32) = (0, 0, 0)
        try check(cproc_peer_credentials(raw, &pid, &uid, &gid), "cannot tell who brings sessions")
        guard uid == 0 || uid == geteuid() else {
            throw CheckpointError("user \(uid) may not bring sessions", why: "it takes the rights of root", errno: EACCES)
        }
        receivers.append(ReceiverConversation(connection, service, in: self))
    }

    /// A mover has asked about sockets; the connection is its from now on.
    func begin(_ connection: SharedDescriptor) -> ParkConversation {
        let mover = ParkConversation(connection, in: self)
        movers.append(mover)
        return mover
    }

    // MARK: Sessions

    func know(_ channel: RegisteredContinuation.Channel, as continuation: RegisteredContinuation) {
        bySocket[channel.inode] = continuation
        byFlow[channel.flow] = continuation
    }

    /// Another one may have the socket meanwhile.
    func forget(_ channel: RegisteredContinuation.Channel, of continuation: RegisteredContinuation) {
        if bySocket[channel.inode] === continuation { bySocket[channel.inode] = nil }
        if byFlow[channel.flow] === continuation { byFlow[channel.flow] = nil }
    }

    func join(_ continuation: RegisteredContinuation) {
        if let part = continuation.part { groups[part.group, default: []].append(continuation) }
    }

    func leave(_ continuation: RegisteredContinuation) {
        guard let part = continuation.part else { return }
        groups[part.group]?.removeAll { $0 === continuation }
        if groups[part.group]?.isEmpty ?? false { groups[part.group] = nil }
    }

    /// All parts of its session, itself among them.
    func parts(of continuation: RegisteredContinuation) -> [RegisteredContinuation] {
        continuation.part.flatMap { groups[$0.group] } ?? [continuation]
    }

    func continuation(of inode: UInt64) -> RegisteredContinuation? { bySocket[inode] }

    /// Nobody says how the move of this session ended. A dead mover locks no socket any more; a former agent's may be about to.
    func watch(_ continuation: RegisteredContinuation, isMoverDead: Bool) {
        continuation.state = .watched(from: isMoverDead ? 0 : monotonicNanoseconds() + Self.grace)
        watched.append(continuation)
    }

    /// Sessions of which nobody says how their move ended. A move holds a socket in repair mode: one that has left it is served here, one without a
    /// connection elsewhere.
    private func settle() {
        watched.removeAll { if case .watched = $0.state { false } else { true } }
        let now = monotonicNanoseconds()
        for continuation in watched {
            guard case .watched(let begin) = continuation.state, now > begin else { continue }
            let parts = parts(of: continuation)
            let view = parts.compactMap(\.connection).first.map { SocketView($0.descriptor.raw) }
            let isHere = view?.tcpInfo.map { $0.state != UInt8(TCPState.close.rawValue) } ?? false
            if let view, isHere, view.isInRepairMode { continue }
            // It may have been let go for a server of this host, and be put back.
            if !isHere, parts.compactMap(\.connection).contains(where: { Journal.isOpen(forSocket: $0.inode) }) { continue }
            // All at once: the connection, which tells, goes with the part that has it.
            for part in parts {
                guard case .watched = part.state else { continue }
                isHere ? part.server.resume(part) : part.server.gone(part)
            }
        }
    }
}
