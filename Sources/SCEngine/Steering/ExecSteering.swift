// The driver `exec:CMD`: packets are held at the source, and a user's program switches the path.

import Glibc
import SCImage

/// Runs the program once for each verb, with the flows on its standard input.
final class ExecSteering: SourceSteering {
    private let inner: LinkSteering
    private let command: String
    private let flows: [Flow]
    private let environment: [String]
    private let namespace: NetworkNamespace

    init(_ command: String, _ move: SteeringMove) throws(CheckpointError) {
        self.command = command
        flows = move.flows
        namespace = move.namespace
        let nextHop = move.isSameNamespace ? nil : try LinkSteering.nextHop(for: move)
        environment =
            currentEnvironment() + [
                "SC_SOURCE_HOST=\(hostName())", "SC_TARGET_HOST=\(move.targetName)", "SC_TARGET_ADDRESS=\(nextHop?.description ?? "")",
                "SC_SERVICE_ADDRESS=\(flows.first?.service.address.description ?? "")",
            ]
        let found = try runCommand(["/bin/sh", "-c", "command -v \"$0\"", command], in: namespace)
        guard found.status == 0 else {
            throw CheckpointError("cannot start the steering program \(command)", result: Int(-ENOENT), advice: "Give its full path")
        }
        inner = try LinkSteering(move, lasting: false)
    }

    var record: [String: String] { inner.record.merging(["command": command]) { $1 } }

    func freeze() throws(CheckpointError) {
        try inner.freeze()
        try run("freeze")
    }

    func steer() throws(CheckpointError) {
        try inner.steer()
        try run("steer")
    }

    func release() throws(CheckpointError) { try inner.release() }

    func finish() {
        inner.finish()
        try? run("release")
    }

    func rollBack() {
        try? run("rollback")
        inner.rollBack()
    }

    private func run(_ verb: String) throws(CheckpointError) {
        let lines = flows.map { "\($0.client.address) \($0.client.port) \($0.service.address) \($0.service.port)\n" }.joined()
        let result = try runCommand(["/bin/sh", "-c", "exec \"$0\" \"$1\"", command, verb], input: lines, in: namespace, environment: environment)
        guard result.status == 0 else {
            let line = result.errors.split(separator: "\n").first.map(String.init) ?? "exit status \(result.status)"
            throw CheckpointError(
                "the steering program failed at \"\(verb)\"", why: line, errno: ECANCELED, advice: "It has to end with status 0: \(command)")
        }
    }
}

/// uname(2)'s nodename.
package func hostName() -> String {
    var name = [CChar](repeating: 0, count: 256)
    gethostname(&name, name.count)
    return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
