// What a migration begins with and ends with.

import SCImage

/// What the user asked for.
package struct MigrationRequest: Sendable {
    package var target: TargetAddress
    package var handover: Handover
    package var steering: SteeringChoice = .nftForward
    /// The target's address on the link, when it cannot be told from its answer.
    package var via: IPAddress?
    package var adapterOptions: [String: String] = [:]
    package var state: [UInt8] = []
    /// Milliseconds that the target may be silent.
    package var deadline = 10_000
    package var dryRun = false
    /// `etcd://HOST:PORT/PREFIX`: the target takes the sessions there before it activates them.
    package var fence: String?
    package var shell = ["ssh"]
    package var program = "sc-checkpoint"
    /// Finds the servers that take part among the holders of these sockets (by inode); nil: none does. Without it processes are stopped.
    package var parking: (@Sendable (Set<UInt64>) throws(CheckpointError) -> (any SessionParking)?)?

    /// The sessions are one, served by several processes; nil: each connection is a session.
    package var group: GroupOptions?

    package init(target: TargetAddress, handover: Handover) { (self.target, self.handover) = (target, handover) }
}

/// What became of it.
package struct MigrationResult: Sendable {
    package var migrated: [Flow]
    package var refused: [(flow: Flow, reason: String)]
    /// Those that were to move, and that the move went on without.
    package var leftOut: [LeftOut]
    /// From the moment the first packet was held to the moment the last held packet was let go, in nanoseconds.
    package var blackout: UInt64
    package var timeline: Timeline
    /// The target's name, and the process that has the sessions now.
    package var host: String
    /// Of a session of several processes, as it was moved or would be.
    package var group: GroupCapture?
}
