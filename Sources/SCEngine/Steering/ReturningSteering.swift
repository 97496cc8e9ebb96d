// The target's half of drivers that need nothing of it, except for flows that this host passes on today: they come back.

import CProc
import Glibc
import SCImage

/// Parks returning flows, and gives them to the rebuilt sockets.
final class ReturningSteering: TargetSteering {
    private let hold: LinkHold?
    let addresses: [AddressPrefix]

    /// Looks for the flows among those that the namespace passes on. A dry run and a move within one namespace do not ask for it (`search` false).
    init(_ flows: [Flow], in namespace: NetworkNamespace, search: Bool) throws(CheckpointError) {
        addresses = try namespace.addresses()
        // A host without nft passes nothing on.
        guard search, let found = (try? LinkHold.forwarded(flows, in: namespace)) ?? nil else {
            hold = nil
            return
        }
        guard found.flows.count == flows.count else {
            throw CheckpointError(
                "cannot take these sessions in one move",
                why: "\(found.flows.count) of the \(flows.count) come back to this host, the others are new",
                errno: EOPNOTSUPP, advice: "Move them apart, with --peer")
        }
        let hold = try LinkHold(in: namespace, flows: flows, nextHop: nil, lock: StateLock(namespace: namespace), rules: found.rules)
        try hold.discover()
        self.hold = hold
    }

    /// Takes over from a process that has ended, at whatever point.
    init(adopting record: [String: String], flows: [Flow], in namespace: NetworkNamespace) throws(CheckpointError) {
        addresses = try namespace.addresses()
        guard let name = record["table"], let rules = LinkRules(table: name) else {
            hold = nil
            return
        }
        let hop = record["former-hop"].flatMap { IPAddress($0) }
        let hold = try LinkHold(in: namespace, flows: flows, nextHop: hop, lock: StateLock(namespace: namespace), rules: rules)
        try hold.discover()
        self.hold = hold
    }

    var isReturning: Bool { hold != nil }

    var record: [String: String] {
        var record = ["driver": "returning"]
        record["table"] = hold?.rules.table
        record["former-hop"] = hold?.formerHop?.description
        return record
    }

    func park() throws(CheckpointError) { try hold?.retake() }

    func activate() throws(CheckpointError) { try hold?.unmute() }

    func release() throws(CheckpointError) {
        hold?.flush()
        try hold?.unhold()
    }

    func finish() {
        hold?.clear()
        hold?.removeIfUnused()
    }

    func withdraw(_ flows: [Flow]) throws(CheckpointError) { try hold?.drop(flows) }

    func giveBack() { hold?.resumeForwarding() }
}
