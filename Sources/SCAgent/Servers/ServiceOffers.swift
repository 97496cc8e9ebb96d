// Who is offered a session, and what the servers answer.

import CProc
import Glibc
import SC
import SCEngine

extension Servers {
    func hasServer(of service: String) -> Bool { servers.contains { $0.service == service && $0.accepts } }

    /// The servers of a service take turns; the one that has the session is not offered it.
    func nextServer(of service: String, local: String, peer: String, besides tried: [RegisteredServer] = []) -> RegisteredServer? {
        let session = byFlow[RegisteredContinuation.Channel.flow(local, peer)]
        let owners = session.map { parts(of: $0).map(\.server) } ?? []
        let able = servers.filter { server in
            server.service == service && server.accepts && !(owners + tried).contains { $0 === server }
        }
        guard !able.isEmpty else { return nil }
        turns += 1
        return able[turns % able.count]
    }

    func nextOffer() -> UInt64 {
        offers += 1
        return offers
    }

    /// False: the offer has been withdrawn meanwhile.
    func accepted(_ offer: UInt64, as continuation: UInt64) -> Bool { receivers.contains { $0.accepted(offer, as: continuation) } }
    func declined(_ number: UInt64, by server: RegisteredServer, _ reason: String) { _ = receivers.first { $0.declined(number, by: server, reason) } }
    func ready(_ number: UInt64, at server: RegisteredServer) { _ = receivers.first { $0.ready(number, at: server) } }

    /// A successor has produced other output than the client has.
    func differed(_ number: UInt64, at server: RegisteredServer, _ what: String) {
        let connection = server.continuations[number].flatMap { parts(of: $0).compactMap(\.connection).first }
        let peer = connection?.peer
        // Where another process has the connection, the library could not end it.
        if let connection { _ = cproc_disconnect(connection.descriptor.raw) }
        log("session-ended", ["service": server.service ?? "-", "peer": peer ?? "-", "pid": String(server.pid), "reason": what])
    }

    /// A service has an acceptor here exactly while one of its servers takes sessions, so that a move without one is refused at once.
    func updateAcceptors() {
        let wanted = Set(servers.filter(\.accepts).compactMap(\.service))
        for name in acceptors.keys where !wanted.contains(name) {
            acceptors[name] = nil
            unlink(AgentListeners.serverAcceptor(name))
        }
        for name in wanted where acceptors[name] == nil {
            do throws(CheckpointError) {
                acceptors[name] = try AgentListeners.packets(StateDirectory.file("\(name).sock", in: "servers"), mode: 0o600)
                log("server-ready", ["service": name])
            } catch {
                log("server-refused", ["service": name, "reason": error.description])
            }
        }
    }

    /// Why a session cannot move: what the server says, or one of its servers.
    func pin(of continuation: RegisteredContinuation) -> String? { parts(of: continuation).lazy.compactMap(\.pin).first }

    /// The sessions, each where its connection is.
    var registered: [RegisteredSession] {
        let now = monotonicNanoseconds()
        return (servers + orphans.dead).flatMap { server in
            server.continuations.values.compactMap { continuation -> RegisteredSession? in
                guard let connection = continuation.connection else { return nil }
                let refusal = parts(of: continuation).compactMap(\.refusal).max { $0.at < $1.at }
                return RegisteredSession(
                    server: server.service ?? "", pid: continuation.holder, client: connection.peer, service: connection.local,
                    socket: connection.inode, seconds: Int((now - continuation.begun) / 1_000_000_000), pin: pin(of: continuation),
                    refusal: refusal?.reason, refused: refusal.map { Int((now - $0.at) / 1_000_000_000) })
            }
        }
    }

    var status: [AgentStatus.Server] {
        (servers + orphans.dead).compactMap { server in
            server.service.map {
                .init(service: $0, pid: server.pid, sessions: server.continuations.count, accepts: server.accepts, isDead: server.isDead)
            }
        }
    }
}
