// Hands a restored session to an unmodified server, inside the socket that the server has accepted itself.

import CProc
import Glibc
import SCImage

/// In-place transplant. The server accepts an ordinary connection (the prelude), which the adapter drives into the session's state; then the server is
/// stopped for a fraction of a millisecond, what it wrote beyond the state is kept as surplus, and its socket is turned into the migrated connection.
package final class TransplantHandover: HandoverDriver {
    private struct Guest {
        let offer: SessionOffer
        let prelude: Prelude
        let process: TargetProcess
        let fd: Int32
        let inode: UInt64
    }

    private let root: TargetProcess
    private let adapter: any Adapter
    private let namespace: NetworkNamespace
    private var route: MarkedRoute?
    private var guests: [Flow: Guest] = [:]
    /// The server has brought the preludes into the sessions' states, and still runs.
    private var aligned: [(session: Session, prelude: AlignedPrelude, guest: Guest)] = []
    private var rebuilt: [(session: Session, socket: RestoredSocket, guest: Guest)] = []
    /// The move's keeper continues them should this process die; a guard would do so too early.
    private let stopped = StoppedProcesses(isGuarded: false)
    private var stoppedPIDs: Set<Int32> = []
    package private(set) var isLive = false

    package init(pid: Int32, adapter name: String) throws(CheckpointError) {
        root = try TargetProcess(pid: pid)
        adapter = try SCEngine.adapter(named: name)
        namespace = try NetworkNamespace.of(pid: pid)
    }

    package func prepare(_ offers: [SessionOffer], layout: Session?) throws(CheckpointError) {
        guard layout == nil else {
            throw CheckpointError(
                "an unmodified server cannot receive a session of several processes", why: "only TCP connections can be put into its sockets",
                errno: EOPNOTSUPP, advice: "Use --exec or --into, or move the connection alone, without --with-ipc")
        }
        try refuseHeldFlows(offers, in: namespace)
        for offer in offers {
            guard let state = offer.adapter, state.name == adapter.name else {
                throw CheckpointError(
                    "cannot continue \(offer.flow) in process \(root.pid) (\(root.command))",
                    why: "the session was captured without the adapter \(adapter.name)",
                    errno: EINVAL, advice: "Capture it with --adapter \(adapter.name)")
            }
            try adapter.check(state, server: ServerAccess(namespace: namespace, service: offer.flow.service))
        }
        route = try MarkedRoute(in: namespace, families: Set(offers.map { $0.flow.isIPv6 ? AF_INET6 : AF_INET }))
        var preludes: [(SessionOffer, Prelude)] = []
        for offer in offers {
            preludes.append((offer, try Prelude(to: offer.flow.service, in: namespace, as: offer.flow.client)))
        }
        try findAccepted(preludes)
    }

    /// The server's sockets whose other ends are the preludes; it has until the deadline to accept them.
    private func findAccepted(_ preludes: [(SessionOffer, Prelude)]) throws(CheckpointError) {
        let deadline = Deadline(milliseconds: 3000)
        while true {
            var accepted: [Flow: (TargetProcess, Int32)] = [:]
            for process in root.tree() {
                for fd in (try? process.descriptors()) ?? [] {
                    guard let copy = try? process.duplicate(fd), let local = SocketView(copy.raw).local, let peer = SocketView(copy.raw).peer else {
                        continue
                    }
                    accepted[Flow(client: peer, service: local)] = (process, fd)
                }
            }
            let missing = preludes.first { accepted[$0.0.flow] == nil }
            guard let missing else {
                for (offer, prelude) in preludes {
                    let (process, fd) = accepted[offer.flow]!
                    // A small send buffer keeps the server from writing megabytes ahead, which would have to be drained while the client waits.
                    let socket = try process.duplicate(fd)
                    _ = cproc_setsockopt_int(socket.raw, SOL_SOCKET, SO_SNDBUF, 65536)
                    guests[offer.flow] = Guest(offer: offer, prelude: prelude, process: process, fd: fd, inode: inode(of: socket.raw) ?? 0)
                }
                return
            }
            guard !deadline.hasPassed else {
                throw CheckpointError(
                    "process \(root.pid) (\(root.command)) did not accept the connection for \(missing.0.flow)",
                    why: "none of its descriptors, nor of its children's, is the other end", errno: ETIMEDOUT,
                    advice: "Is it the server that listens on \(missing.0.flow.service)?")
            }
            pause(microseconds: 500)
        }
    }

    /// The server sees their preludes end as any client's connection.
    package func withdraw(_ flows: Set<Flow>) {
        for flow in flows { guests[flow] = nil }
    }

    package func rebuild(_ session: Session) throws(CheckpointError) {
        try session.requireNoRepetition("a server that was never changed")
        for channel in session.channels {
            guard let guest = guests[Flow(channel)], let state = session.adapter else {
                throw CheckpointError("the image holds a session that was not offered", why: "\(Flow(channel))", errno: EPROTO)
            }
            aligned.append((session, try adapter.align(state, channel: channel, prelude: guest.prelude), guest))
        }
    }

    /// The server agreed when it accepted the preludes and answered in them. It stands still only now: one process may have to answer in several.
    package func consent() throws(CheckpointError) {
        for case (var session, var prelude, let guest) in aligned {
            if stoppedPIDs.insert(guest.process.pid).inserted { try stopped.stop(guest.process) }
            let socket = try guest.process.duplicate(guest.fd)
            try drain(guest.prelude, server: socket.raw, into: &prelude)
            guest.prelude.vanish()
            session.channels = [session.channels[0].appending(prelude.surplus)]
            rebuilt.append((session, try RestoredSocket(session.channels[0], onto: socket, in: namespace, isInPlace: true), guest))
        }
        aligned = []
    }

    /// Reads what the stopped server has written until both its send queue and the prelude's receive queue are empty.
    private func drain(_ prelude: Prelude, server: Int32, into aligned: inout AlignedPrelude) throws(CheckpointError) {
        let deadline = Deadline(milliseconds: 2000)
        repeat {
            aligned.surplus += try prelude.readAvailable()
            if cproc_siocoutq(server) == 0 {
                aligned.surplus += try prelude.readAvailable()
                return
            }
            pause(microseconds: 20)
        } while !deadline.hasPassed
        throw CheckpointError("the server's output did not arrive", why: "\(cproc_siocoutq(server)) bytes are still on their way", errno: ETIMEDOUT)
    }

    package func confirm() throws(CheckpointError) {
        for process in processesToStop { try process.requireAlive() }
    }

    package func activate() throws(CheckpointError) {
        for entry in rebuilt {
            isLive = true
            try entry.socket.activate()
        }
    }

    package func deliver() -> Int32 {
        stopped.resume()
        return rebuilt.first?.guest.process.pid ?? root.pid
    }

    package func cleanUp() {
        SessionRegistry.sweep()
        for entry in rebuilt {
            SessionRegistry.add(session: entry.session, channel: entry.session.channels[0], socket: entry.socket.raw, pid: entry.guest.process.pid)
        }
        route = nil
    }

    package var record: HandoverRecord {
        var record = HandoverRecord(.onto, [adapter.name])
        record.pid = root.pid
        record.guests = guests.map { flow, guest in
            HandoverRecord.Guest(flow: FlowText(flow), pid: guest.process.pid, fd: guest.fd, inode: guest.inode)
        }
        (record.formerAccept, record.families) = (route?.formerAccept, route?.families ?? [])
        return record
    }

    package var processesToStop: [TargetProcess] {
        var seen: Set<Int32> = []
        return guests.values.map(\.process).filter { seen.insert($0.pid).inserted }
    }

    package var rebuiltSessions: [Session] { rebuilt.map(\.session) }
    package var keepsakes: [Int32] { rebuilt.map(\.socket.raw) }

    package func discard() {
        (rebuilt, aligned) = ([], [])
        stopped.resume()
        guests = [:]
        route = nil
    }
}
