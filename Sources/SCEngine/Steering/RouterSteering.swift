// The driver `router:WHERE`: the rules that pass the flows on live on a router in front of both hosts.

import Glibc
import SCImage

/// Asks `sc-checkpoint steer-router` on the router (`RouterService`); this host only holds what was past the router when it froze.
final class RouterSteering: SourceSteering {
    private let inner: LinkSteering
    private let router: LineLink
    private let place: TargetAddress
    private let shell: [String]
    private let program: String
    private let targets: [String]
    private var said: Set<String> = []

    init(_ place: TargetAddress, _ move: SteeringMove) throws(CheckpointError) {
        self.place = place
        (shell, program) = (move.shell, move.program)
        targets = move.targetAddresses.map(\.address.description)
        router = try Self.open(place, shell: shell, program: program, timeout: move.deadline)
        try router.send(targets.map { "target \($0)" } + move.flows.map(\.line))
        try router.ask("")
        inner = try LinkSteering(move, lasting: false)
    }

    /// The former process's end has told the router to roll back, or to keep what it had: what is asked again is done already.
    init(adopting record: [String: String], flows: [Flow], in namespace: NetworkNamespace) throws(CheckpointError) {
        guard let place = TargetAddress(record["router"] ?? "") else {
            throw CheckpointError("cannot take over the steering", why: "the record names no router", errno: EBADMSG)
        }
        self.place = place
        shell = (record["shell"] ?? "ssh").split(separator: " ").map(String.init)
        program = record["program"] ?? "sc-checkpoint"
        targets = (record["targets"] ?? "").split(separator: " ").map(String.init)
        router = try Self.open(place, shell: shell, program: program, timeout: 10_000)
        try router.send(targets.map { "target \($0)" } + flows.map(\.line))
        try router.ask("")
        inner = try LinkSteering(adopting: record, flows: flows, in: namespace)
    }

    private static func open(_ place: TargetAddress, shell: [String], program: String, timeout: Int) throws(CheckpointError) -> LineLink {
        switch place {
        case .unix(let path): try LineLink(path: path, named: "the router at unix:\(path)", timeout: timeout)
        case .tls, .own:
            throw CheckpointError(
                "cannot ask the router \(place.description)", why: "an agent does not steer", errno: EOPNOTSUPP,
                advice: "Use ssh (router:HOST), or router:unix:PATH")
        case .ssh(let host):
            try LineLink(
                starting: shell + [host, program, "steer-router"], named: "the router \(host)", in: nil, environment: nil, timeout: timeout)
        }
    }

    var record: [String: String] {
        inner.record.merging([
            "driver": "router", "router": place.description, "shell": shell.joined(separator: " "), "program": program,
            "targets": targets.joined(separator: " "),
        ]) { $1 }
    }

    func freeze() throws(CheckpointError) {
        try say("freeze")
        // What was past the router's rules still reaches the living socket.
        pause(microseconds: 200)
        try inner.freeze()
    }

    func steer() throws(CheckpointError) {
        try inner.steer()
        try say("steer")
    }

    /// What was parked here is older than what the router holds.
    func release() throws(CheckpointError) {
        try inner.release()
        try say("release")
    }

    /// Of ended ones only: they are not worth a word to whoever switches the path.
    func leave(_ flows: [Flow]) throws(CheckpointError) { try inner.leave(flows) }
    func adopt(left: [Flow]) throws(CheckpointError) { try inner.adopt(left: left) }

    func finish() { inner.finish() }

    /// This host's socket is ready before the router lets packets go to it.
    func rollBack() {
        inner.rollBack()
        try? say("rollback")
    }

    private func say(_ verb: String) throws(CheckpointError) {
        if said.insert(verb).inserted { try router.ask(verb) }
    }
}
