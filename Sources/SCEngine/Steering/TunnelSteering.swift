// The driver `tunnel`: as `nft-forward`, for a target on another subnet.

import CProc
import Glibc
import SCImage

/// The source's half is a `LinkSteering` whose link is the tunnel.
func makeTunnelSteering(_ move: SteeringMove) throws(CheckpointError) -> LinkSteering {
    // Flows that come back are parked over there, and need no way from here.
    if move.isReturning || move.isSameNamespace { return try LinkSteering(move, lasting: false) }
    let route = OwnedDescriptor(
        try move.namespace.run { () throws(CheckpointError) in try check(cproc_rtnl_open(), "cannot talk to rtnetlink") })
    let target = move.targetAddresses.map(\.address).first { address in
        var (found, destination) = (cproc_route(), SocketAddress(address, port: 0).endpoint)
        return !address.isLinkLocal && cproc_route_get(route.raw, &destination, &found) >= 0 && found.type == 1
    }
    guard let target else {
        throw CheckpointError(
            "cannot make a tunnel to \(move.targetName)", why: "this host has no route to any of its addresses", errno: EHOSTUNREACH,
            advice: "Check ip route, or name one with --via ADDR")
    }
    let lock = try StateLock(namespace: move.namespace)
    let tunnel = try TunnelStart(to: target, for: move.flows, in: move.namespace)
    do throws(CheckpointError) {
        return try LinkSteering(move, lasting: true, tunnel: tunnel, lock: lock)
    } catch {
        TunnelStart.removeUnused(in: move.namespace)
        throw error
    }
}

/// The target's half: it opens its end when it answers, and closes it when no flow uses it.
final class TunnelTarget: TargetSteering {
    private var flows: [Flow]
    private let namespace: NetworkNamespace
    /// The flows came in through the tunnel before this move.
    private let wasOpen: Bool
    let addresses: [AddressPrefix]
    let isReturning = false

    /// `sources` are the source's addresses; the one that this host has the best route to decides at which address the tunnel ends.
    init(_ flows: [Flow], from sources: [IPAddress], in namespace: NetworkNamespace) throws(CheckpointError) {
        self.flows = flows
        self.namespace = namespace
        let route = OwnedDescriptor(try namespace.run { () throws(CheckpointError) in try check(cproc_rtnl_open(), "cannot talk to rtnetlink") })
        let ways = sources.compactMap { source -> (isNear: Bool, own: IPAddress)? in
            var (found, destination) = (cproc_route(), SocketAddress(source, port: 0).endpoint)
            guard cproc_route_get(route.raw, &destination, &found) >= 0, found.type == 1,
                let own = SocketAddress(found.preferred_source)?.address, !own.isLinkLocal, !flows.contains(where: { $0.service.address == own })
            else { return nil }
            return (found.gateway.family == 0, own)
        }
        guard let own = (ways.first(where: \.isNear) ?? ways.first)?.own else {
            throw CheckpointError(
                "cannot end a tunnel at \(hostName())", why: "it has no route to any address of the source", errno: EHOSTUNREACH,
                advice: "Check ip route there")
        }
        addresses = [AddressPrefix(own, length: own.isIPv6 ? 128 : 32)]
        let lock = try StateLock(namespace: namespace)
        wasOpen = try TunnelEnd.admit(flows, at: own, in: namespace)
        withExtendedLifetime(lock) {}
    }

    init(adopting record: [String: String], flows: [Flow], in namespace: NetworkNamespace) {
        (self.flows, self.namespace, addresses) = (flows, namespace, [])
        wasOpen = record["was-open"] == "yes"
    }

    var record: [String: String] { ["driver": "tunnel", "was-open": wasOpen ? "yes" : "no"] }

    func park() throws(CheckpointError) {}
    func activate() throws(CheckpointError) {}
    func release() throws(CheckpointError) {}
    func finish() {}

    func withdraw(_ gone: [Flow]) {
        if !wasOpen { TunnelEnd.forget(gone, in: namespace) }
        let gone = Set(gone)
        flows.removeAll(where: gone.contains)
    }

    func giveBack() { if !wasOpen { TunnelEnd.forget(flows, in: namespace) } }
}
