// Whether a target can receive what a source offers: everything that is looked at, and asked, while the sessions still run over there.

import CProc
import Glibc
import SCImage

extension MigrationTarget {
    /// Refuses what could fail later, and asks who would receive; leaves the journal begun and the keeper started.
    func consider(_ offer: Offer) throws(CheckpointError) -> (any HandoverDriver, NetworkNamespace) {
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

    func answerRefusal(_ error: CheckpointError) throws(CheckpointError) {
        var answer = Answer(accepted: false)
        answer.host = hostName()
        answer.reasons = [Reason(what: error.what, why: error.why, advice: error.advice, errno: error.errno)]
        try link.send(.answer(answer))
    }

    func answer(_ offer: Offer, _ namespace: NetworkNamespace) throws(CheckpointError) {
        var answer = Answer(accepted: true)
        answer.host = hostName()
        answer.addresses = steering?.addresses ?? []
        answer.isSameNamespace = offer.namespace == NamespaceIdentity(namespace)
        answer.isReturning = steering?.isReturning ?? false
        answer.knowsLocalChannels = offer.layout != nil
        answer.takesFewer = offer.layout == nil
        try link.send(.answer(answer))
    }

    /// A file or a port of this host is opened with this program's rights, so a stranger must not be able to name it.
    func requireOwn(_ locals: [LocalChannel], of offer: Offer) throws(CheckpointError) {
        guard !opensHostResources, let channel = locals.first(where: { $0.kind == "file" || $0.kind == "udp" }) else { return }
        throw CheckpointError(
            "\(hostName()) refuses the offer of \(offer.host)", why: "it opens no file and no port for another host: \(channel.localText)",
            errno: EACCES,
            advice: "Leave it behind with --leave, or move over ssh")
    }
}
