// The drivers `none` and `nft-forward`: packets wait at the source's link, then go to the target's address on it, once or for good.

import CProc
import Glibc
import SCImage

/// Holds the flows at the source, and sends them to the target where its address is on a link. Other drivers build on it.
final class LinkSteering: SourceSteering {
    private let hold: LinkHold?
    /// Instead of `hold` for a flow without a link: while no socket owns its 4-tuple, this host would answer it with RST.
    private let mute: HoldMute?
    private var flows: [Flow]
    private let namespace: NetworkNamespace
    let nextHop: IPAddress?
    private let isSameNamespace: Bool
    /// The flows' packets are passed on for as long as the sessions live.
    private let isLasting: Bool
    private var isRolledBack = false

    /// Everything that takes milliseconds: rules, devices, the target's link address.
    /// `tunnel` is the way to a target that is not on a link.
    init(_ move: SteeringMove, lasting: Bool, tunnel: TunnelStart? = nil, lock given: StateLock? = nil) throws(CheckpointError) {
        flows = move.flows
        namespace = move.namespace
        isSameNamespace = move.isSameNamespace
        let nextHop: IPAddress? = if let tunnel { tunnel.nextHop } else if move.isSameNamespace { nil } else { try Self.nextHop(for: move) }
        self.nextHop = nextHop
        // Flows that come back are parked by the host that they return to, and this one leaves nothing behind.
        isLasting = lasting && !move.isSameNamespace && !move.isReturning
        if isLasting, nextHop == nil {
            throw CheckpointError(
                "cannot pass the flows on to the target", why: "no address of \(move.targetName) is on a link of this host", errno: EHOSTUNREACH,
                advice: "Use --steer tunnel, or name another of its addresses with --via ADDR")
        }
        let lock = if let given { given } else { try StateLock(namespace: move.namespace) }
        do throws(CheckpointError) {
            hold = try LinkHold(in: move.namespace, flows: flows, nextHop: nextHop, egress: tunnel?.device, lock: lock)
            mute = nil
        } catch {
            // Without a link to hold at (a loopback flow) packets are dropped while it lasts; only forwarding needs the rules.
            if lasting, !move.isSameNamespace { throw error }
            hold = nil
            mute = HoldMute(move.namespace)
        }
    }

    /// Takes over from a process that has ended, at whatever point.
    init(adopting record: [String: String], flows: [Flow], in namespace: NetworkNamespace) throws(CheckpointError) {
        self.flows = flows
        self.namespace = namespace
        nextHop = record["next-hop"].flatMap { IPAddress($0) }
        isSameNamespace = record["same-namespace"] == "yes"
        isLasting = record["lasting"] == "yes"
        if let name = record["table"], let rules = LinkRules(table: name) {
            let hold = try LinkHold(in: namespace, flows: flows, nextHop: nextHop, lock: StateLock(namespace: namespace), rules: rules)
            try hold.discover()
            self.hold = hold
            mute = nil
        } else {
            hold = nil
            mute = HoldMute(namespace)
        }
    }

    var record: [String: String] {
        var record = ["driver": "link", "lasting": isLasting ? "yes" : "no", "same-namespace": isSameNamespace ? "yes" : "no"]
        record["next-hop"] = nextHop?.description
        record["table"] = hold?.rules.table
        return record
    }

    /// The first target address that is on a link of this namespace and not its own.
    static func nextHop(for move: SteeringMove) throws(CheckpointError) -> IPAddress? {
        let isIPv6 = move.flows.first?.isIPv6 ?? false
        let route = OwnedDescriptor(
            try move.namespace.run { () throws(CheckpointError) in try check(cproc_rtnl_open(), "cannot talk to rtnetlink") })
        return move.targetAddresses.map(\.address).first { address in
            guard address.isIPv6 == isIPv6, !address.isLinkLocal, !move.flows.contains(where: { $0.service.address == address }) else {
                return false
            }
            var (found, destination) = (cproc_route(), SocketAddress(address, port: 0).endpoint)
            return cproc_route_get(route.raw, &destination, &found) >= 0 && found.type == 1 && found.gateway.family == 0
        }
    }

    func freeze() throws(CheckpointError) {
        try hold?.freeze()
        try mute?.add(flows)
    }

    func steer() throws(CheckpointError) {
        if nextHop != nil { try hold?.relay() }
        // In its own namespace the target answers through this very link. Its first segments must not vanish: it has no round-trip sample yet, so each
        // would cost 3 s. The source's socket is gone, and the client's packets are parked, so nothing answers them with RST.
        if isSameNamespace { try hold?.unmute() }
        mute?.remove(flows)
    }

    func release() throws(CheckpointError) {
        hold?.flush()
        if isLasting {
            try hold?.forward()
        } else if nextHop == nil {
            try hold?.unhold()
        }
        hold?.settle()
    }

    func finish() {
        if isRolledBack {
            hold?.removeIfUnused()
            return
        }
        if isLasting { return }
        // Stragglers that were on their way before the path was switched find no RST.
        if !isSameNamespace { pause(microseconds: 20_000) }
        hold?.clear()
        hold?.removeIfUnused()
        // Nobody sends them here through a tunnel any longer.
        if !isSameNamespace { TunnelEnd.forget(flows, in: namespace) }
    }

    var canLeave: Bool { true }

    func leave(_ gone: [Flow]) throws(CheckpointError) {
        try hold?.leave(gone)
        mute?.remove(gone)
        let gone = Set(gone)
        flows.removeAll(where: gone.contains)
    }

    func adopt(left: [Flow]) throws(CheckpointError) { try hold?.adopt(staying: left) }

    func rollBack() {
        isRolledBack = true
        hold?.rollBack()
        mute?.remove(flows)
    }
}
