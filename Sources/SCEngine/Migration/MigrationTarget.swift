// The target's half of a migration: checks the offer, rebuilds, and serves from the decision on.

import CProc
import Glibc
import SCImage

/// Serves one migration on a link.
package final class MigrationTarget {
    private let link: PeerLink
    /// Where a process that `--exec` starts writes to; -1: /dev/null.
    private let output: Int32
    private var returning: LinkHold?

    package init(_ link: PeerLink, output: Int32) { (self.link, self.output) = (link, output) }

    /// What was received, for the log.
    package struct Summary: Sendable {
        package var source: String
        package var flows: [Flow]
        package var pid: Int32
    }

    /// Runs the migration. Whatever fails before the decision is told to the source, which keeps its sessions; nothing is left behind here.
    package func run() throws(CheckpointError) -> Summary {
        guard case .offer(let offer) = try link.receive() else {
            throw CheckpointError("the source lost its place in the conversation", why: "an offer was expected", errno: EPROTO)
        }
        // From here on there are things to take down again; a signal waits until they are.
        let signals = BlockedSignals()
        defer { signals.restore() }
        let driver: any HandoverDriver
        let namespace: NetworkNamespace
        do throws(CheckpointError) {
            (driver, namespace) = try consider(offer)
        } catch {
            try answerRefusal(error)
            throw error
        }
        do throws(CheckpointError) {
            try answer(offer, namespace)
            if offer.dryRun {
                driver.discard()
                return Summary(source: offer.host, flows: [], pid: 0)
            }
            try receiveSessions(driver, count: offer.flows.count)
        } catch {
            // The source hears of it first: it lets its sessions go on without waiting for the cleaning here.
            link.sendFailure(error)
            driver.discard()
            giveBackReturning()
            throw error
        }
        return Summary(source: offer.host, flows: offer.flows, pid: try serve(driver))
    }

    private func consider(_ offer: Offer) throws(CheckpointError) -> (any HandoverDriver, NetworkNamespace) {
        guard offer.formatVersions.overlaps(Preamble.known) else {
            throw CheckpointError(
                "cannot receive from \(offer.host)", why: "it writes image format \(offer.formatVersions), this program reads \(Preamble.known)",
                errno: EPROTONOSUPPORT, advice: "Install the same version on both hosts")
        }
        guard let handover = offer.handover, !offer.flows.isEmpty else {
            throw CheckpointError("the offer is incomplete", why: "it names no receiving process or no flow", errno: EBADMSG)
        }
        let (driver, namespace) = try makeHandover(handover, output: output, deadline: Int(offer.deadlineMilliseconds) / 2)
        if case .onto = handover, offer.namespace == NamespaceIdentity(namespace) {
            throw CheckpointError(
                "cannot move the session onto a server in its own network namespace", why: "the server's connection would have the same 4-tuple",
                errno: EADDRINUSE, advice: "Use --into or --exec there")
        }
        let stateBytes = offer.flows.count == 1 ? Int(clamping: offer.stateBytes) : 0
        do throws(CheckpointError) {
            try driver.prepare(
                zip(offer.flows, adapterStates(handover, count: offer.flows.count)).map {
                    SessionOffer(flow: $0, adapter: $1, stateBytes: stateBytes)
                })
        } catch {
            driver.discard()
            throw error
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
        answer.addresses = try namespace.addresses()
        answer.isSameNamespace = offer.namespace == NamespaceIdentity(namespace)
        if !answer.isSameNamespace, !offer.dryRun { answer.isReturning = findReturning(offer, namespace) }
        try link.send(.answer(answer))
    }

    /// This host may pass these very flows on, from an earlier move in the other direction.
    private func findReturning(_ offer: Offer, _ namespace: NetworkNamespace) -> Bool {
        guard LinkHold.isInUse(in: namespace), let hold = try? LinkHold(in: namespace, flows: offer.flows, nextHop: nil, egressOfExisting: true),
            (try? hold.findForwarded()) == true
        else { return false }
        returning = hold
        return true
    }

    private func receiveSessions(_ driver: any HandoverDriver, count: Int) throws(CheckpointError) {
        var sessions: [Session] = []
        receiving: while true {
            switch try link.receive() {
            case .session(let session):
                sessions.append(session)
                guard sessions.count <= count else {
                    throw CheckpointError("the source sent more sessions than it offered", why: "\(count) were offered", errno: EPROTO)
                }
            case .report(let report) where report.stages.last?.stage == Stage.freeze.rawValue:
                try returning?.retake()
                try link.report(.freeze)
            case .report(let report) where report.stages.last?.stage == Stage.transfer.rawValue: break receiving
            default: throw CheckpointError("the source lost its place in the conversation", why: "sessions were expected", errno: EPROTO)
            }
        }
        guard sessions.count == count else {
            throw CheckpointError("the source sent \(sessions.count) sessions", why: "\(count) were offered", errno: EPROTO)
        }
        for session in sessions { try driver.rebuild(session) }
        try link.report(.rebuild)
        try driver.consent()
        try link.report(.consent)
        try link.expect(.decide)
    }

    /// The sessions are ours.
    private func serve(_ driver: any HandoverDriver) throws(CheckpointError) -> Int32 {
        do throws(CheckpointError) {
            try returning?.unmute()
            try driver.activate()
            let pid = try driver.deliver()
            returning?.flush()
            try returning?.unhold()
            try? link.report(.activate)
            // The client is served; the rest is tidying up, with programs that take milliseconds.
            driver.cleanUp()
            returning?.clear()
            returning = nil
            return pid
        } catch {
            var error = error
            error.outcome = .needsRecovery
            link.sendFailure(error)
            throw error
        }
    }

    /// The session stays at the source, to which this host has passed its packets on and does so again.
    private func giveBackReturning() {
        guard let returning else { return }
        returning.resumeForwarding()
        self.returning = nil
    }
}

/// The driver for a hand-over, and the namespace in which the sessions will live.
package func makeHandover(
    _ handover: Handover, output: Int32, deadline: Int
) throws(CheckpointError) -> (any HandoverDriver, NetworkNamespace) {
    switch handover {
    case .exec(let arguments):
        let namespace = try NetworkNamespace.current()
        let command = arguments.map { String(decoding: $0, as: UTF8.self) }
        return (ExecHandover(command, mode: .detached(output: output), in: namespace), namespace)
    case .into(let path):
        let namespace = try NetworkNamespace.current()
        return (AcceptorHandover(path: String(decoding: path, as: UTF8.self), in: namespace, deadline: max(1000, deadline)), namespace)
    case .service(let name):
        throw CheckpointError(
            "\(hostName()) cannot receive for service \(name)", why: "no policy says who serves it here", errno: ENOENT,
            advice: "Name the receiver: --exec, --into or --onto")
    case .onto(let pid, let adapter, _):
        return (try TransplantHandover(pid: pid, adapter: adapter), try NetworkNamespace.of(pid: pid))
    }
}

extension NetworkNamespace {
    /// The addresses of its interfaces that are up, without those of loopback.
    package func addresses() throws(CheckpointError) -> [AddressPrefix] {
        final class Box { var found: [AddressPrefix] = [] }
        let box = Box()
        let netlink = OwnedDescriptor(try run { () throws(CheckpointError) in try check(cproc_rtnl_open(), "cannot talk to rtnetlink") })
        let result = cproc_addresses(
            netlink.raw,
            { endpoint, prefix, index, context in
                guard index != 1, let address = SocketAddress(endpoint!.pointee) else { return 0 }
                Unmanaged<Box>.fromOpaque(context!).takeUnretainedValue().found.append(
                    AddressPrefix(address.address, length: UInt8(clamping: prefix)))
                return 0
            }, Unmanaged.passUnretained(box).toOpaque())
        try check(result, "cannot list the addresses")
        return box.found
    }
}
