// The stages of a migration as a table: what each end does, and how it is undone. Progress, timeline, dry run and tests walk this one table.

/// The stages in their order. Up to and with `consent` any failure gives the session back to the source. `decide` is the source's promise not to take
/// it back by itself; the target may still decline, until it has begun to activate.
package enum Stage: String, CaseIterable, Sendable {
    case offer, prepare, park, freeze, capture, transfer, rebuild, consent, decide, steer, activate, release

    /// What a failure in this stage leads to.
    package enum Undo: String, Sendable {
        /// Nothing was touched.
        case nothing
        /// The source gives its sessions back to its processes; the target drops what it has built without a packet.
        case giveBack
        /// The source asks the target how the move stands, and gives the sessions back or lets them go accordingly.
        case resolve
        /// The sessions are at the target; the rest is repeated until it is done.
        case `repeat`

        package var text: String {
            switch self {
            case .nothing: "nothing was touched"
            case .giveBack: "the source gives its sessions back"
            case .resolve: "the source asks the target how the move stands"
            case .repeat: "repeated until it is done"
            }
        }
    }

    package struct Row: Sendable {
        package var source: String
        package var target: String
        package var undo: Undo
        /// The end of the stage waits for the other end, for `--deadline` at most; otherwise it takes as long as this host takes.
        package var waitsForPeer: Bool
    }

    package var row: Row {
        switch self {
        case .offer:
            Row(
                source: "says what would come", target: "checks versions, policy, address, route, server; asks the acceptor; begins its journal",
                undo: .nothing, waitsForPeer: true)
        case .prepare:
            Row(
                source: "begins its journal, starts the keeper, loads the rules that will hold packets", target: "-", undo: .giveBack,
                waitsForPeer: false)
        case .park: Row(source: "stops the processes that serve the session", target: "-", undo: .giveBack, waitsForPeer: false)
        case .freeze:
            Row(
                source: "holds the flow's packets in both directions", target: "parks them, if it passes them on today", undo: .giveBack,
                waitsForPeer: true)
        case .capture: Row(source: "locks and reads the sockets", target: "-", undo: .giveBack, waitsForPeer: false)
        case .transfer: Row(source: "sends the continuations", target: "receives and checks them", undo: .giveBack, waitsForPeer: true)
        case .rebuild: Row(source: "waits", target: "rebuilds the connections, silent", undo: .giveBack, waitsForPeer: true)
        case .consent: Row(source: "waits", target: "the receiving process says that it has everything", undo: .giveBack, waitsForPeer: true)
        case .decide:
            Row(source: "writes to disk that the target may have the sessions, and tells it", target: "-", undo: .resolve, waitsForPeer: false)
        case .steer: Row(source: "points the flow's packets at the target", target: "-", undo: .resolve, waitsForPeer: false)
        case .activate:
            Row(
                source: "waits", target: "writes to disk that it has them; the connections speak; the receiving process goes to work", undo: .resolve,
                waitsForPeer: true)
        case .release:
            Row(
                source: "lets the held packets go, ends its sockets without a packet, continues its processes", target: "forgets the move",
                undo: .repeat, waitsForPeer: false)
        }
    }
}

/// When each stage began and how long it took.
package struct Timeline: Sendable {
    package struct Entry: Sendable {
        package var stage: Stage
        package var start: UInt64
        package var duration: UInt64
    }

    package private(set) var entries: [Entry] = []
    package let origin = monotonicNanoseconds()

    package init() {}

    /// Runs one stage and notes its time, also when it fails.
    package mutating func run<Value>(_ stage: Stage, _ body: () throws(CheckpointError) -> Value) throws(CheckpointError) -> Value {
        let start = monotonicNanoseconds()
        defer { entries.append(Entry(stage: stage, start: start - origin, duration: monotonicNanoseconds() - start)) }
        do throws(CheckpointError) {
            return try body()
        } catch {
            throw error
        }
    }

    /// Nanoseconds from the beginning of one stage to the end of another.
    package func span(_ first: Stage, _ last: Stage) -> UInt64 {
        guard let begin = entries.first(where: { $0.stage == first }), let end = entries.last(where: { $0.stage == last }) else { return 0 }
        return end.start + end.duration - begin.start
    }
}
