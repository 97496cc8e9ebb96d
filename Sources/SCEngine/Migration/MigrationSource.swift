// The source's half of a migration: one transaction over any number of sessions of one process.

import CProc
import Glibc
import SCImage

/// Moves the sessions. On any error before the decision the sessions go on at the source and nothing is left behind.
package final class MigrationSource {
    private let request: MigrationRequest
    private let selection: (chosen: [SelectedSession], refused: [SelectedSession])
    /// Where the search for a group begins.
    private let root: TargetProcess?
    package let migration = MigrationID.random()
    /// When each stage began and how long it took, also of a move that failed.
    package private(set) var timeline = Timeline()
    /// The target has not answered yet, not even a hello: after a failure, it could not be reached.
    package private(set) var isReaching = false
    /// The target's answer was no.
    private var isRefused = false
    /// What the move went on without, also of one that failed; all of its sessions when none was left to move.
    package private(set) var leftOut: [LeftOut] = []
    private let progress: (Stage) -> Void

    /// Moves these sessions, which are of one network namespace.
    package init(_ request: MigrationRequest, moving sessions: [SelectedSession], progress: @escaping (Stage) -> Void = { _ in }) {
        (self.request, self.progress, selection, root) = (request, progress, (sessions, []), nil)
    }

    package init(
        _ request: MigrationRequest, of root: TargetProcess, _ filter: SessionFilter, progress: @escaping (Stage) -> Void = { _ in }
    ) throws(CheckpointError) {
        self.request = request
        self.progress = progress
        self.root = root
        selection = try selectSessions(of: root, filter)
        if !request.state.isEmpty, selection.chosen.count != 1, request.group == nil {
            throw CheckpointError(
                "--state belongs to one session", why: "\(selection.chosen.count) are selected", errno: EINVAL,
                advice: "Name one with --peer or --fd",
                outcome: .usage)
        }
    }

    private func stage<Value>(
        _ stage: Stage, _ link: PeerLink?, _ body: () throws(CheckpointError) -> Value
    ) throws(CheckpointError) -> Value {
        progress(stage)
        try Fault.meet(stage, .before) { link?.cut() }
        let value = try timeline.run(stage, body)
        try Fault.meet(stage, .after) { link?.cut() }
        return value
    }

    package func run() throws(CheckpointError) -> MigrationResult {
        var group = try request.group.map { options throws(CheckpointError) in
            try GroupCapture(root ?? selection.chosen[0].process, selection.chosen, options)
        }
        // A group is stopped as a whole: a server that parks its part alone would leave the others running.
        let parking = group == nil ? try request.parking?(Set(selection.chosen.map(\.channel.inode))) : nil
        try requireUnpinned(parking)
        if let declared = try parking?.group(of: selection.chosen) { group = declared }
        let adapter = try chosenAdapter()
        let capture = try SessionCapture(selection.chosen, isGuarded: false, isTolerant: true, parking: parking, group: group)
        defer { leftOut = wholeStory(of: capture.leftOut) }
        let adapterStates = try capture.learn(adapter, options: request.adapterOptions)
        capture.resumeLeftOut()
        isReaching = true
        let link = try PeerLink.open(request.target, shell: request.shell, program: request.program, timeout: request.deadline)
        isReaching = false
        let answer: Answer
        do throws(CheckpointError) {
            answer = try stage(.offer, link) { () throws(CheckpointError) in try offer(capture, adapterStates, over: link) }
        } catch {
            if isRefused, !request.dryRun { keepRefused(capture, adapter, adapterStates, error) }
            throw error
        }
        var result = MigrationResult(
            migrated: [],
            refused: selection.refused.map {
                (Flow(client: $0.channel.peerAddress ?? $0.channel.localAddress!, service: $0.channel.localAddress!), $0.channel.reason ?? "")
            },
            leftOut: capture.leftOut, blackout: 0, timeline: timeline, host: answer.host, group: group)
        if request.dryRun { return result }
        try move(capture, adapter, adapterStates, answer, link)
        (result.migrated, result.leftOut, result.timeline) = (capture.flows, wholeStory(of: capture.leftOut), timeline)
        result.blackout = timeline.span(.park, .release)
        return result
    }

    /// One that its server was just closing has closed by now.
    private func wholeStory(of leftOut: [LeftOut]) -> [LeftOut] {
        leftOut.map { left in
            var left = left
            left.hasEnded = left.hasEnded || selection.chosen[left.number].hasEnded
            return left
        }
    }

    /// Refuses before the target is asked when no session is left that can move; of several the others go on when they are parked.
    private func requireUnpinned(_ parking: (any SessionParking)?) throws(CheckpointError) {
        guard let parking, let reason = parking.pinned[selection.chosen[0].channel.inode],
            selection.chosen.allSatisfy({ parking.pinned[$0.channel.inode] != nil })
        else { return }
        throw CheckpointError(
            "cannot move descriptor \(selection.chosen[0].channel.fd) of process \(selection.chosen[0].process.pid)", why: reason, errno: EBUSY,
            advice: "The session goes on where it is; sc-checkpoint sessions shows which can move")
    }

    // MARK: For debugging

    /// They run on; what they are like now is read as a snapshot is.
    private func keepRefused(_ capture: SessionCapture, _ adapter: (any Adapter)?, _ states: [Int: AdapterState], _ error: CheckpointError) {
        // What cannot be read for this is refused all the same.
        let leftOut = capture.leftOut
        defer { capture.leftOut = leftOut }
        guard FailedMove.keep != nil, let channels = try? capture.snapshot() else { return }
        keep(.refused, (try? capture.sessions(channels, state: request.state, adapter: adapter, learnt: states)) ?? [], error)
    }

    private func keep(_ fate: FailedMove.Fate, _ sessions: [Session], _ error: CheckpointError) {
        guard let keep = FailedMove.keep, !sessions.isEmpty else { return }
        var failed = FailedMove(fate, sessions, error)
        let process = selection.chosen[0].process
        (failed.pid, failed.command) = (process.pid, process.command)
        keep(failed)
    }

    private func chosenAdapter() throws(CheckpointError) -> (any Adapter)? {
        guard case .onto(_, let name, _) = request.handover else { return nil }
        return try SCEngine.adapter(named: name)
    }

    private func offer(_ capture: SessionCapture, _ states: [Int: AdapterState], over link: PeerLink) throws(CheckpointError) -> Answer {
        var offer = Offer()
        offer.migration = migration
        offer.tool = "sc-checkpoint \(toolVersion)"
        offer.host = hostName()
        offer.flows = capture.flows
        offer.steering = try steeringOffer(request.steering, capture.flows, via: request.via, in: capture.namespace)
        offer.namespace = NamespaceIdentity(capture.namespace)
        offer.handover = request.handover
        if case .onto(let pid, let adapter, let options) = request.handover {
            offer.handover = .onto(
                pid: pid, adapter: adapter,
                options: options + capture.numbers.compactMap { states[$0] }.map { "state=\($0.bytes.map(hexadecimal).joined())" })
        }
        offer.queueBytes = UInt64(selection.chosen.reduce(0) { $0 + $1.channel.receiveQueue + $1.channel.sendQueue })
        offer.stateBytes = UInt64(request.state.count + capture.exportLimit + (capture.group?.state.count ?? 0))
        offer.stateVersion = capture.stateVersion
        if let group = capture.group { (offer.locals, offer.processes) = (group.channels, group.offered) }
        offer.deadlineMilliseconds = UInt32(clamping: request.deadline)
        offer.dryRun = request.dryRun
        offer.fence = request.fence ?? ""
        try link.send(.offer(offer))
        guard case .answer(let answer) = try link.receive() else {
            throw CheckpointError("\(request.target.description) lost its place in the conversation", why: "an answer was expected", errno: EPROTO)
        }
        guard answer.accepted else {
            isRefused = true
            let reason = answer.reasons.first ?? Reason(what: "the offer was refused", why: "no reason was given")
            throw CheckpointError(reason.what, why: reason.why, errno: reason.errno, advice: reason.advice)
        }
        guard capture.group == nil || answer.knowsLocalChannels else {
            throw CheckpointError(
                "\(answer.host) cannot receive the session", why: "its program knows TCP connections only, no pipes and no Unix sockets",
                errno: EPROTONOSUPPORT, advice: "Install the same version on both hosts, or move the connection alone, without --with-ipc")
        }
        return answer
    }

    private func move(
        _ capture: SessionCapture, _ adapter: (any Adapter)?, _ states: [Int: AdapterState], _ answer: Answer, _ link: PeerLink
    ) throws(CheckpointError) {
        // The transaction is not to be torn by a Ctrl-C in its middle.
        let signals = BlockedSignals()
        defer { signals.restore() }
        let transaction = SourceTransaction(migration, request, capture, answer)
        var urgency: Urgency?
        var captured: [Session] = []
        do throws(CheckpointError) {
            try stage(.prepare, link) { () throws(CheckpointError) in try transaction.prepare() }
            urgency = Urgency()
            try stage(.park, link) { () throws(CheckpointError) in
                try capture.stop()
                try transaction.leaveOut()
            }
            try stage(.freeze, link) { () throws(CheckpointError) in
                if answer.isReturning {
                    // The target passes these flows on to us: it parks them first. What is already on its way and comes
                    // after our own freeze is relayed with the held packets.
                    try link.report(.freeze)
                    try link.expect(.freeze)
                }
                try transaction.freeze()
            }
            let sessions = try stage(.capture, link) { () throws(CheckpointError) in
                let sessions = try capture.sessions(capture.capture(), state: request.state, adapter: adapter, learnt: states)
                try transaction.leaveOut()
                return sessions
            }
            if FailedMove.keep != nil { captured = sessions }
            if answer.isSameNamespace { try transaction.letGoEarly(sessions) }
            try stage(.transfer, link) { () throws(CheckpointError) in
                for session in sessions { try link.send(.session(session)) }
                try link.report(.transfer, withdrawn: transaction.withdrawn)
            }
            try stage(.rebuild, link) { () throws(CheckpointError) in try link.expect(.rebuild) }
            try stage(.consent, link) { () throws(CheckpointError) in try link.expect(.consent) }
            try stage(.decide, link) { () throws(CheckpointError) in
                try transaction.decide()
                try link.report(.decide)
            }
            try stage(.steer, link) { () throws(CheckpointError) in try transaction.steer() }
            try stage(.activate, link) { () throws(CheckpointError) in try link.expect(.activate) }
        } catch {
            urgency?.end()
            // The conversation is over; a question about the move's standing begins a new one.
            link.sendFailure(error)
            link.cut()
            do throws(CheckpointError) { try transaction.settle(error) } catch {
                keep(transaction.areLost ? .lost : .returned, captured, error)
                throw error
            }
        }
        do throws(CheckpointError) {
            try stage(.release, link) { () throws(CheckpointError) in try transaction.release() }
        } catch {
            throw transaction.leftToKeeper(error)
        }
        urgency?.end()
        transaction.finish(link)
    }
}

/// SIGINT, SIGTERM and SIGHUP wait until the transaction is over.
final class BlockedSignals {
    private var former = sigset_t()

    init() {
        var set = sigset_t()
        sigemptyset(&set)
        for signal in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&set, signal) }
        pthread_sigmask(SIG_BLOCK, &set, &former)
    }

    func restore() { pthread_sigmask(SIG_SETMASK, &former, nil) }
}

extension NamespaceIdentity {
    /// The namespace's identity on this boot of this host.
    init(_ namespace: NetworkNamespace) {
        let (device, inode) = namespace.identity
        let text = readText("/proc/sys/kernel/random/boot_id") ?? ""
        self.init(device: device, inode: inode, bootID: bytes(hexadecimal: text.filter(\.isHexDigit)) ?? [])
    }
}

/// The program's version, apart from that of the image format.
package let toolVersion = "0.1.0"
