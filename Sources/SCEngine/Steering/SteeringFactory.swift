// From what the user chose, or from the record of a process that has ended, to a driver.

import SCImage

/// The source's half, with everything done that takes milliseconds and disturbs nobody.
package func makeSourceSteering(_ choice: SteeringChoice, for move: SteeringMove) throws(CheckpointError) -> any SourceSteering {
    switch choice {
    case .none: try LinkSteering(move, lasting: false)
    case .nftForward: try LinkSteering(move, lasting: true)
    case .exec(let command): try ExecSteering(command, move)
    }
}

/// The target's half, from the offer; before anything else looks at the sessions' addresses. Nothing happens to any packet before `park`.
package func makeTargetSteering(_ offer: Offer, in namespace: NetworkNamespace) throws(CheckpointError) -> any TargetSteering {
    let isSameNamespace = offer.namespace == NamespaceIdentity(namespace)
    return try ReturningSteering(offer.flows, in: namespace, search: !offer.dryRun && !isSameNamespace)
}

/// The source's half as a former process left it, at whatever point: what is there is found out from the kernel. Then either `rollBack`, or
/// `steer`, `release` and `finish`, end the job.
package func adoptSourceSteering(
    _ record: [String: String], flows: [Flow], in namespace: NetworkNamespace
) throws(CheckpointError) -> any SourceSteering {
    try LinkSteering(adopting: record, flows: flows, in: namespace)
}

/// The target's half as a former process left it. Then either `giveBack`, or `activate`, `release` and `finish`, end the job.
package func adoptTargetSteering(
    _ record: [String: String], flows: [Flow], in namespace: NetworkNamespace
) throws(CheckpointError) -> any TargetSteering {
    try ReturningSteering(adopting: record, flows: flows, in: namespace)
}
