// `recover`: after a crash, brings every session in doubt back to one owner and removes what its move has left.

import ArgumentParser
import Glibc
import SCEngine
import SCImage

struct Recover: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "After a crash: puts every session of an interrupted move back in one place, and removes every rule it left.",
        discussion: """
            A move that dies is recovered by its keeper process within milliseconds; this verb does the same by hand, or says how things stand.
            Moves that are under way are left alone.

            EXAMPLE
              sc-checkpoint recover
              sc-checkpoint recover --list --json
            """)

    @Flag(name: .long, help: "Only say what there is to recover.") var list = false
    @Option(name: .long, help: ArgumentHelp("Milliseconds to wait for another host's account of a move.", valueName: "MS")) var deadline = 10_000
    @Flag(name: .long, help: "One JSON document.") var json = false
    @Option(name: .long, help: ArgumentHelp(visibility: .hidden)) var kept: String?
    @Flag(name: .long, help: ArgumentHelp(visibility: .hidden)) var forwards = false

    private struct Document: Encodable {
        struct Move: Encodable {
            var migration, role, outcome: String
            var sessions: [String]
        }
        var moves: [Move]
    }

    func run() throws {
        if let kept { return try recoverKept(kept) }
        if forwards {
            _ = ForwardRecord.collect()
            return
        }
        var moves: [Document.Move] = []
        for (migration, role) in Journal.list() {
            let sessions = Journal.read(migration, role).map(flows) ?? []
            let outcome = list ? standing(migration, role) : Recovery.recover(migration, role, within: Deadline(milliseconds: deadline))
            guard let outcome else { continue }
            moves.append(.init(migration: migration.description, role: role.rawValue, outcome: outcome.rawValue, sessions: sessions))
        }
        if !list {
            _ = ForwardRecord.collect()
            Recovery.sweep()
        }
        json ? Terminal.json(Document(moves: moves)) : printTable(moves)
        let open = moves.filter { $0.outcome == RecoveryOutcome.inDoubt.rawValue || $0.outcome == RecoveryOutcome.busy.rawValue }
        if !list, let first = open.first {
            throw CheckpointError(
                "\(open.count) move\(open.count == 1 ? " is" : "s are") still open (\(first.migration))", why: "the other end gives no account",
                errno: ETIMEDOUT, advice: "Repeat when the other host can be reached", outcome: .needsRecovery)
        }
    }

    private func printTable(_ moves: [Document.Move]) {
        if moves.isEmpty { return Terminal.print("nothing to recover") }
        Terminal.table(
            ["MIGRATION", "END", "OUTCOME", "SESSIONS"],
            moves.map { [$0.migration, $0.role, $0.outcome, $0.sessions.count <= 2 ? $0.sessions.joined(separator: ", ") : "\($0.sessions.count)"] })
    }

    private func flows(_ content: Journal.Content) -> [String] {
        let texts =
            content.role == .source
            ? (try? content.sourceEntry())?.entry.flows : (try? content.targetEntry())?.flows
        return (texts ?? []).map { "\($0.client) -> \($0.service)" }
    }

    /// What there would be to recover; nil when the move has ended meanwhile.
    private func standing(_ migration: MigrationID, _ role: JournalRole) -> RecoveryOutcome? {
        switch Journal.read(migration, role)?.standing {
        case .underWay: .busy
        case .lost: .lost
        case .active: .active
        case .inDoubt: .inDoubt
        case .undecided: .returned
        case nil: nil
        }
    }

    /// As a keeper's successor: one move, with the descriptors that it has passed on. It asks for as long as TCP itself would wait.
    private func recoverKept(_ name: String) throws {
        let parts = name.split(separator: ".")
        guard parts.count == 2, let migration = MigrationID(parts[0]), let role = JournalRole(rawValue: String(parts[1])) else {
            throw CheckpointError("--kept \(name) names no journal", why: "ID.source or ID.target is expected", errno: EINVAL, outcome: .usage)
        }
        // execveat(2) of a descriptor leaves its number as the name.
        let comm = open("/proc/self/comm", O_WRONLY | O_CLOEXEC)
        _ = write(comm, "sc-recover", 10)
        close(comm)
        let kept = KeptDescriptors.inherited()
        let sessions = Journal.read(migration, role).map(flows) ?? []
        let outcome = withExtendedLifetime(kept) { Recovery.recoverKept(migration, role, kept) }
        if outcome == .lost { Terminal.note("the sessions of the move \(migration) were lost: \(sessions.joined(separator: ", "))") }
    }
}
