// What the two ends of a migration tell each other, as values.

/// Names one move in the journals of both ends: 16 random bytes, like a session's id.
package typealias MigrationID = SessionID

/// Source to target, while the session still runs: what would come.
package struct Offer: Equatable, Sendable {
    /// Names this move.
    package var migration = MigrationID(high: 0, low: 0)
    /// Program and version of the source.
    package var tool = ""
    /// The image format versions that the source can write.
    package var formatVersions = Preamble.known
    /// Host name of the source.
    package var host = ""
    /// The TCP connections on offer; a `Reason` names one by its index.
    package var flows: [Flow] = []
    /// Name of the steering driver that will send the client's packets to the target.
    package var steering = ""
    /// The network namespace of the sessions' process on the source; nil if it is not known.
    package var namespace: NamespaceIdentity?
    /// Who gets the restored channels; nil in an offer that only asks.
    package var handover: Handover?
    /// Bytes in all queues at the time of the offer.
    package var queueBytes: UInt64 = 0
    /// Bytes of application state that will come.
    package var stateBytes: UInt64 = 0
    /// The form of that state, as the sessions' servers number it; 0: not known, or several.
    package var stateVersion: UInt32 = 0
    /// Milliseconds from the freeze to the activation; 0: no deadline.
    package var deadlineMilliseconds: UInt32 = 0
    /// The fence that the target has to take before it activates; empty: none.
    package var fence = ""
    /// What the session has beside its flows, as its image will have it but without queues; empty with more than one session.
    package var locals: [LocalChannel] = []
    package var processes: [SessionProcess] = []
    /// Only answers are wanted.
    package var dryRun = false

    package init() {}
}

/// The two ends of a TCP connection as its packets carry them: our address first.
package struct Flow: Hashable, Sendable {
    package var local: SocketAddress
    package var peer: SocketAddress
    package init(local: SocketAddress, peer: SocketAddress) { (self.local, self.peer) = (local, peer) }
}

/// A network namespace, told apart from all others of all machines.
package struct NamespaceIdentity: Hashable, Sendable {
    /// st_dev and st_ino of `/proc/PID/ns/net`.
    package var device: UInt64
    package var inode: UInt64
    /// The 16 bytes of `/proc/sys/kernel/random/boot_id`.
    package var bootID: [UInt8]
    package init(device: UInt64, inode: UInt64, bootID: [UInt8]) {
        (self.device, self.inode, self.bootID) = (device, inode, bootID)
    }
}

/// Who gets the restored channels.
package enum Handover: Equatable, Sendable {
    /// A new process: its command and arguments, which need not be UTF-8.
    case exec(arguments: [[UInt8]])
    /// An acceptor: the path of its Unix socket; a leading NUL stands for the abstract namespace.
    case into(path: [UInt8])
    /// An unmodified server, by in-place transplant. Options are `key=value`.
    case onto(pid: Int32, adapter: String, options: [String])
    /// Whoever the target's policy names for this service.
    case service(name: String)
}

/// Target to source: the answer to an `Offer`.
package struct Answer: Equatable, Sendable {
    package var accepted: Bool
    /// Why not; when accepted, warnings.
    package var reasons: [Reason] = []
    /// Host name of the target.
    package var host = ""
    /// The target's addresses.
    package var addresses: [AddressPrefix] = []
    /// The target forwards these flows today: the sessions come back.
    package var isReturning = false
    /// The target is in the network namespace that the offer names.
    package var isSameNamespace = false
    /// The target has understood the offer's local channels and processes.
    package var knowsLocalChannels = false
    /// The target takes less than was offered when `Report.withdrawn` says so.
    package var takesFewer = false
    /// How long the target's checks took.
    package var timings: [Timing] = []

    package init(accepted: Bool) { self.accepted = accepted }
}

/// Why an offer, or one flow of it, is refused.
package struct Reason: Equatable, Sendable {
    /// Index into `Offer.flows`; nil: the whole offer.
    package var flow: Int?
    /// What was refused, why, and what to do about it.
    package var what: String
    package var why: String
    package var advice: String
    /// The errno of the failed call; 0: none.
    package var errno: Int32

    package init(flow: Int? = nil, what: String, why: String, advice: String = "", errno: Int32 = 0) {
        (self.flow, self.what, self.why, self.advice, self.errno) = (flow, what, why, advice, errno)
    }
}

/// An interface's address and the length of its network prefix.
package struct AddressPrefix: Hashable, Sendable {
    package var address: IPAddress
    package var length: UInt8
    package init(_ address: IPAddress, length: UInt8) { (self.address, self.length) = (address, length) }
}

/// How long one stage took, by the sender's monotonic clock.
package struct Timing: Equatable, Sendable {
    package var stage: String
    package var startNanoseconds: UInt64
    package var durationNanoseconds: UInt64
    package init(stage: String, startNanoseconds: UInt64, durationNanoseconds: UInt64) {
        (self.stage, self.startNanoseconds, self.durationNanoseconds) = (stage, startNanoseconds, durationNanoseconds)
    }
}

/// Either way: the stages that the sender has finished since its last report.
package struct Report: Equatable, Sendable {
    package var stages: [Timing]
    /// With the source's report of its transfer: the offer's flows, by number, that do not come after all.
    package var withdrawn: [Int] = []
    package init(stages: [Timing]) { self.stages = stages }
}

/// Either way: the sender gives up.
package struct Failure: Equatable, Sendable {
    /// What failed, why, and what to do about it.
    package var what: String
    package var why: String
    package var advice: String
    /// The errno of the failed call; 0: none.
    package var errno: Int32
    /// `sc-checkpoint recover` has to run at the sender.
    package var needsRecover: Bool

    package init(what: String, why: String, advice: String = "", errno: Int32 = 0, needsRecover: Bool = false) {
        (self.what, self.why, self.advice, self.errno, self.needsRecover) = (what, why, advice, errno, needsRecover)
    }
}

/// Source to target, in a conversation of its own after the first one broke: how does this move stand? Asking has an effect: a target that has not begun
/// to activate gives the move up before it answers, so that it never will.
package struct Resolve: Equatable, Sendable {
    package var migration: MigrationID
    package init(_ migration: MigrationID) { self.migration = migration }
}

/// Target to source: the answer to a `Resolve`.
package struct Standing: Equatable, Sendable {
    package enum State: UInt32, Sendable, CaseIterable {
        /// The target serves the sessions.
        case active = 1
        /// The target has given the move up, for ever: the sessions belong to the source.
        case discarded
        /// The sessions were lost while the target owned them.
        case lost
        /// The target is still at it; ask again.
        case busy
    }

    package var migration: MigrationID
    package var state: State
    package init(_ migration: MigrationID, _ state: State) { (self.migration, self.state) = (migration, state) }
}

/// Either way: which of these flows still have a socket at the receiver of this message?
package struct Inquiry: Equatable, Sendable {
    package var flows: [Flow]
    package init(flows: [Flow]) { self.flows = flows }
}

/// The answer to an `Inquiry`: indexes of its flows.
package struct Living: Equatable, Sendable {
    package var flows: [Int]
    package init(flows: [Int]) { self.flows = flows }
}
