// How a restored session comes into the hands of a process: one interface, three ways.

import CProc
import Glibc
import SCImage

/// What is known of a session while it still runs at the source.
package struct SessionOffer: Sendable, Equatable {
    package var flow: Flow
    package var adapter: AdapterState?
    package var stateBytes: Int
    /// The form of the state, as the session's server numbers it; 0: not known.
    package var stateVersion: UInt32

    package init(flow: Flow, adapter: AdapterState? = nil, stateBytes: Int = 0, stateVersion: UInt32 = 0) {
        (self.flow, self.adapter, self.stateBytes, self.stateVersion) = (flow, adapter, stateBytes, stateVersion)
    }
}

/// The receiving end of a move. The calls come in this order, each once, `rebuild` once for every session; `discard` instead of any later one.
///
/// Up to `activate` nothing reaches the client and everything can be undone; what can fail is made to fail before it.
package protocol HandoverDriver: AnyObject {
    /// The sessions still run elsewhere: refuse here what would fail later, and ask the receiving process. `layout`: all offers are of one session of
    /// several processes, and these are its channels, without their queues and states.
    func prepare(_ offers: [SessionOffer], layout: Session?) throws(CheckpointError)
    /// These do not come after all; before the first `rebuild`.
    func withdraw(_ flows: Set<Flow>) throws(CheckpointError)
    /// Builds the session, silent.
    func rebuild(_ session: Session) throws(CheckpointError)
    /// The receiving process has everything and says that it is ready.
    func consent() throws(CheckpointError)
    /// The last look before the point of no return: throws when the receiving process has gone.
    func confirm() throws(CheckpointError)
    /// The sessions speak.
    func activate() throws(CheckpointError)
    /// The receiving process goes to work; returns its pid.
    func deliver() throws(CheckpointError) -> Int32
    /// After the sessions are served: what the next move wants to know, and what this one needs no longer.
    func cleanUp()
    /// Drops everything without a packet.
    func discard()

    /// What another process needs to finish or undo the hand-over after a crash of this one; known after `prepare`.
    var record: HandoverRecord { get }
    /// The processes that `rebuild` or `consent` stops.
    var processesToStop: [TargetProcess] { get }
    /// The sessions as they were rebuilt, for the keeper.
    var rebuiltSessions: [Session] { get }
    /// Descriptors that must outlive this process from the consent on: the rebuilt sockets, the connection to an acceptor.
    var keepsakes: [Int32] { get }
    /// A socket has spoken: the sessions can no longer be given back.
    var isLive: Bool { get }
}

extension HandoverDriver {
    package func confirm() {}
    package func withdraw(_ flows: Set<Flow>) {}
    package func prepare(_ offers: [SessionOffer]) throws(CheckpointError) { try prepare(offers, layout: nil) }
}

/// Sessions rebuilt in fresh sockets, for the two ways that hand descriptors over.
package final class FreshSockets {
    private let namespace: NetworkNamespace
    private let digests = FileDigests()
    package private(set) var sessions: [(session: Session, sockets: [RestoredSocket], locals: RestoredLocals)] = []

    package init(in namespace: NetworkNamespace) { self.namespace = namespace }

    /// What the receiver gets, in the order of the sessions' deliveries.
    package var descriptors: [Int32] { sessions.flatMap { Self.delivered($0.session, $0.sockets.map(\.raw) + $0.locals.descriptors) } }
    /// The TCP connections alone.
    package var connections: [Int32] { sessions.flatMap { $0.sockets.map(\.raw) } }
    package private(set) var isLive = false

    /// The descriptor of each delivery, by the channel it stands for.
    static func delivered(_ session: Session, _ channels: [Int32]) -> [Int32] { session.deliveries.map { channels[$0.channel] } }

    /// Refuses files that are not the source's, while the session still runs there.
    package func checkFiles(_ layout: Session?) throws(CheckpointError) {
        for channel in layout?.locals ?? [] {
            if case .file(let state) = channel.detail { _ = try RestoredLocals.checkedFile(state, channel.flags, digests) }
        }
    }

    package func rebuild(_ session: Session) throws(CheckpointError) {
        var sockets: [RestoredSocket] = []
        for channel in session.channels { sockets.append(try RestoredSocket(channel, in: namespace)) }
        let locals = try RestoredLocals(session, connections: sockets.map(\.raw), in: namespace, digests: digests)
        sessions.append((session, sockets, locals))
    }

    package func activate() throws(CheckpointError) {
        for entry in sessions {
            for socket in entry.sockets {
                isLive = true
                try socket.activate()
            }
        }
    }

    /// Writes down which moves the connections have behind them, for the next one.
    package func register(pid: Int32) {
        SessionRegistry.sweep()
        for entry in sessions {
            for (channel, socket) in zip(entry.session.channels, entry.sockets) {
                SessionRegistry.add(session: entry.session, channel: channel, socket: socket.raw, pid: pid)
            }
        }
    }

    package func discard() { sessions = [] }
}

/// A memory file with the application's state, for a process that will inherit or receive its descriptor.
package func makeStateFile(_ state: [UInt8]) throws(CheckpointError) -> SharedDescriptor {
    let file = SharedDescriptor(try check(cproc_memfd("sc-state"), "cannot make the state file"))
    let count = state.withUnsafeBytes { pwrite(file.raw, $0.baseAddress, $0.count, 0) }
    guard count == state.count else { throw CheckpointError("cannot write the state file", result: Int(-errno)) }
    return file
}
