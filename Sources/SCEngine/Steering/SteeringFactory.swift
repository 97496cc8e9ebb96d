// From what the user chose, or from the record of a process that has ended, to a driver.

import CProc
import Glibc
import SCImage

/// The steering's name in the offer, with what the target's half has to know, after a space. Refuses what can be refused while nothing is touched.
/// `via` is the target's address that the user has named.
package func steeringOffer(_ choice: SteeringChoice, _ flows: [Flow], via: IPAddress?, in namespace: NetworkNamespace) throws(CheckpointError)
    -> String
{
    switch choice {
    case .tunnel:
        let own = try namespace.addresses().map(\.address)
        // The target ends the tunnel in the family of the address that it chooses among these, which must be that of `via`.
        let usable = own.filter { address in
            !address.isLinkLocal && (via == nil || via?.isIPv6 == address.isIPv6) && !flows.contains { $0.service.address == address }
        }
        return "tunnel " + usable.prefix(16).map(\.description).joined(separator: " ")
    case .arpTakeover(let force):
        return "arp-takeover " + (try takeoverOffer(flows, force: force, in: namespace)).map(\.text).joined(separator: " ")
    // A user's command line is not the target's business.
    case .exec: return "exec"
    case .router: return "router"
    case .none, .nftForward: return choice.name
    }
}

/// The source's half, with everything done that takes milliseconds and disturbs nobody.
package func makeSourceSteering(_ choice: SteeringChoice, for move: SteeringMove) throws(CheckpointError) -> any SourceSteering {
    switch choice {
    case .none: try LinkSteering(move, lasting: false)
    case .nftForward: try LinkSteering(move, lasting: true)
    case .tunnel: try makeTunnelSteering(move)
    case .arpTakeover(let force): try TakeoverSteering(move, force: force)
    case .router(let place): try RouterSteering(place, move)
    case .exec(let command): try ExecSteering(command, move)
    }
}

/// The target's half, from the offer; before anything else looks at the sessions' addresses. Nothing happens to any packet before `park`.
package func makeTargetSteering(_ offer: Offer, in namespace: NetworkNamespace) throws(CheckpointError) -> any TargetSteering {
    let isSameNamespace = offer.namespace == NamespaceIdentity(namespace)
    let words = offer.steering.split(separator: " ")
    if !isSameNamespace, words.first == "arp-takeover" { return try TakeoverTarget(offer.flows, moving: Array(words.dropFirst()), in: namespace) }
    let returning = try ReturningSteering(offer.flows, in: namespace, search: !offer.dryRun && !isSameNamespace)
    guard !isSameNamespace, !returning.isReturning, !offer.dryRun, words.first == "tunnel" else { return returning }
    return try TunnelTarget(offer.flows, from: words.dropFirst().compactMap { IPAddress($0) }, in: namespace)
}

/// The source's half as a former process left it, at whatever point: what is there is found out from the kernel. Then either `rollBack`, or
/// `steer`, `release` and `finish`, end the job.
package func adoptSourceSteering(
    _ record: [String: String], flows: [Flow], in namespace: NetworkNamespace
) throws(CheckpointError) -> any SourceSteering {
    switch record["driver"] {
    case "link": try LinkSteering(adopting: record, flows: flows, in: namespace)
    case "arp-takeover": try TakeoverSteering(adopting: record, flows: flows, in: namespace)
    case "router": try RouterSteering(adopting: record, flows: flows, in: namespace)
    case "exec": try ExecSteering(adopting: record, flows: flows, in: namespace)
    default: throw unknownDriver(record)
    }
}

/// The target's half as a former process left it. Then either `giveBack`, or `activate`, `release` and `finish`, end the job.
package func adoptTargetSteering(
    _ record: [String: String], flows: [Flow], in namespace: NetworkNamespace
) throws(CheckpointError) -> any TargetSteering {
    switch record["driver"] {
    case "returning": try ReturningSteering(adopting: record, flows: flows, in: namespace)
    case "tunnel": TunnelTarget(adopting: record, flows: flows, in: namespace)
    case "arp-takeover": try TakeoverTarget(adopting: record, flows: flows, in: namespace)
    default: throw unknownDriver(record)
    }
}

private func unknownDriver(_ record: [String: String]) -> CheckpointError {
    CheckpointError(
        "cannot take over the steering", why: "the record names no driver that this program has (\(record["driver"] ?? "none"))", errno: EBADMSG,
        advice: "Use the version that wrote it")
}
