// The two halves of steering as interfaces: what a move asks of a driver, and in which order.

import SCImage

/// The source's half of steering one move. Order: freeze, steer, release, finish; at any time `rollBack` and finish instead. Every call is
/// idempotent and takes all flows of the move in one batch.
package protocol SourceSteering: AnyObject {
    /// The client's packets are parked, and this host's answers vanish.
    func freeze() throws(CheckpointError)
    /// Parked and new packets are meant for the target. From here on there is no way back.
    func steer() throws(CheckpointError)
    /// The target is live: lets go what was parked, in order.
    func release() throws(CheckpointError)
    /// After the client is served again, here or there: removes what nothing needs any longer, which takes tens of milliseconds.
    func finish()
    /// The session stays here: what was parked goes to its socket, which must be able to hear.
    func rollBack()
    /// Whether `leave` may be told of sessions that live on.
    var canLeave: Bool { get }
    /// Before `steer`: these flows stay here although the others move. Their answers pass again at once; what was parked comes with the release, or with the
    /// roll-back, of the others.
    func leave(_ flows: [Flow]) throws(CheckpointError)
    /// The former process had been told that these stay (`leave`), and packets of theirs may be parked.
    func adopt(left: [Flow]) throws(CheckpointError)
    /// Everything that another process needs to take over from this one: short values of one line, under keys that stay the same.
    var record: [String: String] { get }
}

/// The target's half. Order: park (only of flows that return), activate, release, finish; `giveBack` at any time before activate instead.
/// Every call is idempotent.
package protocol TargetSteering: AnyObject {
    /// Where the source may send the flows, best first.
    var addresses: [AddressPrefix] { get }
    /// This host passes these very flows on today, from an earlier move: they come back.
    var isReturning: Bool { get }
    /// On the source's report of `freeze`: returning flows wait here.
    func park() throws(CheckpointError)
    /// Right before the rebuilt sockets speak.
    func activate() throws(CheckpointError)
    /// Right after they are delivered: what was parked here goes to them.
    func release() throws(CheckpointError)
    /// After the client is served.
    func finish()
    /// The session stays at the source.
    func giveBack()
    /// These do not come, and have ended if they were to return; before `activate`.
    func withdraw(_ flows: [Flow]) throws(CheckpointError)
    /// As the source's.
    var record: [String: String] { get }
}

extension SourceSteering {
    package var canLeave: Bool { false }
}

extension TargetSteering {
    package func withdraw(_ flows: [Flow]) {}
}

/// What a source's driver has to know of one move.
package struct SteeringMove {
    package var flows: [Flow]
    /// Of the sessions' sockets at the source.
    package var namespace: NetworkNamespace
    /// The target's, from its answer or from `--via`.
    package var targetAddresses: [AddressPrefix]
    package var targetName: String
    package var isReturning = false
    package var isSameNamespace = false
    /// Milliseconds that others may take to answer.
    package var deadline = 10_000
    /// The remote shell, and this tool's name on a router.
    package var shell = ["ssh"]
    package var program = "sc-checkpoint"

    package init(flows: [Flow], namespace: NetworkNamespace, targetAddresses: [AddressPrefix], targetName: String) {
        (self.flows, self.namespace) = (flows, namespace)
        (self.targetAddresses, self.targetName) = (targetAddresses, targetName)
    }
}
