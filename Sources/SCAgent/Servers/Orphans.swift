// Sessions whose server has died: the agent's duplicates keep their connections, and another server of the service takes them, here or on another host.

import CProc
import Glibc
import SCEngine
import SCImage

/// The dead servers with what they have left. A worker moves the sessions, as it moves those of living servers: the agent is the process that has them.
final class Orphans {
    private final class Grave {
        let server: RegisteredServer
        let deadline: Deadline
        init(_ server: RegisteredServer, _ deadline: Deadline) { (self.server, self.deadline) = (server, deadline) }
    }

    /// The worker for one service, and what came of those before.
    private struct Attempts {
        var worker: Int32?
        /// What it was started for.
        var sessions: [RegisteredContinuation] = []
        var failures = 0
        var notBefore: UInt64 = 0
    }

    private unowned let servers: Servers
    private let start: ([String]) -> Int32?
    private let isRunning: (Int32) -> Bool
    private let log: (String, [String: String]) -> Void
    private var graves: [Grave] = []
    private var attempts: [String: Attempts] = [:]

    /// Sessions that ended and were not archived yet.
    private struct Death: Hashable {
        var service: String
        var pid: Int32
        var why: String
    }
    private var lost: [Death: [Session]] = [:]

    /// Between two attempts (ns).
    private static let pause: UInt64 = 200_000_000

    init(
        of servers: Servers, start: @escaping ([String]) -> Int32?, isRunning: @escaping (Int32) -> Bool,
        log: @escaping (String, [String: String]) -> Void
    ) {
        (self.servers, self.start, self.isRunning, self.log) = (servers, start, isRunning, log)
    }

    var isEmpty: Bool { graves.isEmpty }
    var dead: [RegisteredServer] { graves.map(\.server) }

    /// Those that wait, by the agent's own descriptors.
    func descriptors(of service: String) -> [Int32] { Array(Set(waiting(service).compactMap { connection(of: $0)?.descriptor.raw })) }

    /// The session's; another process may have it.
    private func connection(of continuation: RegisteredContinuation) -> RegisteredContinuation.Channel? {
        servers.parts(of: continuation).compactMap(\.connection).first
    }

    private func waiting(_ service: String) -> [RegisteredContinuation] {
        graves.filter { $0.server.service == service }.flatMap { $0.server.continuations.values }.filter {
            if case .running = $0.state { true } else { false }
        }
    }

    /// The server is dead. What cannot be taken back to an export ends now.
    func take(_ server: RegisteredServer) {
        guard let service = server.service, let memory = server.memory else { return server.removeAll() }
        let seconds = servers.policy().services[service]?.orphanSeconds ?? 0
        server.isDead = true
        hearWorkers()
        var kept = 0
        for continuation in server.continuations.values {
            // Before a mover touches the socket.
            let counted = continuation.connection.flatMap { SocketView($0.descriptor.raw).counted }
            if case .asked(let mover) = continuation.state {
                continuation.counted = counted
                mover.died(continuation)
            }
            guard case .running = continuation.state else { continue }
            do throws(CheckpointError) {
                guard seconds > 0 else { throw LoggedSession.lost("the policy leaves it no time") }
                if let pin = servers.pin(of: continuation) { throw LoggedSession.lost(pin) }
                guard continuation.canBeSeized else { throw LoggedSession.lost("it has several channels, and joins no group") }
                guard connection(of: continuation) != nil, continuation.connection == nil || counted != nil else {
                    throw LoggedSession.lost("its connection has ended")
                }
                continuation.counted = counted
                let logged = try memory.session(continuation.number, continuation.channels.map { .init(index: $0.key, role: $0.value.role) })
                // Of several, the others tell when they stand still.
                if let counted, continuation.isAlone { _ = try logged.resolve(read: counted.read, written: counted.written) }
                kept += 1
            } catch {
                end(continuation, error.why)
            }
        }
        log("server-died", ["service": service, "pid": String(server.pid), "sessions": String(kept), "seconds": String(seconds)])
        graves.append(Grave(server, Deadline(milliseconds: seconds * 1000)))
        // Nobody waits any longer than he has to, whatever became of those before.
        attempts[service]?.notBefore = 0
        look()
    }

    /// For both: the client is told by RST.
    private func end(_ continuation: RegisteredContinuation, _ why: String) {
        if !why.isEmpty, FailedMove.keep != nil, let session = lastWords(of: continuation) {
            lost[Death(service: continuation.server.service ?? "", pid: continuation.server.pid, why: why), default: []].append(session)
        }
        for channel in continuation.channels.values where channel.isConnection {
            if !SocketView(channel.descriptor.raw).hasEnded {
                log("session-ended", ["service": continuation.server.service ?? "-", "peer": channel.peer, "reason": why])
            }
            _ = cproc_disconnect(channel.descriptor.raw)
        }
        continuation.server.remove(continuation.number)
    }

    /// What is known of a session that ends: its connection, its last exported state, and the input that its server has read since, where the server had it:
    /// before what it had not read. Several channels, or one that has ended, are not told of.
    private func lastWords(of continuation: RegisteredContinuation) -> Session? {
        guard continuation.channels.count == 1, let channel = continuation.channels.values.first else { return nil }
        let copy = fcntl(channel.descriptor.raw, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0 else { return nil }
        let socket = HeldSocket(OwnedDescriptor(copy), fd: channel.descriptor.raw)
        guard let namespace = try? NetworkNamespace.of(socket: copy), let family = socket.view.local?.address.isIPv6,
            let baseline = try? OptionBaseline(in: namespace, ipv6: family), var tcp = try? socket.dump(options: baseline)
        else { return nil }
        let memory = try? continuation.server.memory?.session(continuation.number, [.init(role: channel.role)])
        if let input = memory?.channels.first?.input {
            tcp.receiveQueue = input + tcp.receiveQueue
            tcp.bytesRead = tcp.bytesRead >= UInt64(input.count) ? tcp.bytesRead - UInt64(input.count) : 0
        }
        return Session(id: .random(), channels: [tcp], state: memory?.state ?? [])
    }

    /// All that ended for one reason is one image: a server with a thousand sessions must not keep the agent busy.
    private func keepLost() {
        let deaths = lost
        lost = [:]
        for (death, sessions) in deaths {
            let error = CheckpointError("the server \(death.pid) has died, and its sessions have ended", why: death.why, errno: ESRCH)
            var failed = FailedMove(.lost, sessions, error)
            (failed.pid, failed.service) = (death.pid, death.service)
            FailedMove.keep?(failed)
        }
    }

    /// Called now and then.
    func look() {
        defer { keepLost() }
        hearWorkers()
        for grave in graves {
            let idle = grave.server.continuations.values.filter { if case .running = $0.state { true } else { false } }
            for continuation in idle where connection(of: continuation).map({ SocketView($0.descriptor.raw).hasEnded }) ?? true {
                end(continuation, "")
            }
            if grave.deadline.hasPassed { for continuation in idle { end(continuation, "no server has taken it in time") } }
        }
        graves.removeAll { $0.server.continuations.isEmpty }
        for service in Set(graves.compactMap(\.server.service)) { attempt(service) }
    }

    /// Workers that have ended: those who still wait are tried elsewhere, a little later.
    private func hearWorkers() {
        for (service, state) in attempts {
            guard let worker = state.worker, !isRunning(worker) else { continue }
            let left = waiting(service)
            let hasFailed = state.sessions.contains { session in left.contains { $0 === session } }
            attempts[service] = hasFailed ? Attempts(failures: state.failures + 1, notBefore: monotonicNanoseconds() + Self.pause) : nil
        }
    }

    private func attempt(_ service: String) {
        var state = attempts[service] ?? Attempts()
        defer { attempts[service] = state }
        guard state.worker == nil, monotonicNanoseconds() >= state.notBefore, !waiting(service).isEmpty else { return }
        let others = servers.policy().services[service]?.orphansTo ?? []
        let targets = (servers.hasServer(of: service) ? ["self"] : []) + others
        guard !targets.isEmpty else { return }
        state.sessions = waiting(service)
        state.worker = start(["drain", "--orphans", "--service", service, "--to", targets[state.failures % targets.count], "--json"])
    }
}

extension SocketView {
    /// It has no connection any longer.
    fileprivate var hasEnded: Bool { tcpInfo.map { $0.state == UInt8(TCPState.close.rawValue) } ?? true }
}
