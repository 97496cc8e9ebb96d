// The tool is killed in the middle of add and prune, again and again, and nothing that was committed is lost.

import FoundationEssentials
import Glibc
import SCArchive
import SCEngine
import SCImage
import Support
import Testing

@Suite(.serialized)
struct CrashTests {
    private let scratch = Scratch()
    /// SC_ARCHIVE_KILLS: how often; 50 is the full size.
    private static let kills = getenv("SC_ARCHIVE_KILLS").flatMap { Int(String(cString: $0)) } ?? 12

    private func start(_ arguments: [String], output: String = "/dev/null") throws -> Int32 {
        let file = SharedDescriptor(open(output, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600))
        return try withExtendedLifetime(file) {
            try spawn(
                [Lab.program("sc-checkpoint"), "archive"] + arguments + ["--archive", scratch.archivePath], environment: nil, in: nil,
                standard: (-1, file.raw, 2), passing: [], listenPID: false)
        }
    }

    private func wait(_ pid: Int32) -> Int32 {
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0, errno == EINTR {}
        return status
    }

    /// Nanoseconds that a command takes when nobody disturbs it.
    private func duration(_ arguments: [String]) throws -> UInt64 {
        let start = monotonicNanoseconds()
        #expect(wait(try self.start(arguments)) == 0)
        return monotonicNanoseconds() - start
    }

    private func ids() throws -> Set<String> {
        Set(try Archive(scratch.archivePath).list(ArchiveFilter()).entries.map { String($0.name.prefix(12)) })
    }

    @Test func `kill -9 at random moments of add`() throws {
        func images(_ round: Int) throws -> [String] {
            try (0..<20).map { scratch.write("\(round)-\($0).sci", try Sample.image([Sample.session($0, sent: Sample.noise(20_000))])) }
        }
        let whole = try duration(["add"] + images(-1))
        var committed = try ids()
        var interrupted = 0
        for round in 0..<Self.kills {
            let output = "\(scratch.path)/output"
            let pid = try start(["add"] + images(round), output: output)
            usleep(UInt32.random(in: 0...UInt32(whole / 1000)))
            kill(pid, SIGKILL)
            if wait(pid) & 0x7f == SIGKILL { interrupted += 1 }
            // Whatever it has said is in the archive; more may be.
            for line in (readText(output) ?? "").split(separator: "\n") where line.utf8.count > 12 { committed.insert(String(line.prefix(12))) }
            let archive = try Archive(scratch.archivePath)
            let findings = try archive.verify()
            #expect(findings.problems.isEmpty && findings.foreign.isEmpty, "round \(round): \(findings)")
            let found = try ids()
            #expect(committed.isSubset(of: found), "round \(round): lost \(committed.subtracting(found))")
            committed = found
            // With an index that nobody has read since, too.
            if round.isMultiple(of: 3) { unlink("\(scratch.archivePath)/index") }
        }
        #expect(interrupted > 0)
        #expect(wait(try start(["add"] + images(-2))) == 0)
        #expect(try Archive(scratch.archivePath).verify().drafts == 0)
        print("add: \(Self.kills) kills, \(interrupted) of them in time; \(committed.count) images, none lost")
    }

    @Test func `kill -9 at random moments of prune`() throws {
        let archive = try scratch.archive()
        var keep = Archive.Details()
        keep.tags = ["keep"]
        func fill(_ count: Int) throws {
            for client in 0..<count { _ = try archive.add([Sample.session(client, sent: Sample.noise(200))], Sample.inventory, Archive.Details()) }
        }
        let kept = Set(try (0..<20).map { String(try archive.add([Sample.session($0)], Sample.inventory, keep).name.prefix(12)) })
        let command = ["prune", "--max-count", "10", "--keep-tag", "keep"]
        try fill(120)
        let whole = try duration(command)
        var interrupted = 0
        for round in 0..<Self.kills {
            try fill(60)
            let newest = Set(
                try archive.list(ArchiveFilter()).entries.filter { $0.tags.isEmpty }.sorted { ($0.addedAt, $0.name) > ($1.addedAt, $1.name) }.prefix(
                    10
                )
                .map { String($0.name.prefix(12)) })
            let pid = try start(command)
            usleep(UInt32.random(in: 0...UInt32(whole / 1000)))
            kill(pid, SIGKILL)
            if wait(pid) & 0x7f == SIGKILL { interrupted += 1 }
            let findings = try archive.verify()
            #expect(findings.problems.isEmpty && findings.foreign.isEmpty, "round \(round): \(findings)")
            let found = try ids()
            #expect(kept.union(newest).isSubset(of: found), "round \(round): lost \(kept.union(newest).subtracting(found))")
        }
        #expect(wait(try start(command)) == 0)
        #expect(try ids().count == 30)
        print("prune: \(Self.kills) kills, \(interrupted) of them in time; nothing lost that was to stay")
    }

    @Test func `several add, list and prune at once`() throws {
        _ = try scratch.archive()
        var children: [Int32] = []
        for writer in 0..<3 {
            let images = try (0..<25).map { scratch.write("w\(writer)-\($0).sci", try Sample.image([Sample.session($0, sent: Sample.noise(3000))])) }
            children.append(try start(["add", "--tag", "w\(writer)"] + images))
        }
        for _ in 0..<4 {
            children.append(try start(["list"]))
            children.append(try start(["prune", "--max-count", "10", "--tag", "w0"]))
        }
        for child in children { #expect(wait(child) == 0) }
        #expect(wait(try start(["prune", "--max-count", "10", "--tag", "w0"])) == 0)
        let archive = try Archive(scratch.archivePath)
        #expect(try archive.verify().problems.isEmpty)
        #expect(try archive.list(ArchiveFilter()).entries.count == 60)
    }
}
