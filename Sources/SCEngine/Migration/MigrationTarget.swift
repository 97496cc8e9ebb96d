// The target's half of a migration: checks the offer, rebuilds, and serves from the decision on.

import CProc
import Glibc
import SCImage

/// Serves one conversation: a migration, or a question about an earlier one.
package final class MigrationTarget {
    let link: PeerLink
    /// Where a process that `--exec` starts writes to; -1: /dev/null.
    let output: Int32
    var steering: (any TargetSteering)?
    var journal: Journal?
    var keeper: Keeper?
    var fence: (any Fence)?
    /// What has come and is not served yet, for `FailedMove.keep`; this end is about to say whether it will have it.
    private var received: [Session] = []
    private var isRefusing = false
    /// From the answer on: the time until the sessions come is spent waiting.
    private var urgency: Urgency?
    /// Decides who receives the sessions of an offer, and as which user an acceptor must run (nil: any); throws the refusal.
    let decide: (Offer) throws(CheckpointError) -> (Handover, UInt32?)
    /// The source may have files and UDP ports of this host opened.
    let opensHostResources: Bool

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
