// `diff`: what happened to a session between two images of it.

import ArgumentParser
import Glibc
import SCArchive
import SCEngine
import SCImage

struct Diff: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Says what happened between two images of the same session: what the server read and wrote, what changed.",
        discussion: """
            Sessions are known by their id; two images that were made without a move in between have different ids, and then the connection's addresses
            decide.

            EXAMPLE
              sc-checkpoint diff before.sci after.sci --data
              sc-checkpoint diff archive:3fa9 archive:77b0
            """)

    @Argument(help: "The earlier image; archive:ID is one of the archive.") var before: String
    @Argument(help: "The later image.") var after: String
    @Flag(name: .long, help: "The bytes that the server read and wrote, as far as the images have them.") var data = false
    @OptionGroup var archive: ArchiveOptions
    @Flag(name: .long, help: "One JSON document.") var json = false

    private struct Document: Encodable {
        struct Change: Encodable { var field, before, after: String }
        struct Connection: Encodable {
            var local, peer: String
            var received, read, written, acknowledged: UInt64
            var changes: [Change]
            var contradiction: String?
        }
        struct SessionJSON: Encodable {
            var id: String
            var connections: [Connection]
            var changes: [Change]
        }
        var sessions: [SessionJSON]
        var only_before, only_after: [String]
    }

    func run() throws {
        let (one, other) = (try archive.load(before), try archive.load(after))
        var (left, right) = (one.sessions, other.sessions)
        var differences: [SessionDifference] = []
        for isSame in [{ (a: Session, b: Session) in a.id == b.id }, Self.shareConnection] {
            left.removeAll { session in
                guard let index = right.firstIndex(where: { isSame(session, $0) }) else { return false }
                differences.append(SessionDifference(session, right.remove(at: index)))
                return true
            }
        }
        guard !differences.isEmpty else {
            throw CheckpointError(
                "\(before) and \(after) have no session in common", why: "neither an id nor a connection is in both", errno: ENODATA,
                advice: "Look at them with sc-checkpoint show")
        }
        if json {
            return Terminal.json(
                Document(sessions: differences.map(Self.document), only_before: left.map(\.id.description), only_after: right.map(\.id.description)))
        }
        for difference in differences { print(difference) }
        for session in left { Terminal.print("session \(session.id) is only in \(before)") }
        for session in right { Terminal.print("session \(session.id) is only in \(after)") }
    }

    private static func shareConnection(_ one: Session, _ other: Session) -> Bool {
        let flows = Set(one.channels.map { Flow($0) })
        return other.channels.contains { flows.contains(Flow($0)) }
    }

    private static func document(_ difference: SessionDifference) -> Document.SessionJSON {
        Document.SessionJSON(
            id: difference.id.description,
            connections: difference.connections.map { connection in
                Document.Connection(
                    local: connection.local, peer: connection.peer, received: connection.received, read: connection.read, written: connection.written,
                    acknowledged: connection.acknowledged,
                    changes: connection.changes.map { Document.Change(field: $0.field, before: $0.before, after: $0.after) },
                    contradiction: connection.contradiction)
            }, changes: difference.changes.map { Document.Change(field: $0.field, before: $0.before, after: $0.after) })
    }

    private func print(_ difference: SessionDifference) {
        Terminal.print("session \(difference.id)")
        for change in difference.changes { Terminal.print("  \(change.field): \(change.before) -> \(change.after)") }
        for connection in difference.connections {
            Terminal.print("  \(connection.local) <- \(connection.peer)")
            if let contradiction = connection.contradiction {
                Terminal.print("    \(contradiction)")
                continue
            }
            Terminal.print("    \(connection.received) bytes came from the client, the server read \(connection.read)")
            printContent(connection.readContent, isFromClient: true)
            Terminal.print("    the server wrote \(connection.written) bytes, the client acknowledged \(connection.acknowledged)")
            printContent(connection.writtenContent, isFromClient: false)
            for change in connection.changes { Terminal.print("    \(change.field): \(change.before) -> \(change.after)") }
        }
    }

    private func printContent(_ bytes: [UInt8], isFromClient: Bool) {
        if let hint = ProtocolHint(bytes, isFromClient: isFromClient), let line = hint.lines.first { Terminal.print("      \(hint.name): \(line)") }
        if data { for line in hexDump(bytes) { Terminal.print("      \(line)") } }
    }
}
