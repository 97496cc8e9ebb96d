// `receive`: the target's end of a migrate.

import ArgumentParser
import CProc
import Glibc
import SCEngine

struct Receive: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "The target's end of a migrate: on standard input and output (as ssh starts it), or listening on a Unix socket.",
        discussion: "EXAMPLE\n  sc-checkpoint receive --listen /run/receiver.sock")

    @Option(name: .long, help: ArgumentHelp("Wait on this Unix socket (mode 0600) for migrations, one after the other.", valueName: "PATH"))
    var listen: String?
    @Flag(name: .long, help: "With --listen: end after the first migration.") var once = false
    @Flag(name: .long, help: "One JSON document for each migration, one a line.") var json = false
    @Option(name: .long, help: ArgumentHelp(visibility: .hidden)) var onDescriptor: Int32?

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
        var arguments = ["/proc/self/exe", "receive", "--on-descriptor", "3"]
        if json { arguments.append("--json") }
        return try withExtendedLifetime(connection) { try ChildProcess(arguments, passing: [connection.raw]) }
    }

    private func serve(_ connection: SharedDescriptor) throws {
        let link = try PeerLink(input: connection, output: connection, peer: "the source", timeout: 10_000)
        if let summary = try MigrationTarget(link, output: 2).run() { report(summary) }
    }

    /// Standard output carries the conversation, so nothing else may be written to it.
    private func serveStandardStreams() throws {
        let link = try PeerLink(input: SharedDescriptor(dup(0)), output: SharedDescriptor(dup(1)), peer: "the source", timeout: 10_000)
        do throws(CheckpointError) {
            _ = try MigrationTarget(link, output: -1).run()
        } catch {
            // The source has been told, and says it on the terminal that ssh's standard error would reach as well.
            Glibc.exit(error.outcome.rawValue)
        }
    }

    private func report(_ summary: MigrationTarget.Summary) {
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
