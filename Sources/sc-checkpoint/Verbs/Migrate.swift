// `migrate`: the whole move as one transaction.

import ArgumentParser
import Glibc
import SCAgent
import SCEngine
import SCImage

struct Migrate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Moves sessions of a process to another host, as one transaction.",
        discussion: """
            TARGET is [user@]HOST, where the system's ssh runs "sc-checkpoint receive"; unix:PATH, where "sc-checkpoint receive --listen PATH" waits; or
            tls://PEER, the agent of a host that was joined by "sc-checkpoint peers trust", by name or HOST:PORT.
            Any failure leaves the sessions where they are. Of several sessions one that closes meanwhile, or that its server does not park, is left out and
            named, and the others move.

            EXAMPLE
              sc-checkpoint migrate 812 --peer 192.0.2.7:40112 --to root@hostb --onto 790 --adapter http
              sc-checkpoint migrate 812 --peer 192.0.2.7:40112 --with-ipc --to root@hostb --into /run/server.acceptor
              sc-checkpoint migrate 812 --all --to unix:/run/receiver.sock --exec -- /usr/sbin/server --adopt

            Exit status: 0 moved, but for those that ended by themselves; 1 nothing has changed, or some of the chosen sessions stayed; 3 something is left to
            recover.
            """)

    @Argument(help: "The process.") var pid: Int32
    @Option(name: .long, help: ArgumentHelp("Where to.", valueName: "TARGET")) var to: String
    @OptionGroup var filters: FilterOptions
    @Flag(name: .long, help: "Every session that can move.") var all = false
    @OptionGroup var handover: HandoverOptions
    @OptionGroup var move: MoveOptions
    @Option(name: .long, help: ArgumentHelp("Application state for the receiver.", valueName: "FILE")) var state: String?
    @OptionGroup var group: GroupArguments
    @Flag(name: .long, help: "With --with-ipc: end the session's own processes once it has moved; otherwise they see an aborted client.")
    var endProcesses = false
    @Option(name: .long, help: ArgumentHelp("Milliseconds that the target may be silent.", valueName: "MS")) var deadline = 10_000
    @Option(name: .long, help: ArgumentHelp("Write a page for a person: timeline, sessions, what failed.", valueName: "FILE")) var report: String?
    @Flag(name: .long, help: "One JSON document.") var json = false

    private struct Document: Encodable {
        struct StageTime: Encodable {
            var name: String
            var start_us, duration_us: Double
        }
        struct Moved: Encodable { var peer, local: String }
        /// `outcome`: "refused", it cannot be moved; "stayed", the move went on without it; "ended", it closed meanwhile.
        struct Kept: Encodable {
            var peer, local, reason, outcome: String

            init(_ flow: Flow, _ reason: String, _ outcome: String) {
                (peer, local, self.reason, self.outcome) = (flow.client.description, flow.service.description, reason, outcome)
            }
        }
        var migrated, refused: Int
        var blackout_us: Double
        var stages: [StageTime]
        var target: String
        var dry_run: Bool
        var sessions: [Moved]
        var refusals: [Kept]
        var group: GroupJSON?
    }

    func run() throws {
        if case .tls = TargetAddress(to) { try MoveOptions.leaveToAgent() }
        move.failures.begin()
        let request = try makeRequest()
        guard let report else { return tell(try run(request, nil)) }
        let recorder = try ReportRecorder(report, request, pid: pid)
        do {
            let result = try run(request, recorder)
            // The sessions have moved: a full disk does not make that a failure.
            note { () throws(CheckpointError) in try recorder.finish(result, dryRun: move.dryRun) }
            tell(result)
        } catch let error as CheckpointError {
            note { () throws(CheckpointError) in try recorder.finish(error) }
            throw error
        }
    }

    private func run(_ request: MigrationRequest, _ recorder: ReportRecorder?) throws -> MigrationResult {
        let root = try TargetProcess(pid: pid)
        var (request, filter) = (request, try filters.filter(all: all))
        request.group = try group.options(root, named: filters.fd, &filter, statePath: state, parkDeadline: move.parking.parkDeadline)
        request.group?.endsProcesses = endProcesses
        if request.group != nil, case .onto = request.handover { throw groupWithAdapter }
        if endProcesses, request.group == nil {
            throw CheckpointError("--end-processes goes with --with-ipc", why: "it was not given", errno: EINVAL, outcome: .usage)
        }
        recorder?.found(root, filter)
        let source = try MigrationSource(request, of: root, filter) { stage in
            recorder?.began(stage)
            Terminal.progress("\(stage.rawValue): \(stage.row.source)")
        }
        let outcome = Result { () throws(CheckpointError) in try source.run() }
        WorkerReport(outcome, source.timeline, dryRun: move.dryRun).send()
        return try outcome.get()
    }

    private func note(_ write: () throws(CheckpointError) -> Void) {
        do throws(CheckpointError) { try write() } catch { Terminal.note(error.description) }
    }

    private func tell(_ result: MigrationResult) {
        Terminal.clearProgress()
        json ? printDocument(result) : printTimeline(result)
        if !result.leftOut.allSatisfy(\.hasEnded) { Glibc.exit(1) }
    }

    private func makeRequest() throws -> MigrationRequest {
        guard let target = TargetAddress(to) else {
            throw CheckpointError(
                "--to \(to) is no target", why: "[user@]HOST, tls://PEER or unix:PATH is expected", errno: EINVAL,
                advice: "For example --to root@hostb",
                outcome: .usage)
        }
        var request = try move.request(to: target, handover.handover(), silence: deadline)
        request.state = try readState(state)
        return request
    }

    private func printDocument(_ result: MigrationResult) {
        Terminal.json(
            Document(
                migrated: result.migrated.count, refused: result.refused.count + result.leftOut.count, blackout_us: Double(result.blackout) / 1000,
                stages: result.timeline.entries.map {
                    .init(name: $0.stage.rawValue, start_us: Double($0.start) / 1000, duration_us: Double($0.duration) / 1000)
                }, target: result.host, dry_run: move.dryRun,
                sessions: result.migrated.map { .init(peer: $0.client.description, local: $0.service.description) },
                refusals: result.refused.map { .init($0.flow, $0.reason, "refused") }
                    + result.leftOut.map { .init($0.flow, $0.reason, $0.hasEnded ? "ended" : "stayed") },
                group: result.group.map(GroupJSON.init)))
    }

    private func printTimeline(_ result: MigrationResult) {
        for (flow, reason) in result.refused + result.leftOut.map({ ($0.flow, $0.reason) }) { Terminal.note("left out \(flow): \(reason)") }
        if move.dryRun {
            Terminal.table(
                ["STAGE", "AT THE SOURCE", "AT THE TARGET", "ON FAILURE", "WAITS"],
                Stage.allCases.map {
                    [$0.rawValue, $0.row.source, $0.row.target, $0.row.undo.text, $0.row.waitsForPeer ? "\(deadline) ms" : "-"]
                })
            if let group = result.group { printGroup(group) }
            return Terminal.print("\(result.host) would receive; nothing was moved")
        }
        if let group = result.group { printGroup(group) }
        let total = max(1, result.blackout)
        let begin = result.timeline.entries.first { $0.stage == .park }?.start ?? 0
        Terminal.table(
            ["STAGE", "START us", "TOOK us", ""],
            result.timeline.entries.map { entry in
                var bar = ""
                if entry.start >= begin {
                    let offset = Int((entry.start - begin) * 40 / total)
                    bar = String(repeating: " ", count: min(40, offset)) + String(repeating: "#", count: max(1, Int(entry.duration * 40 / total)))
                }
                return [entry.stage.rawValue, microseconds(entry.start), microseconds(entry.duration), bar]
            }, right: [1, 2])
        let count = result.migrated.count
        Terminal.print("moved \(count) session\(count == 1 ? "" : "s") to \(result.host); blackout \(microseconds(result.blackout)) us")
    }
}
