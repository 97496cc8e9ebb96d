// The stages of a migration as a table: what each end does, and how it is undone. Progress, timeline, dry run and tests walk this one table.

/// The stages in their order. Up to and with `consent` any failure gives the session back to the source; after `decide` the target owns it.
package enum Stage: String, CaseIterable, Sendable {
    case offer, prepare, park, freeze, capture, transfer, rebuild, consent, decide, steer, activate, release

    package struct Row: Sendable {
        package var source: String
        package var target: String
        package var undo: String
    }

    package var row: Row {
        switch self {
        case .offer:
            Row(source: "says what would come", target: "checks versions, address, route, server; asks the acceptor", undo: "nothing was touched")
        case .prepare:
            Row(source: "loads the rules that will hold packets", target: "-", undo: "removes the rules")
        case .park:
            Row(source: "stops the processes that serve the session", target: "-", undo: "continues them")
        case .freeze:
            Row(
                source: "holds the flow's packets in both directions", target: "parks them, if it passes them on today",
                undo: "lets them go to the source")
        case .capture:
            Row(source: "locks and reads the sockets", target: "-", undo: "unlocks them, repair mode off")
        case .transfer:
            Row(source: "sends the continuations", target: "receives and checks them", undo: "the target forgets them")
        case .rebuild:
            Row(source: "waits", target: "rebuilds the connections, silent", undo: "the target drops them without a packet")
        case .consent:
            Row(source: "waits", target: "the receiving process says that it has everything", undo: "the same")
        case .decide:
            Row(source: "the target owns the session from here on", target: "-", undo: "none")
        case .steer:
            Row(source: "points the flow's packets at the target", target: "-", undo: "none")
        case .activate:
            Row(source: "waits", target: "the connections speak; the receiving process goes to work", undo: "none")
        case .release:
            Row(source: "lets the held packets go, ends its sockets without a packet, continues its processes", target: "-", undo: "none")
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
