// Brings the sessions of a source that died back to one owner, from its journal and from what its keeper holds.

import CProc
import Glibc
import SCImage

/// What became of the sessions of one journal.
package enum RecoveryOutcome: String, Sendable {
    /// They go on in the source's processes.
    case returned
    /// They are at the target, and this end has let go.
    case moved
    /// They ended: their process, or a host, went away while it had them.
    case lost
    /// The target gives no account of them; they stay silent, and the journal stays.
    case inDoubt = "in doubt"
    /// The target's end: it serves them, or it gave the move up.
    case active, discarded
    /// The receiving process could not be given the sessions; the journal stays.
    case busy
}

/// The recovery of one source. Every step can be repeated, since this process may die as well.
package final class SourceRecovery {
    private let journal: Journal
    private let content: Journal.Content
    private let entry: SourceEntry
    private let kept: KeptDescriptors
    private let flows: [Flow]
    /// They are served here again. Only what was parked of theirs may still wait at the link, for the move's end.
    private let withdrawn: [Flow]
    private var sockets: [HeldSocket] = []
    private var areHoldersStopped: Bool

    /// While the target gives no account, the server stands still for this long at most; then it goes on without these sessions.
    private static let grace = 2000

    package init(_ journal: Journal, _ content: Journal.Content, kept: KeptDescriptors) throws(CheckpointError) {
        (self.journal, self.content, self.kept) = (journal, content, kept)
        (entry, withdrawn) = try content.sourceEntry()
        flows = entry.flows.compactMap(\.flow)
        areHoldersStopped = content.details(.withdrawn)["running"] == nil
        guard entry.writer.isOfThisBoot else { return }
        for record in entry.sockets {
            guard let descriptor = Self.descriptor(of: record, kept) else { continue }
            let socket = HeldSocket(descriptor, fd: record.fd)
            socket.adopt(reuseAddress: record.reuseAddress, ownFilter: record.ownFilter)
            sockets.append(socket)
        }
    }

    /// From the keeper, or from the server, if its descriptor is still that socket.
    private static func descriptor(of record: SourceEntry.Socket, _ kept: KeptDescriptors) -> OwnedDescriptor? {
        if let held = kept.socket(inode: record.inode) {
            let copy = fcntl(held.raw, F_DUPFD_CLOEXEC, 0)
            return copy < 0 ? nil : OwnedDescriptor(copy)
        }
        return (try? TargetProcess(pid: record.pid))?.duplicate(record.fd, withInode: record.inode)
    }

    /// Ends the move one way or the other. `deadline` is for the target's account. Without one the journal stays, and the sessions stay silent; or they
    /// are ended (`orEnd`), so that the clients learn of it.
    package func run(within deadline: Deadline, orEnd: Bool) throws(CheckpointError) -> RecoveryOutcome {
        guard entry.writer.isOfThisBoot else {
            // The sockets went with the boot; what the target has, it has.
            journal.remove()
            return content.has(.decided) ? .moved : .lost
        }
        guard content.has(.decided) else { return try giveBack() }
        guard let (state, link) = ask(within: deadline) else {
            if orEnd { return try giveUp() }
            for socket in sockets { socket.keepHeld() }
            continueHolders()
            return .inDoubt
        }
        switch state {
        case .active: return try letGo(link)
        case .discarded: return try giveBack()
        case .lost, .busy: return try giveUp()
        }
    }

    /// Nobody has the sessions any longer; their clients are told by RST.
    private func giveUp() throws(CheckpointError) -> RecoveryOutcome {
        let steering = try adoptSteering()
        steering?.rollBack()
        for socket in sockets where !content.has(.letGo) {
            SessionRegistry.remove(socket.raw)
            socket.abort()
        }
        continueHolders()
        steering?.finish()
        journal.remove()
        return .lost
    }

    /// The processes go on after the grace, whatever the answer will be.
    private func ask(within deadline: Deadline) -> (state: Standing.State, link: PeerLink)? {
        let grace = Deadline(milliseconds: min(Self.grace, Int(deadline.remainingMilliseconds)))
        if let answer = Resolution.ask(journal.migration, entry.target, shell: entry.shell, program: entry.program, within: grace) { return answer }
        continueHolders()
        return Resolution.ask(journal.migration, entry.target, shell: entry.shell, program: entry.program, within: deadline)
    }

    private var namespace: NetworkNamespace? {
        if let socket = sockets.first { return try? NetworkNamespace.of(socket: socket.raw) }
        for record in entry.sockets { if let namespace = try? NetworkNamespace.of(pid: record.pid) { return namespace } }
        return try? NetworkNamespace.current()
    }

    private func adoptSteering() throws(CheckpointError) -> (any SourceSteering)? {
        guard let namespace else { return nil }
        guard content.has(.steered) else {
            // It died while it set the driver up: nothing was changed yet for any flow.
            sweepSteering(in: namespace)
            return nil
        }
        let steering = try adoptSourceSteering(content.details(.steered), flows: flows, in: namespace)
        if !withdrawn.isEmpty { try steering.adopt(left: withdrawn) }
        return steering
    }

    private func giveBack() throws(CheckpointError) -> RecoveryOutcome {
        let steering = try adoptSteering()
        let isWhole = !content.has(.letGo) || takeBack()
        for socket in sockets where !content.has(.letGo) { socket.giveBack() }
        steering?.rollBack()
        SourceEntry.Local.putBack(entry.locals ?? [])
        // A server that runs again must not meet a socket in repair mode, however shortly.
        for socket in sockets where !content.has(.letGo) && areHoldersStopped { socket.askForWindow() }
        continueHolders()
        steering?.finish()
        journal.remove()
        return sockets.isEmpty || !isWhole ? .lost : .returned
    }

    /// The sockets were emptied for a target in the same namespace; their sessions are in the keeper's file. False: some could not be put back.
    private func takeBack() -> Bool {
        guard let file = kept.files.first, let sessions = try? readSessionFile(file), let namespace else { return false }
        let deadline = Deadline(milliseconds: takeBackLimit)
        let channels = sessions.flatMap(\.untouched).filter { !withdrawn.contains(Flow($0)) }
        var isWhole = true
        for (socket, channel) in zip(sockets, channels) {
            // A socket that still has its connection was not emptied yet.
            if socket.view.peer != nil {
                socket.giveBack()
                continue
            }
            isWhole = (try? SCEngine.takeBack(channel, into: socket, in: namespace, within: deadline)) != nil && isWhole
        }
        return isWhole
    }

    private func letGo(_ link: PeerLink) throws(CheckpointError) -> RecoveryOutcome {
        let steering = try adoptSteering()
        try steering?.steer()
        try steering?.release()
        try end()
        endLocals()
        continueHolders()
        steering?.finish()
        if let steering, let namespace {
            ForwardRecord.note(
                journal.migration, entry.target, shell: entry.shell, program: entry.program, flows: flows, steering: steering.record,
                pid: entry.sockets.first?.pid ?? 0, namespace: namespace)
        }
        journal.remove()
        try? link.report(.release)
        return .moved
    }

    private func end() throws(CheckpointError) {
        for socket in sockets where !content.has(.letGo) {
            SessionRegistry.remove(socket.raw)
            try socket.letGo()
        }
    }

    /// The bytes in flight between the processes live elsewhere. Once the processes have gone on, what is in there is theirs.
    private func endLocals() {
        guard areHoldersStopped else { return }
        SourceEntry.Local.empty(entry.locals ?? [])
        for pid in entry.ending ?? [] { _ = (try? TargetProcess(pid: pid))?.signal(SIGKILL) }
    }

    private func continueHolders() {
        guard areHoldersStopped else { return }
        areHoldersStopped = false
        for holder in entry.holders where holder.wasRunning { (try? TargetProcess(pid: holder.pid))?.continueRunning() }
    }
}
