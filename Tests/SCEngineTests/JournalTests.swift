// Journals: what survives a torn write, a dead writer and a full directory.

import Glibc
import SCImage
import Testing

@testable import SCEngine

@Suite(.serialized) struct JournalTests {
    private struct Entry: Codable, Equatable { var text: String }

    /// A state directory of the test's own.
    private func inDirectory(_ body: (String) throws -> Void) throws {
        var template = Array("/tmp/sc-journal-XXXXXX".utf8CString)
        let folder = String(cString: try #require(mkdtemp(&template)))
        let former = getenv("SC_STATE_DIR").map { String(cString: $0) }
        setenv("SC_STATE_DIR", folder, 1)
        defer {
            if let former { setenv("SC_STATE_DIR", former, 1) } else { unsetenv("SC_STATE_DIR") }
            _ = try? runCommand(["rm", "-rf", folder])
        }
        try body(folder)
    }

    @Test func `what was written is read again, line by line`() throws {
        try inDirectory { folder in
            let id = MigrationID.random()
            let journal = try Journal(id, .target, Entry(text: "about to be touched"))
            try journal.note(.activating, durably: true)
            try journal.note(.active, ["pid": "7"], durably: false)
            let content = try #require(Journal.read(id, .target))
            #expect(try content.entry(as: Entry.self) == Entry(text: "about to be touched"))
            #expect(content.lines.map(\.state) == [.activating, .active] && content.details(.active) == ["pid": "7"])
            #expect(Journal.list().map(\.migration) == [id])
            journal.remove()
            #expect(Journal.list().isEmpty && access("\(folder)/journal", F_OK) != 0)
        }
    }

    @Test func `what was withdrawn is no longer among the sessions of a move, at either end`() throws {
        try inDirectory { _ in
            let flows = (0..<5).map { Flow(client: SocketAddress("192.0.2.7:\(4000 + $0)")!, service: SocketAddress("192.0.2.1:80")!) }
            let id = MigrationID.random()
            let sockets = (0..<5).map { SourceEntry.Socket(pid: 1, fd: Int32($0), inode: UInt64(100 + $0), reuseAddress: 0, ownFilter: []) }
            let source = try Journal(
                id, .source,
                SourceEntry(target: .own, shell: [], program: "", sockets: sockets, holders: [], flows: flows.map(FlowText.init)))
            try source.note(.withdrawn, ["sockets": "101"], durably: false)
            try source.note(.withdrawn, ["sockets": "103 104"], durably: false)
            let (entry, withdrawn) = try #require(Journal.read(id, .source)).sourceEntry()
            #expect(entry.sockets.map(\.inode) == [100, 102] && entry.flows.compactMap(\.flow) == [flows[0], flows[2]])
            #expect(withdrawn == [flows[1], flows[3], flows[4]])
            #expect(Journal.isOpen(forSocket: 100) && !Journal.isOpen(forSocket: 101) && !Journal.isOpen(forSocket: 104))
            let target = try Journal(
                id, .target,
                TargetEntry(source: "a", flows: flows.map(FlowText.init), handover: HandoverRecord(.into, ["/x"]), steering: [:]))
            try target.note(.withdrawn, ["flows": "0 4"], durably: false)
            #expect(try #require(Journal.read(id, .target)).targetEntry().flows.compactMap(\.flow) == Array(flows[1...3]))
            source.remove()
            target.remove()
        }
    }

    @Test func `a line that was torn anywhere was not written, and nothing after it counts`() throws {
        try inDirectory { folder in
            let id = MigrationID.random()
            let journal = try Journal(id, .source, Entry(text: "x"))
            try journal.note(.steered, ["table": "t"], durably: true)
            try journal.note(.decided, durably: true)
            let path = "\(folder)/journal/\(id).source"
            let whole = try #require(readBytes(path))
            let end = try #require(whole.lastIndex(of: UInt8(ascii: "\n"))) + 1
            let decided = whole[..<(end - 1)].lastIndex(of: UInt8(ascii: "\n"))! + 1
            for cut in decided..<end {
                // What the disk has of the last line, and zeros after it.
                let torn = Array(whole[..<cut]) + [UInt8](repeating: 0, count: whole.count - cut)
                #expect(Journal.parse(torn, id, .source)?.has(.decided) == (cut == end), "cut at \(cut)")
                var flipped = whole
                flipped[cut] ^= 1
                #expect(Journal.parse(flipped, id, .source)?.has(.decided) != true, "flipped at \(cut)")
            }
            #expect(Journal.parse(Array(whole.prefix(20)), id, .source) == nil)
        }
    }

    @Test func `only the journal of a dead process is taken over`() throws {
        try inDirectory { _ in
            let id = MigrationID.random()
            do {
                let journal = try Journal(id, .source, Entry(text: "x"))
                try journal.note(.decided, durably: true)
            }
            // Another process that holds the same lock (fcntl's record lock) as its writer did.
            let script = "import fcntl, time; f = open('\(Journal.directory)/\(id).source', 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(60)"
            let writer = try spawn(
                ["python3", "-c", script], environment: nil, in: nil, standard: (-1, -1, -1), passing: [], listenPID: false)
            let deadline = Deadline(milliseconds: 10_000)
            while !Journal.isBusy(id, .source), !deadline.hasPassed { pause(microseconds: 5000) }
            #expect(Journal.isBusy(id, .source))
            #expect(Journal.adopt(id, .source) == nil)
            kill(writer, SIGKILL)
            waitpid(writer, nil, 0)
            #expect(!Journal.isBusy(id, .source))
            let adopted = try #require(Journal.adopt(id, .source))
            #expect(adopted.content.has(.decided))
            try adopted.journal.note(.steered, durably: true)
            #expect(Journal.read(id, .source)?.lines.map(\.state) == [.decided, .steered])
            adopted.journal.remove()
            #expect(Journal.adopt(id, .source) == nil)
        }
    }
}
