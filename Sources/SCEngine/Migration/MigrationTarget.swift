// The target's half of a migration: checks the offer, rebuilds, and serves from the decision on.

import CProc
import Glibc
import SCImage

/// Serves one conversation: a migration, or a question about an earlier one.
package final class MigrationTarget {
    private let link: PeerLink
    /// Where a process that `--exec` starts writes to; -1: /dev/null.
    private let output: Int32
    private var steering: (any TargetSteering)?
    private var journal: Journal?
    private var keeper: Keeper?
    private var fence: (any Fence)?
    /// What has come and is not served yet, for `FailedMove.keep`; this end is about to say whether it will have it.
    private var received: [Session] = []
    private var isRefusing = false
    /// From the answer on: the time until the sessions come is spent waiting.
    private var urgency: Urgency?
    /// Decides who receives the sessions of an offer, and as which user an acceptor must run (nil: any); throws the refusal.
    private let decide: (Offer) throws(CheckpointError) -> (Handover, UInt32?)
    /// The source may have files and UDP ports of this host opened.
    private let opensHostResources: Bool

    /// Without `decide` an offer gets whom it names.
    package init(
        _ link: PeerLink, output: Int32, opensHostResources: Bool = true,
        decide: @escaping (Offer) throws(CheckpointError) -> (Handover, UInt32?) = { offer throws(CheckpointError) in
            guard let handover = offer.handover else {
                throw CheckpointError("the offer is incomplete", why: "it names no receiving process", errno: EBADMSG)
            }
            return (handover, nil)
        }
    ) {
        (self.link, self.output, self.opensHostResources, self.decide) = (link, output, opensHostResources, decide)
    }

    /// What was received, for the log.
    package struct Summary: Sendable {
        package var source: String
        package var flows: [Flow]
        package var pid: Int32
    }

    /// Runs the conversation; nil when it moved nothing. Whatever fails before the activation is told to the source, which keeps its sessions; nothing is
    /// left behind here.
    package func run() throws(CheckpointError) -> Summary? {
        // From here on there are things to take down again; a signal waits until they are.
        let signals = BlockedSignals()
        defer { signals.restore() }
        switch try link.receive() {
        case .offer(let offer): return try receive(offer)
        case .resolve(let resolve):
            let state = Resolution.answer(resolve.migration)
            try link.send(.standing(Standing(resolve.migration, state)))
            // The source says when it has drawn its conclusion, and the move can be forgotten.
            if state == .active || state == .lost, (try? link.expect(.release)) != nil {
                Journal.adopt(resolve.migration, .target)?.journal.remove()
            }
            return nil
        case .inquiry(let inquiry):
            try link.send(.living(Living(flows: LivingFlows.indexes(inquiry.flows))))
            return nil
        default:
            throw CheckpointError("the source lost its place in the conversation", why: "an offer was expected", errno: EPROTO)
        }
    }

    private func stage<Value>(_ stage: Stage, _ body: () throws(CheckpointError) -> Value) throws(CheckpointError) -> Value {
        try Fault.meet(stage, .before) { link.cut() }
        let value = try body()
        try Fault.meet(stage, .after) { link.cut() }
        return value
    }

    private func receive(_ offer: Offer) throws(CheckpointError) -> Summary? {
        // A source that has waited this long for an answer asks how the move stands, and this end had better know.
        if offer.deadlineMilliseconds > 0 { link.limitSilence(to: Int(offer.deadlineMilliseconds)) }
        let driver: any HandoverDriver
        let namespace: NetworkNamespace
        do throws(CheckpointError) {
            (driver, namespace) = try consider(offer)
        } catch {
            try answerRefusal(error)
            throw error
        }
        let flows: [Flow]
        do throws(CheckpointError) {
            try answer(offer, namespace)
            if offer.dryRun {
                driver.discard()
                steering?.giveBack()
                return nil
            }
            urgency = Urgency()
            flows = try receiveSessions(driver, offer)
            try driver.confirm()
            try fence?.take()
            try beginActivation()
        } catch {
            throw discard(driver, error)
        }
        return Summary(source: offer.host, flows: flows, pid: try serve(driver, flows))
    }

    /// The sessions stay at the source. It hears of it first, so that it lets them go on without waiting for the cleaning here.
    private func discard(_ driver: any HandoverDriver, _ error: CheckpointError) -> CheckpointError {
        link.sendFailure(error)
        driver.discard()
        steering?.giveBack()
        urgency?.end()
        // In this order: once the journal is gone, the source is told by whoever it asks that the move was given up.
        journal?.remove()
        keeper?.dismiss()
        fence?.undo()
        keep(isRefusing ? .refused : .returned, error)
        return error
    }

    private func keep(_ fate: FailedMove.Fate, _ error: CheckpointError) {
        if let keep = FailedMove.keep, !received.isEmpty { keep(FailedMove(fate, received, error)) }
    }

    private func consider(_ offer: Offer) throws(CheckpointError) -> (any HandoverDriver, NetworkNamespace) {
        guard offer.formatVersions.overlaps(Preamble.known) else {
            throw CheckpointError(
                "cannot receive from \(offer.host)", why: "it writes image format \(offer.formatVersions), this program reads \(Preamble.known)",
                errno: EPROTONOSUPPORT, advice: "Install the same version on both hosts")
        }
        guard !offer.flows.isEmpty, offer.migration != MigrationID(high: 0, low: 0) else {
            throw CheckpointError("the offer is incomplete", why: "it names no flow or no migration", errno: EBADMSG)
        }
        let (handover, user) = try decide(offer)
        let (driver, namespace) = try makeHandover(handover, output: output, deadline: Int(offer.deadlineMilliseconds) / 2, acceptorUser: user)
        if case .onto = handover, offer.namespace == NamespaceIdentity(namespace) {
            throw CheckpointError(
                "cannot move the session onto a server in its own network namespace", why: "the server's connection would have the same 4-tuple",
                errno: EADDRINUSE, advice: "Use --into or --exec there")
        }
        if offer.namespace != NamespaceIdentity(namespace) { try LivingFlows.refuseConflicts(offer, in: namespace) }
        let steering = try makeTargetSteering(offer, in: namespace)
        let layout = offer.layout
        if let layout {
            try requireOwn(layout.locals, of: offer)
            guard layout.deliveries.count < CPROC_MAX_FDS else {
                throw CheckpointError(
                    "\(hostName()) cannot receive the session",
                    why: "it has \(layout.deliveries.count) descriptors, \(CPROC_MAX_FDS - 1) can be handed over",
                    errno: E2BIG)
            }
        }
        let stateBytes = offer.flows.count == 1 || layout != nil ? Int(clamping: offer.stateBytes) : 0
        do throws(CheckpointError) {
            try driver.prepare(
                zip(offer.flows, adapterStates(handover, count: offer.flows.count)).enumerated().map {
                    // The state of a session of several connections is counted once.
                    SessionOffer(flow: $1.0, adapter: $1.1, stateBytes: layout == nil || $0 == 0 ? stateBytes : 0, stateVersion: offer.stateVersion)
                }, layout: layout)
        } catch {
            driver.discard()
            steering.giveBack()
            throw error
        }
        self.steering = steering
        if !offer.dryRun {
            do throws(CheckpointError) {
                journal = try Journal(
                    offer.migration, .target,
                    TargetEntry(source: offer.host, flows: offer.flows.map(FlowText.init), handover: driver.record, steering: steering.record))
                keeper = try Keeper(for: offer.migration, .target, capacity: offer.flows.count + 2)
                if !offer.fence.isEmpty {
                    let fence = try EtcdFence(EtcdAddress(offer.fence))
                    try fence.prepare(
                        offer.flows.map(\.fenceKey), owner: fenceOwner(hostName(), NamespaceIdentity(namespace)),
                        source: fenceOwner(offer.host, offer.namespace))
                    self.fence = fence
                }
            } catch {
                driver.discard()
                steering.giveBack()
                journal?.remove()
                throw error
            }
        }
        return (driver, namespace)
    }

    private func adapterStates(_ handover: Handover, count: Int) -> [AdapterState?] {
        guard case .onto(_, let adapter, let options) = handover else { return Array(repeating: nil, count: count) }
        let states = options.filter { $0.hasPrefix("state=") }.map {
            AdapterState(name: adapter, bytes: bytes(hexadecimal: String($0.dropFirst(6))) ?? [])
        }
        return states.count == count ? states : Array(repeating: nil, count: count)
    }

    private func answerRefusal(_ error: CheckpointError) throws(CheckpointError) {
        var answer = Answer(accepted: false)
        answer.host = hostName()
        answer.reasons = [Reason(what: error.what, why: error.why, advice: error.advice, errno: error.errno)]
        try link.send(.answer(answer))
    }

    private func answer(_ offer: Offer, _ namespace: NetworkNamespace) throws(CheckpointError) {
        var answer = Answer(accepted: true)
        answer.host = hostName()
        answer.addresses = steering?.addresses ?? []
        answer.isSameNamespace = offer.namespace == NamespaceIdentity(namespace)
        answer.isReturning = steering?.isReturning ?? false
        answer.knowsLocalChannels = offer.layout != nil
        answer.takesFewer = offer.layout == nil
        try link.send(.answer(answer))
    }

    /// What comes must be what was offered, but for what was withdrawn by name: the offer is what the policy has looked at. Returns the flows that came.
    private func receiveSessions(_ driver: any HandoverDriver, _ offer: Offer) throws(CheckpointError) -> [Flow] {
        let count = offer.layout == nil ? offer.flows.count : 1
        var expected = Set(offer.flows)
        var sessions: [Session] = []
        var withdrawn: [Int] = []
        receiving: while true {
            switch try link.receive() {
            case .session(let session):
                sessions.append(session)
                guard sessions.count <= count else {
                    throw CheckpointError("the source sent more sessions than it offered", why: "\(count) were offered", errno: EPROTO)
                }
                try requireOffered(session, offer)
                for channel in session.channels where expected.remove(Flow(channel)) == nil {
                    throw CheckpointError("the source sent a session that it had not offered", why: "\(Flow(channel))", errno: EPROTO)
                }
            case .report(let report) where report.stages.last?.stage == Stage.freeze.rawValue:
                try steering?.park()
                try link.report(.freeze)
            case .report(let report) where report.stages.last?.stage == Stage.transfer.rawValue:
                withdrawn = report.withdrawn
                break receiving
            default: throw CheckpointError("the source lost its place in the conversation", why: "sessions were expected", errno: EPROTO)
            }
        }
        for number in withdrawn where offer.layout == nil && offer.flows.indices.contains(number) { expected.remove(offer.flows[number]) }
        guard !sessions.isEmpty, sessions.count == count - withdrawn.count, expected.isEmpty else {
            throw CheckpointError(
                "the source sent \(sessions.count) sessions", why: "\(count) were offered, \(withdrawn.count) of them withdrawn", errno: EPROTO)
        }
        if !withdrawn.isEmpty { try withdraw(withdrawn, of: offer, from: driver) }
        let toStop = driver.processesToStop.filter { !$0.isStopped }.map { String($0.pid) }
        if !toStop.isEmpty { try journal?.note(.stopping, ["pids": toStop.joined(separator: " ")], durably: false) }
        received = FailedMove.keep == nil ? [] : sessions
        isRefusing = true
        try stage(.rebuild) { () throws(CheckpointError) in
            for session in sessions { try driver.rebuild(session) }
            try link.report(.rebuild)
        }
        try stage(.consent) { () throws(CheckpointError) in
            try driver.consent()
            try link.report(.consent)
        }
        isRefusing = false
        try stage(.decide) { () throws(CheckpointError) in
            // The keeper needs its copy from the activation on; it is made while the source writes its decision to disk.
            let file = try makeSessionFile(driver.rebuiltSessions)
            try withExtendedLifetime(file) { () throws(CheckpointError) in try keeper?.give(driver.keepsakes + [file.raw]) }
            try link.expect(.decide)
        }
        return sessions.flatMap { $0.channels.map(Flow.init) }
    }

    /// Whoever has been told of the whole offer hears what does not come, before anything is made of the rest.
    private func withdraw(_ numbers: [Int], of offer: Offer, from driver: any HandoverDriver) throws(CheckpointError) {
        let flows = numbers.map { offer.flows[$0] }
        try journal?.note(.withdrawn, ["flows": numbers.map(String.init).joined(separator: " ")], durably: false)
        try steering?.withdraw(flows)
        fence?.withdraw(flows.map(\.fenceKey))
        try driver.withdraw(Set(flows))
    }

    /// Pipes, sockets and files may have come and gone since the offer.
    private func requireOffered(_ session: Session, _ offer: Offer) throws(CheckpointError) {
        guard session.processes.isEmpty == (offer.layout == nil) else {
            throw CheckpointError("the source sent a session that it had not offered", why: "its processes are others", errno: EPROTO)
        }
        try requireOwn(session.locals, of: offer)
    }

    /// A file or a port of this host is opened with this program's rights, so a stranger must not be able to name it.
    private func requireOwn(_ locals: [LocalChannel], of offer: Offer) throws(CheckpointError) {
        guard !opensHostResources, let channel = locals.first(where: { $0.kind == "file" || $0.kind == "udp" }) else { return }
        throw CheckpointError(
            "\(hostName()) refuses the offer of \(offer.host)", why: "it opens no file and no port for another host: \(channel.localText)",
            errno: EACCES,
            advice: "Leave it behind with --leave, or move over ssh")
    }

    /// The point of no return of this end; it is on disk before a packet leaves.
    private func beginActivation() throws(CheckpointError) {
        try steering?.activate()
        try journal?.note(.activating, durably: true)
    }

    /// The sessions are ours.
    private func serve(_ driver: any HandoverDriver, _ flows: [Flow]) throws(CheckpointError) -> Int32 {
        do throws(CheckpointError) {
            let pid = try stage(.activate) { () throws(CheckpointError) in
                do throws(CheckpointError) { try driver.activate() } catch {
                    if !driver.isLive { throw discard(driver, error) }
                    throw error
                }
                let pid = try driver.deliver()
                try journal?.note(.active, ["pid": String(pid)], durably: false)
                return pid
            }
            try steering?.release()
            try? link.report(.activate)
            urgency?.end()
            try fence?.settle()
            // The client is served; the rest is tidying up, with programs that take milliseconds.
            driver.cleanUp()
            steering?.finish()
            if steering?.isReturning == true { ForwardRecord.forget(flows) }
            keeper?.dismiss()
            // Until the source says that it has let go, it may still ask how the move stands.
            if (try? stage(.release, { () throws(CheckpointError) in try link.expect(.release) })) != nil { journal?.remove() }
            return pid
        } catch {
            guard driver.isLive else { throw error }
            try? journal?.note(.lost, durably: true)
            keeper?.dismiss()
            var error = error
            error.outcome = .needsRecovery
            link.sendFailure(error)
            keep(.lost, error)
            throw error
        }
    }
}
