// Finishes or undoes the target's end of a move whose process died, from its journal and from what its keeper holds.

import CProc
import Glibc
import SCImage

/// The recovery of one target. Before `activating` is in the journal it undoes everything, and the source takes its sessions back when it asks; from then
/// on it finishes, whatever the dead process had done. Every step can be repeated.
package final class TargetRecovery {
    private let journal: Journal
    private let content: Journal.Content
    private let kept: KeptDescriptors

    package init(_ journal: Journal, _ content: Journal.Content, kept: KeptDescriptors) {
        (self.journal, self.content, self.kept) = (journal, content, kept)
    }

    /// The standing of the move from now on.
    package func run() -> Standing.State {
        if content.has(.active) { return .active }
        if content.has(.lost) { return .lost }
        guard let entry = try? content.targetEntry() else { return .busy }
        guard entry.writer.isOfThisBoot else {
            guard content.has(.activating) else {
                journal.remove()
                return .discarded
            }
            try? journal.note(.lost, durably: true)
            return .lost
        }
        guard content.has(.activating) else {
            undo(entry)
            return .discarded
        }
        do throws(CheckpointError) {
            let pid = try finish(entry)
            try journal.note(.active, ["pid": String(pid)], durably: false)
            return .active
        } catch {
            end(entry)
            try? journal.note(.lost, durably: true)
            return .lost
        }
    }

    private func namespace(_ entry: TargetEntry) throws(CheckpointError) -> NetworkNamespace {
        entry.handover.kind == .onto ? try .of(pid: entry.handover.pid) : try .current()
    }

    private func steering(_ entry: TargetEntry) throws(CheckpointError) -> any TargetSteering {
        try adoptTargetSteering(entry.steering, flows: entry.flows.compactMap(\.flow), in: namespace(entry))
    }

    // MARK: Before the activation

    private func undo(_ entry: TargetEntry) {
        for connection in kept.local {
            let line = AcceptorRequest(type: "cancel").line
            _ = cproc_send_fds(connection.raw, line, line.count, nil, 0)
        }
        for guest in entry.handover.guests {
            guard let socket = socket(of: guest), socket.isInRepairMode else { continue }
            // The server sees an aborted client, as when the dead process had given up by itself.
            _ = cproc_disconnect(socket.fd)
            _ = cproc_repair(socket.fd, Int32(CPROC_REPAIR_OFF_NO_PROBE))
        }
        tidy(entry)
        if !entry.steering.isEmpty { try? steering(entry).giveBack() }
        journal.remove()
    }

    /// The guest's socket, if its descriptor is still that socket; borrowed, for the life of this process.
    private func socket(of guest: HandoverRecord.Guest) -> SocketView? {
        guard let descriptor = (try? TargetProcess(pid: guest.pid))?.duplicate(guest.fd, withInode: guest.inode) else { return nil }
        return SocketView(descriptor.release())
    }

    private func tidy(_ entry: TargetEntry) {
        if let namespace = try? namespace(entry) { MarkedRoute.remove(entry.handover, in: namespace) }
        for pid in (content.details(.stopping)["pids"] ?? "").split(separator: " ").compactMap({ Int32($0) }) {
            (try? TargetProcess(pid: pid))?.continueRunning()
        }
    }

    // MARK: After it

    private func finish(_ entry: TargetEntry) throws(CheckpointError) -> Int32 {
        guard let file = kept.files.first else {
            throw CheckpointError("the sessions are gone", why: "nothing kept them when their process died", errno: ENOENT)
        }
        let sessions = try readSessionFile(file)
        let channels = sessions.flatMap(\.channels)
        guard kept.tcp.count == channels.count else {
            throw CheckpointError("the sessions are gone", why: "\(kept.tcp.count) of \(channels.count) sockets were kept", errno: ENOENT)
        }
        let namespace = try namespace(entry)
        let steering = try steering(entry)
        try steering.activate()
        for (socket, channel) in zip(kept.tcp, channels) {
            let copy = try check(fcntl(socket.raw, F_DUPFD_CLOEXEC, 0), "cannot duplicate a kept socket")
            try RestoredSocket(adopting: OwnedDescriptor(copy), channel, in: namespace, isInPlace: entry.handover.kind == .onto).resumeActivation()
        }
        let pid = try deliver(entry, sessions, namespace)
        try steering.release()
        register(sessions, pid)
        tidy(entry)
        steering.finish()
        return pid
    }

    private func deliver(
        _ entry: TargetEntry, _ sessions: [Session], _ namespace: NetworkNamespace
    ) throws(CheckpointError) -> Int32 {
        switch entry.handover.kind {
        case .onto: return entry.handover.pid
        case .into:
            let line = AcceptorRequest(type: "go").line
            for connection in kept.local {
                try check(
                    cproc_send_fds(connection.raw, line, line.count, nil, 0), "cannot speak to the acceptor at \(entry.handover.arguments[0])")
            }
            return entry.handover.pid
        case .exec:
            // The dead process may have started it: then the new process has the sockets.
            if let holder = holder() { return holder }
            let state = try makeStateFile(sessions.first { !$0.state.isEmpty }?.state ?? [])
            // What joins the session's processes went with the dead one, untouched: it is made again.
            var connections = kept.tcp.map(\.raw)
            var locals: [RestoredLocals] = []
            var passed: [Int32] = []
            for session in sessions {
                let own = Array(connections.prefix(session.channels.count))
                connections.removeFirst(own.count)
                let restored = try RestoredLocals(session, connections: own, in: namespace)
                locals.append(restored)
                passed += FreshSockets.delivered(session, own + restored.descriptors)
            }
            return try withExtendedLifetime((state, locals)) { () throws(CheckpointError) in
                try ExecHandover.start(entry.handover.arguments, sessions, passing: passed + [state.raw], output: -1, in: namespace)
            }
        }
    }

    /// Another process that has the first of the sockets.
    private func holder() -> Int32? {
        guard let first = kept.tcp.first, let inode = inode(of: first.raw) else { return nil }
        return TargetProcess.holders(ofInode: inode, excluding: getpid()).first { $0.command != "sc-keeper" }?.pid
    }

    private func register(_ sessions: [Session], _ pid: Int32) {
        for (socket, entry) in zip(kept.tcp, sessions.flatMap { session in session.channels.map { (session, $0) } }) {
            SessionRegistry.add(session: entry.0, channel: entry.1, socket: socket.raw, pid: pid)
        }
    }

    /// The sessions cannot be served: their sockets end with this process, and the clients are told by the kernel.
    private func end(_ entry: TargetEntry) {
        tidy(entry)
        if !entry.steering.isEmpty { try? steering(entry).finish() }
    }
}
