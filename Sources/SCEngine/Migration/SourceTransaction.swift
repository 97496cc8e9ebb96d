// What the source has touched for one move, and the ways out: on to the target, back to the processes, or left to the keeper.

import CProc
import Glibc
import SCImage

/// The source's journal, keeper, steering and sockets of one move. The calls come in the order prepare, freeze, letGoEarly (only within one namespace),
/// decide, steer, release, finish; `settle` after a failure of any of them up to and with the activation.
final class SourceTransaction {
    private let migration: MigrationID
    private let request: MigrationRequest
    private let capture: SessionCapture
    private let answer: Answer
    private var journal: Journal?
    private var keeper: Keeper?
    private var steering: (any SourceSteering)?
    private var local: LocalReturn?
    private var isDecided = false
    private let offered: [Flow]
    /// After `settle`: nobody has the sessions any longer.
    private(set) var areLost = false

    init(_ migration: MigrationID, _ request: MigrationRequest, _ capture: SessionCapture, _ answer: Answer) {
        (self.migration, self.request, self.capture, self.answer) = (migration, request, capture, answer)
        offered = capture.flows
    }

    /// Everything that takes milliseconds, while the sessions run. The journal comes first: what it names may be left behind by a crash.
    func prepare() throws(CheckpointError) {
        try capture.requireMovable()
        try leaveOut()
        let record = try capture.journalRecord()
        journal = try Journal(
            migration, .source,
            SourceEntry(
                target: request.target, shell: request.shell, program: request.program, sockets: record.sockets, holders: record.holders,
                flows: capture.flows.map(FlowText.init), locals: capture.group?.journalRecord, ending: capture.group?.processesToEnd.map(\.pid)))
        let keepsakes = capture.keepsakes
        let keeper = try Keeper(for: migration, .source, capacity: keepsakes.count + 1)
        self.keeper = keeper
        try keeper.give(keepsakes)
        var move = SteeringMove(
            flows: capture.flows, namespace: capture.namespace,
            targetAddresses: request.via.map { [AddressPrefix($0, length: $0.isIPv6 ? 128 : 32)] } ?? answer.addresses, targetName: answer.host)
        (move.isReturning, move.isSameNamespace) = (answer.isReturning, answer.isSameNamespace)
        (move.deadline, move.shell, move.program) = (request.deadline, request.shell, request.program)
        let steering = try makeSourceSteering(request.steering, for: move)
        self.steering = steering
        try journal?.note(.steered, steering.record, durably: true)
        // Only now, with the namespace's steering lock held, is it sure that no other move has the sessions.
        try capture.requireMovable()
        try leaveOut()
    }

    /// The offer's flows, by number, that do not come.
    var withdrawn: [Int] {
        let moving = Set(capture.flows)
        return offered.indices.filter { !moving.contains(offered[$0]) }
    }

    /// Gives those back that the capture has left out; the others go on. Before the transfer only: from then on all move or none. Throws when the move
    /// cannot go on without them.
    func leaveOut() throws(CheckpointError) {
        let left = capture.pending
        guard !left.isEmpty else { return }
        // A session that lives on has to be left alone by everybody who has heard of the whole batch.
        let canStay = !answer.isReturning && steering?.canLeave ?? true
        guard answer.takesFewer, canStay || left.allSatisfy(\.left.hasEnded) else {
            throw (left.first { !$0.left.hasEnded } ?? left[0]).left.error
        }
        capture.unlockLeftOut()
        try steering?.leave(left.map(\.left.flow))
        capture.resumeLeftOut()
        // What was noted is served again: nobody who reads it may touch it.
        try journal?.note(.withdrawn, ["sockets": left.map { String($0.inode) }.joined(separator: " ")], durably: false)
    }

    func freeze() throws(CheckpointError) { try steering?.freeze() }

    /// Two sockets of one namespace cannot hold the same 4-tuple, so the source lets go first; its sessions are with the keeper meanwhile.
    func letGoEarly(_ sessions: [Session]) throws(CheckpointError) {
        let file = try makeSessionFile(sessions)
        try withExtendedLifetime(file) { () throws(CheckpointError) in try keeper?.give([file.raw]) }
        try journal?.note(.letGo, durably: false)
        local = try LocalReturn(capture, sessions)
    }

    /// From here on the target may have the sessions, and only it can give them back.
    func decide() throws(CheckpointError) {
        try journal?.note(.decided, durably: true)
        isDecided = true
    }

    func steer() throws(CheckpointError) { try steering?.steer() }

    /// After the activation: the held packets go to the target, and the connections end here without one.
    func release() throws(CheckpointError) {
        try steering?.release()
        guard local != nil else { return try capture.letGo() }
        capture.group?.letGo()
        capture.resume()
    }

    /// The move is done: first this end forgets it, then the other one may.
    func finish(_ link: PeerLink) {
        steering?.finish()
        if let steering {
            ForwardRecord.note(
                migration, request.target, shell: request.shell, program: request.program, flows: capture.flows, steering: steering.record,
                pid: capture.selected[0].process.pid, namespace: capture.namespace)
        }
        journal?.remove()
        try? link.report(.release)
        keeper?.dismiss()
    }

    // MARK: After a failure

    /// Returns when the target has the sessions, and throws when they are here again. A move that is decided and of which the target gives no account
    /// is left to the keeper, which goes on asking.
    func settle(_ error: CheckpointError) throws(CheckpointError) {
        guard isDecided else {
            try giveBack(after: error)
            throw error
        }
        let deadline = Deadline(milliseconds: request.deadline)
        switch Resolution.ask(migration, request.target, shell: request.shell, program: request.program, within: deadline)?.state {
        case .active:
            do throws(CheckpointError) { try steer() } catch { throw leftToKeeper(error) }
        case .discarded:
            try giveBack(after: error)
            throw error
        case .lost:
            giveUp()
            areLost = true
            var error = error
            error.what = "the sessions ended on their way to \(request.target.description): \(error.what)"
            error.advice = "Their process or host ended while it had them; the clients see a closed connection"
            throw error
        case .busy, nil: throw leftToKeeper(error)
        }
    }

    /// The sessions go on here, as if nothing had been. Throws when some cannot: what they were let go for still has their addresses.
    private func giveBack(after error: CheckpointError) throws(CheckpointError) {
        let failed = local?.takeBack() ?? []
        // Open ears first, then this host may answer, then what was parked arrives.
        capture.unlock()
        steering?.rollBack()
        capture.giveBack()
        steering?.finish()
        guard let first = failed.first else {
            journal?.remove()
            keeper?.dismiss()
            return
        }
        areLost = true
        let inodes = capture.selected.map(\.channel.inode)
        let returned = inodes.indices.filter { index in !failed.contains { $0.index == index } }
        // The keeper tries once more when this process has ended, with what is left; it must not touch the others, nor continue processes that run.
        try? journal?.note(
            .withdrawn, ["sockets": returned.map { String(inodes[$0]) }.joined(separator: " "), "running": "yes"], durably: false)
        throw CheckpointError(
            "\(failed.count) of \(inodes.count) sessions cannot be taken back (\(error.what): \(error.why))",
            why: "\(capture.flows[first.index]): \(first.error.why)", errno: first.error.errno,
            advice: "Another process of this host has their addresses: ss -tnp. They end unless it ends within seconds; see sc-checkpoint recover",
            outcome: .needsRecovery)
    }

    /// Nobody has the sessions any longer: their clients are told by the kernel.
    private func giveUp() {
        steering?.rollBack()
        if local == nil { capture.abort() } else { capture.resume() }
        steering?.finish()
        journal?.remove()
        keeper?.dismiss()
    }

    /// This process ends without an answer; the keeper becomes `recover` and takes everything over as it stands.
    func leftToKeeper(_ error: CheckpointError) -> CheckpointError {
        _ = capture.keepHeld()
        var error = error
        error.what = "it is not known whether \(request.target.description) has the sessions: \(error.what)"
        error.advice = "A keeper process goes on asking; see sc-checkpoint recover"
        error.outcome = .needsRecovery
        return error
    }
}

/// A session that was let go for a target in its own namespace, and how to put it back into its socket.
private final class LocalReturn {
    private let capture: SessionCapture
    private let sessions: [Session]

    init(_ capture: SessionCapture, _ sessions: [Session]) throws(CheckpointError) {
        (self.capture, self.sessions) = (capture, sessions)
        try capture.releaseSockets()
    }

    /// Those of which it failed, by their number in the capture.
    func takeBack() -> [(index: Int, error: CheckpointError)] {
        let deadline = Deadline(milliseconds: takeBackLimit)
        var failed: [(index: Int, error: CheckpointError)] = []
        for (index, channel) in sessions.flatMap(\.untouched).enumerated() {
            do throws(CheckpointError) {
                try SCEngine.takeBack(channel, into: capture.sockets[index], in: capture.namespace, within: deadline)
            } catch { failed.append((index, error)) }
        }
        return failed
    }
}

/// Puts a connection back into the socket that it was let go from. The target tells of its failure before it has closed its own sockets, and until then
/// theirs are the 4-tuples.
func takeBack(_ channel: TCPChannel, into socket: HeldSocket, in namespace: NetworkNamespace, within deadline: Deadline) throws(CheckpointError) {
    while true {
        do throws(CheckpointError) {
            return try RestoredSocket(channel, onto: socket.duplicate(), in: namespace, isInPlace: true).activate()
        } catch {
            guard error.errno == EADDRNOTAVAIL, !deadline.hasPassed else { throw error }
            pause(microseconds: 1000)
        }
    }
}

/// Milliseconds for all sessions of a move. Their clients wait.
let takeBackLimit = 5000
