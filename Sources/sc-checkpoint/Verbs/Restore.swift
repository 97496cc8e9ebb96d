// `restore`: rebuilds the sessions of an image and hands them over.

import ArgumentParser
import Glibc
import SCEngine
import SCImage

struct Restore: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Rebuilds the sessions of an image and hands them over to a process that agrees.",
        discussion: """
            EXAMPLE
              sc-checkpoint restore session.sci --exec -- socat FD:3 -
              sc-checkpoint restore session.sci --onto 812 --adapter http
              sc-checkpoint restore archive:3fa9 --replay -- nginx -c /tmp/copy.conf -g 'daemon off;'

            --replay starts the command as a fresh server in a network namespace of its own, gives it what the session's server had not read yet, from
            the client's address, and writes its answer to standard output.
            """)

    @Argument(help: "The image; - is standard input, archive:ID one of the archive.") var image: String
    @OptionGroup var handover: HandoverOptions
    @Flag(name: .long, help: "With --exec: start the command in the background, its output discarded, and return.") var detach = false
    @Flag(name: .long, help: "Rehearse in a throw-away network namespace and say what would differ.") var dryRun = false
    @OptionGroup var replay: ReplayOptions
    @OptionGroup var archive: ArchiveOptions
    @Option(name: .long, help: ArgumentHelp("Time in milliseconds that an acceptor has for each answer.", valueName: "MS")) var deadline = 5000
    @Flag(name: .long, help: "One JSON document.") var json = false

    private struct Document: Encodable {
        var restored: Int
        var pid: Int32
    }
    private struct Rehearsed: Encodable {
        struct Row: Encodable { var session, field, image, rebuilt: String }
        var sessions: Int
        var differences: [Row]
    }

    func run() throws {
        if replay.replay { return try replay.run(archive.load(image).sessions, handover, json: json) }
        // A wrong command line is told of before the image is looked for.
        if !dryRun { _ = try handover.handover() }
        let sessions = try archive.load(image).sessions
        if dryRun { return try rehearse(sessions) }
        guard !sessions.isEmpty else {
            throw CheckpointError(
                "the image \(image) holds no session", why: "it is empty", errno: ENODATA, advice: "Look at it with sc-checkpoint show")
        }
        let (driver, namespace) = try makeDriver()
        let pid = try ImageRestore(sessions, handover: driver, in: namespace).run()
        if json {
            Terminal.json(Document(restored: sessions.count, pid: pid))
        } else {
            Terminal.print("restored \(sessions.count) session\(sessions.count == 1 ? "" : "s") into process \(pid)")
        }
    }

    private func makeDriver() throws -> (any HandoverDriver, NetworkNamespace) {
        let handover = try self.handover.handover()
        if case .exec(let arguments) = handover, !detach {
            let namespace = try NetworkNamespace.current()
            return (ExecHandover(arguments.map { String(decoding: $0, as: UTF8.self) }, mode: .replace, in: namespace), namespace)
        }
        return try makeHandover(handover, output: -1, deadline: deadline)
    }

    private func rehearse(_ sessions: [Session]) throws {
        let rehearsal = try Rehearsal(for: sessions)
        var rows: [Rehearsed.Row] = []
        for session in sessions {
            try rehearsal.runLocals(session)
            for channel in session.channels {
                for difference in try rehearsal.run(channel) {
                    rows.append(
                        .init(session: session.id.description, field: difference.field, image: difference.image, rebuilt: difference.rebuilt))
                }
            }
        }
        if json { return Terminal.json(Rehearsed(sessions: sessions.count, differences: rows)) }
        if rows.isEmpty { return Terminal.print("\(sessions.count) session\(sessions.count == 1 ? "" : "s") can be rebuilt; nothing would differ") }
        Terminal.print("\(sessions.count) session\(sessions.count == 1 ? "" : "s") can be rebuilt; this would differ:")
        Terminal.table(["SESSION", "FIELD", "IMAGE", "REBUILT"], rows.map { [String($0.session.prefix(8)), $0.field, $0.image, $0.rebuilt] })
    }
}
