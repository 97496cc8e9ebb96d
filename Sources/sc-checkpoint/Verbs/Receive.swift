// `receive`: the target's end of a migrate.

import ArgumentParser
import CProc
import Glibc
import SCAgent
import SCEngine

struct Receive: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "The target's end of a migrate: on standard input and output (as ssh starts it), or listening on a Unix socket.",
        discussion: "EXAMPLE\n  sc-checkpoint receive --listen /run/receiver.sock")

    @Option(name: .long, help: ArgumentHelp("Wait on this Unix socket (mode 0600) for migrations, one after the other.", valueName: "PATH"))
    var listen: String?
    @Flag(name: .long, help: "With --listen: end after the first migration.") var once = false
    @Flag(name: .long, help: "One JSON document for each migration, one a line.") var json = false
    @Option(name: .long, help: ArgumentHelp("Receive only what this policy (agent.json5) allows.", valueName: "FILE")) var policy: String?
    @Option(name: .long, help: ArgumentHelp(visibility: .hidden)) var onDescriptor: Int32?
    @Option(name: .long, help: ArgumentHelp(visibility: .hidden)) var from: String?
    @Option(name: .long, help: ArgumentHelp(visibility: .hidden)) var load: String?

    private struct Document: Encodable {
        struct Moved: Encodable { var peer, local: String }
        var source: String
        var sessions: [Moved]
        var pid: Int32
    }

    func run() throws {
        if let onDescriptor { return try serve(SharedDescriptor(onDescriptor)) }
        guard let listen else { return try serveStandardStreams() }
        let listener = try Listener(listen)
        listener.endOnSignal()
        if !json { Terminal.note("listening on \(listen)") }
        repeat {
            let child = try start(on: try listener.accept())
            if once {
                let status = child.wait()
                if status != 0 { Glibc.exit(status) }
            }
        } while !once
    }

    /// Each conversation has a process of its own, so that a question about a move can be answered while that move goes on.
    private func start(on connection: SharedDescriptor) throws -> ChildProcess {
        var arguments = [ownProgram, "receive", "--on-descriptor", "3"]
        if json { arguments.append("--json") }
        if let policy { arguments += ["--policy", policy] }
        return try withExtendedLifetime(connection) { try ChildProcess(arguments, passing: [connection.raw]) }
    }

    private func serve(_ connection: SharedDescriptor) throws {
        _ = fcntl(connection.raw, F_SETFD, FD_CLOEXEC)
        var report = WorkerReport(role: "target", outcome: "answered")
        defer { report.send() }
        let refusal = Refusal()
        do throws(CheckpointError) {
            let link = try PeerLink(input: connection, output: connection, peer: from ?? "the source", timeout: 10_000)
            guard let summary = try makeTarget(link, output: 2, refusal).run() else { return }
            (report.outcome, report.sessions) = ("moved", summary.flows.count)
            if from == nil { tell(summary) }
        } catch {
            (report.outcome, report.message) = (
                refusal.check != nil ? "refused" : error.outcome == .needsRecovery ? "needs_recovery" : "rolled_back", error.description
            )
            report.check = refusal.check
            // The agent writes the log of its workers.
            guard getenv("SC_AGENT_REPORT") == nil else {
                report.send()
                Glibc.exit(error.outcome.rawValue)
            }
            throw error
        }
    }

    /// Where the policy's closure leaves the check that refused.
    private final class Refusal { var check: String? }

    private func makeTarget(_ link: PeerLink, output: Int32, _ refusal: Refusal = Refusal()) throws(CheckpointError) -> MigrationTarget {
        guard let path = policy else { return MigrationTarget(link, output: output) }
        let policy = try Policy.load(path)
        let peer = from
        let numbers = (load ?? "").split(separator: ":").compactMap { UInt64($0) }
        let load = numbers.count == 2 ? Load(sessions: Int(clamping: numbers[0]), bytes: numbers[1]) : Load()
        return MigrationTarget(link, output: output, opensHostResources: peer == nil) { offer throws(CheckpointError) in
            switch policy.decide(peer: peer, offer: offer, load: load) {
            case .accept(let acceptance):
                var report = WorkerReport(role: "target", outcome: "accepted")
                (report.sessions, report.bytes) = (offer.flows.count, offer.queueBytes &+ offer.stateBytes)
                report.send()
                return (acceptance.handover, acceptance.acceptorUser)
            case .refuse(let check, let error):
                refusal.check = check.rawValue
                throw error
            }
        }
    }

    /// Standard output carries the conversation, so nothing else may be written to it.
    private func serveStandardStreams() throws {
        let link = try PeerLink(input: SharedDescriptor(dup(0)), output: SharedDescriptor(dup(1)), peer: "the source", timeout: 10_000)
        do throws(CheckpointError) {
            _ = try makeTarget(link, output: -1).run()
        } catch {
            // The source has been told, and says it on the terminal that ssh's standard error would reach as well.
            Glibc.exit(error.outcome.rawValue)
        }
    }

    private func tell(_ summary: MigrationTarget.Summary) {
        if json {
            Terminal.json(
                Document(
                    source: summary.source, sessions: summary.flows.map { .init(peer: $0.client.description, local: $0.service.description) },
                    pid: summary.pid))
        } else {
            Terminal.print(
                "received \(summary.flows.count) session\(summary.flows.count == 1 ? "" : "s") from \(summary.source) into process \(summary.pid)")
        }
    }
}
