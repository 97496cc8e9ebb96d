// The driver `exec:CMD`: packets are held at the source, and a user's program switches the path.

import Glibc
import SCImage

/// Starts the program once, before anything is frozen, and tells it one verb after the other (`LineLink`).
final class ExecSteering: SourceSteering {
    private let inner: LinkSteering
    private let command: String
    private let program: LineLink
    /// The verbs that the program has heard, so that none is said twice.
    private var said: Set<String> = []
    private var isRolledBack = false

    init(_ command: String, _ move: SteeringMove) throws(CheckpointError) {
        self.command = command
        let nextHop = move.isSameNamespace ? nil : try LinkSteering.nextHop(for: move)
        let variables = [
            "SC_SOURCE_HOST=\(hostName())", "SC_TARGET_HOST=\(move.targetName)", "SC_TARGET_ADDRESS=\(nextHop?.description ?? "")",
            "SC_SERVICE_ADDRESS=\(move.flows.first?.service.address.description ?? "")",
        ]
        program = try Self.start(command, variables, move.flows, in: move.namespace, deadline: move.deadline)
        self.variables = variables
        inner = try LinkSteering(move, lasting: false)
    }

    /// The program is started again, and hears `rollback`, or `steer` and `release`, perhaps for the second time.
    init(adopting record: [String: String], flows: [Flow], in namespace: NetworkNamespace) throws(CheckpointError) {
        command = record["command"] ?? ""
        variables = record.keys.sorted().filter { $0.hasPrefix("SC_") }.map { "\($0)=\(record[$0]!)" }
        program = try Self.start(command, variables, flows, in: namespace, deadline: 10_000)
        inner = try LinkSteering(adopting: record, flows: flows, in: namespace)
    }

    private let variables: [String]

    private static func start(
        _ command: String, _ variables: [String], _ flows: [Flow], in namespace: NetworkNamespace, deadline: Int
    ) throws(CheckpointError) -> LineLink {
        let program = try LineLink(
            starting: [command], named: "the steering program \(command)", in: namespace, environment: currentEnvironment() + variables,
            timeout: deadline)
        try program.send(flows.map(\.line) + [""])
        return program
    }

    var record: [String: String] {
        var record = inner.record
        record["driver"] = "exec"
        record["command"] = command
        for variable in variables {
            let parts = variable.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            record[String(parts[0])] = String(parts[1])
        }
        return record
    }

    func freeze() throws(CheckpointError) {
        try inner.freeze()
        try say("freeze")
    }

    func steer() throws(CheckpointError) {
        try inner.steer()
        try say("steer")
    }

    /// What was parked here goes first: it is older than what the program lets go.
    func release() throws(CheckpointError) {
        try inner.release()
        try say("release")
    }

    /// Of ended ones only: they are not worth a word to whoever switches the path.
    func leave(_ flows: [Flow]) throws(CheckpointError) { try inner.leave(flows) }
    func adopt(left: [Flow]) throws(CheckpointError) { try inner.adopt(left: left) }

    func finish() {
        if isRolledBack { try? say("rollback") }
        inner.finish()
    }

    /// The client does not wait for the program.
    func rollBack() {
        inner.rollBack()
        isRolledBack = true
    }

    private func say(_ verb: String) throws(CheckpointError) {
        if said.insert(verb).inserted { try program.ask(verb) }
    }
}
