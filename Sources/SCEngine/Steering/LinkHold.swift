// Holds a flow's packets at the source's link and lets them go, to the target or to this host, in order and without losing one.

import CProc
import Glibc
import SCImage

/// The rules of one namespace for the flows of one move. Names of its states are those of the sets (`LinkRules`).
package final class LinkHold {
    let namespace: NetworkNamespace
    private(set) var flows: [Flow]
    /// Flows of sessions that stay here, and of which packets are parked among those of the others.
    var staying: [Flow] = []
    let rules: LinkRules
    private let nft: OwnedDescriptor
    let route: OwnedDescriptor
    private let lock: StateLock
    let holdIndex: Int32
    /// The target's address on the link; nil: parked packets have nowhere to go but to this host.
    package let nextHop: IPAddress?
    /// The sets that the flows are in.
    var present: Set<String> = []
    /// By set, the flows that are not: a former process was about to leave them out.
    var missing: [String: Set<Flow>] = [:]
    var isFlushed = false
    /// Where an earlier move has sent the flows.
    var formerHop: IPAddress?

    /// Loads rules and devices into the namespace, where they are not there yet. `nextHop` is the target's address on the link.
    /// `egress` is the device to it where the route does not say it. Nothing happens to any packet before `freeze`. `lock` is this move's; `rules` are those of a former process or move, if there is one.
    init(
        in namespace: NetworkNamespace, flows: [Flow], nextHop: IPAddress?, egress: String? = nil, lock: StateLock, rules known: LinkRules? = nil
    ) throws(CheckpointError) {
        self.namespace = namespace
        self.flows = flows
        self.nextHop = nextHop
        self.lock = lock
        nft = OwnedDescriptor(
            try namespace.run { () throws(CheckpointError) in try check(cproc_nft_open(), "cannot talk to nf_tables") })
        let route = OwnedDescriptor(
            try namespace.run { () throws(CheckpointError) in try check(cproc_rtnl_open(), "cannot talk to rtnetlink") })
        rules = if let known { known } else { try LinkRules(for: flows, nextHop: nextHop, egress: egress, in: namespace, route: route.raw) }
        self.route = route
        holdIndex = try Self.load(rules, in: namespace)
        if known == nil, egress == nil, let nextHop { Self.resolve(nextHop, in: namespace) }
    }

    // MARK: Changes, each one transaction

    /// Packets of the flows stop in both directions: the client's are parked, this host's answers vanish.
    package func freeze() throws(CheckpointError) { try apply(add: ["mute", "hold"]) }

    /// The client's packets are parked; answers of others pass (on a router).
    func park() throws(CheckpointError) { try apply(add: ["hold"]) }

    /// What comes out of the parking goes to the target.
    package func relay() throws(CheckpointError) { try apply(add: ["relay"]) }

    /// New packets go straight to the target, from now on and after this tool has ended.
    package func forward() throws(CheckpointError) { try apply(add: ["fwd"]) }

    /// This host may answer again.
    package func unmute() throws(CheckpointError) { try apply(remove: ["mute"]) }

    /// New packets go to this host again.
    package func unhold() throws(CheckpointError) { try apply(remove: ["hold"]) }

    /// Stops passing the flows on: they are parked here again (a session that comes back).
    package func retake() throws(CheckpointError) { try apply(remove: ["fwd", "relay"]) }

    /// Passes the flows on again as before `retake`, what was parked meanwhile first.
    package func resumeForwarding() {
        try? apply(add: ["relay"], hop: formerHop)
        flush()
        try? apply(add: ["fwd"], hop: formerHop)
        settle()
    }

    /// Sends everything parked on its way, in order; later arrivals pass without a stop until `settle`.
    package func flush() {
        for family in families {
            var address = family.endpoint
            _ = cproc_neigh_set(route.raw, holdIndex, &address, LinkRules.holdMAC)
        }
        isFlushed = true
    }

    /// The parking is empty and closed again.
    package func settle() {
        guard isFlushed else { return }
        try? change(remove: ["hold"], staying)
        staying = []
        for family in families {
            var address = family.endpoint
            _ = cproc_neigh_delete(route.raw, holdIndex, &address)
        }
        isFlushed = false
    }

    /// Gives the flows back to this host: answers first (an ACK that vanished would cost the client a timeout), then what was parked.
    package func rollBack() {
        if present.contains("fwd") || present.contains("relay") { try? retake() }
        try? unmute()
        flush()
        try? unhold()
        settle()
    }

    /// These stay here: their answers pass again, and what is parked of theirs comes with the next flush, in order. Before `relay`.
    func leave(_ gone: [Flow]) throws(CheckpointError) {
        if present.contains("mute") { try change(remove: ["mute"], gone) }
        if present.contains("hold") { staying += gone }
        let gone = Set(gone)
        flows.removeAll(where: gone.contains)
    }

    /// Forgets these, which have ended.
    func drop(_ gone: [Flow]) throws(CheckpointError) {
        try change(remove: Array(present), gone)
        let gone = Set(gone)
        flows.removeAll(where: gone.contains)
    }

    /// Forgets the flows.
    package func clear() {
        try? apply(remove: Array(present))
        settle()
    }

    var families: [SocketAddress] {
        var result: [SocketAddress] = []
        let flows = flows + staying
        if flows.contains(where: { !$0.isIPv6 }) { result.append(SocketAddress(IPAddress(LinkRules.holdIPv4)!, port: 0)) }
        if flows.contains(where: \.isIPv6) { result.append(SocketAddress(IPAddress(LinkRules.holdIPv6)!, port: 0)) }
        return result
    }

    private func apply(add: [String] = [], remove: [String] = [], hop: IPAddress? = nil) throws(CheckpointError) {
        let added = add.filter { !present.contains($0) }
        let removed = remove.filter { present.contains($0) }
        var changes: [cproc_nft_change] = []
        // Set by set: neighbouring changes of one set share a netlink message.
        for name in added {
            let hop = name == "fwd" || name == "relay" ? hop ?? nextHop ?? formerHop : nil
            changes += flows.map { $0.change(name, add: true, nextHop: hop) }
        }
        for name in removed { changes += flows.filter { missing[name]?.contains($0) != true }.map { $0.change(name, add: false) } }
        try apply(changes)
        present.formUnion(added)
        present.subtract(removed)
    }

    private func change(remove names: [String], _ some: [Flow]) throws(CheckpointError) {
        try apply(names.flatMap { name in some.map { $0.change(name, add: false) } })
    }

    private func apply(_ changes: [cproc_nft_change]) throws(CheckpointError) {
        guard !changes.isEmpty else { return }
        try check(
            cproc_nft_apply(nft.raw, rules.table, changes, UInt32(changes.count)), "cannot change the steering rules (table \(rules.table))",
            advice: "Is the table still there? nft list table netdev \(rules.table)")
    }
}
