// The journal of one end of one move: a small file that says, after a crash, who owns the sessions and what is left to do.
//
//   line 1      CRC {"migration":…}       what was about to be touched, written before anything is
//   line 2 …    CRC {"state":…}           one line for each step that matters, in order
//
// A line counts only when it is whole and its CRC32C is right, so a torn write reads as not written. The file is made larger than it will grow, so that
// a full disk is met before the sessions are touched. A writer holds a record lock (fcntl(2)), which the kernel drops when it dies: that is how
// a move under way is told from one whose mover has died.

import CProc
import FoundationEssentials
import Glibc
import SCImage

/// Which end of a move a journal belongs to.
package enum JournalRole: String, Codable, Sendable, CaseIterable { case source, target }

/// What happened after the first line. The order of an end's states is that of its cases.
package enum JournalState: String, Codable, Sendable {
    /// Source: the steering driver is set up; its record is in the details.
    case steered
    /// Source: the sockets are ended here before the decision, since the target is in the same namespace; their sessions are with the keeper.
    case letGo
    /// These of its sessions do not move, and their former owner has them already (source: `sockets`, by inode; target: `flows`, by number). Any number of times,
    /// before the decision. `running`: the source has continued its processes.
    case withdrawn
    /// Source, on disk before the target is told: only the target can give the sessions back from here on.
    case decided
    /// Target: these processes are about to be stopped.
    case stopping
    /// Target, on disk before the first packet: the sessions can no longer be given back.
    case activating
    /// Target: the receiving process (detail `pid`) has them.
    case active
    /// Target: they ended while it owned them.
    case lost
}

/// The journal file that this process writes.
package final class Journal {
    package let migration: MigrationID
    package let role: JournalRole
    private let file: OwnedDescriptor
    private let path: String
    private var offset: Int

    /// Room for the lines after the first one.
    private static let reserve = 16384

    /// Begins a journal; its first line is on disk when this returns. Whatever fails here (a full disk, a missing right) is found before anything of a
    /// session was touched.
    package init(_ migration: MigrationID, _ role: JournalRole, _ entry: some Encodable) throws(CheckpointError) {
        (self.migration, self.role) = (migration, role)
        let line = try Self.line(entry)
        // Under another name until it is locked and whole: a recovery that looked now would take it for that of a dead process.
        let unborn = "\(Self.directory)/.\(migration).\(role.rawValue)"
        path = Self.path(migration, role)
        try Self.makeDirectory()
        var raw = open(unborn, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        // Another move may have ended meanwhile, and removed the directory as its last.
        for _ in 0..<100 where raw < 0 && errno == ENOENT {
            try Self.makeDirectory()
            raw = open(unborn, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        }
        file = OwnedDescriptor(try check(raw < 0 ? -errno : raw, "cannot begin the journal \(path)"))
        offset = line.count
        do throws(CheckpointError) {
            try lock(raw)
            // Zeros that are on disk already are overwritten in place: within a blackout, fdatasync then waits for no file system's own journal.
            let whole = line + [UInt8](repeating: 0, count: Self.reserve)
            guard pwrite(raw, whole, whole.count, 0) == whole.count, fsync(raw) == 0 else {
                throw CheckpointError("cannot write the journal \(path)", result: Int(-errno))
            }
            guard link(unborn, path) == 0 else { throw CheckpointError("cannot begin the journal \(path)", result: Int(-errno)) }
            unlink(unborn)
            do throws(CheckpointError) { try Self.syncDirectory() } catch {
                unlink(path)
                throw error
            }
        } catch {
            unlink(unborn)
            throw error
        }
    }

    /// Takes over the journal of an end that died.
    private init(adopting file: consuming OwnedDescriptor, _ migration: MigrationID, _ role: JournalRole, _ path: String, offset: Int) {
        (self.migration, self.role, self.path, self.offset) = (migration, role, path, offset)
        self.file = file
    }

    private func lock(_ fd: Int32) throws(CheckpointError) {
        guard Self.tryLock(fd) else { throw CheckpointError("cannot lock the journal \(path)", result: Int(-errno)) }
    }

    private static func tryLock(_ fd: Int32) -> Bool {
        var lock = flock()
        lock.l_type = Int16(F_WRLCK)
        lock.l_whence = Int16(SEEK_SET)
        return fcntl(fd, F_SETLK, &lock) == 0
    }

    /// Adds a state. `durably`: it is on disk when this returns (fdatasync(2)); otherwise it survives the death of this process only.
    package func note(_ state: JournalState, _ details: [String: String] = [:], durably: Bool) throws(CheckpointError) {
        let line = try Self.line(JournalLine(state: state, details: details))
        guard pwrite(file.raw, line, line.count, off_t(offset)) == line.count, !durably || fdatasync(file.raw) == 0 else {
            throw CheckpointError("cannot write the journal \(path)", result: Int(-errno), advice: "The session stays where it is")
        }
        offset += line.count
    }

    /// Seconds since it was last written; 0 after a jump of the clock into the past.
    package var age: Int { fileAge(path) }

    /// The move is over at this end. The removal reaches the disk whenever it does: a journal that comes back after a power failure is one of dead sessions.
    package func remove() {
        unlink(path)
        Self.removeEmptyDirectories()
    }

    // MARK: Files

    package static var directory: String { StateDirectory.persistent + "/journal" }

    private static func path(_ migration: MigrationID, _ role: JournalRole) -> String { "\(directory)/\(migration).\(role.rawValue)" }

    private static func makeDirectory() throws(CheckpointError) {
        for directory in [StateDirectory.persistent, directory] where mkdir(directory, 0o700) != 0 && errno != EEXIST {
            throw CheckpointError("cannot make \(directory)", result: Int(-errno), advice: "Run as root or set SC_STATE_DIR")
        }
    }

    private static func syncDirectory() throws(CheckpointError) {
        let fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard fd >= 0 else { throw CheckpointError("cannot open \(directory)", result: Int(-errno)) }
        defer { close(fd) }
        guard fsync(fd) == 0 else { throw CheckpointError("cannot write \(directory)", result: Int(-errno)) }
    }

    private static func removeEmptyDirectories() {
        rmdir(directory)
        rmdir(StateDirectory.persistent)
    }

    /// Removes what processes that died while they began a journal have left.
    static func sweep() {
        guard let names = entryNames(of: directory) else { return }
        for name in names where name.hasPrefix(".") && fileAge("\(directory)/\(name)") > 60 { unlink("\(directory)/\(name)") }
        removeEmptyDirectories()
    }

    // MARK: Reading

    /// The moves that this host has a journal of.
    package static func list() -> [(migration: MigrationID, role: JournalRole)] {
        var result: [(MigrationID, JournalRole)] = []
        for name in entryNames(of: directory) ?? [] {
            let parts = name.split(separator: ".")
            if parts.count == 2, let id = MigrationID(parts[0]), let role = JournalRole(rawValue: String(parts[1])) { result.append((id, role)) }
        }
        return result.sorted { "\($0)" < "\($1)" }
    }

    /// A move that has not come to its end here, or that a keeper is bringing to it, has this socket at its source.
    package static func isOpen(forSocket inode: UInt64) -> Bool {
        list().contains { migration, role in
            guard role == .source, let content = read(migration, role), let entry = try? content.entry(as: SourceEntry.self) else { return false }
            return entry.sockets.contains { $0.inode == inode } && !content.withdrawn("sockets").contains(inode)
        }
    }

    /// nil: there is no such journal, or its first line never reached the disk, so nothing was touched.
    package static func read(_ migration: MigrationID, _ role: JournalRole) -> Content? {
        guard let bytes = readBytes(path(migration, role)) else { return nil }
        return parse(bytes, migration, role)
    }

    /// Takes over a journal whose writer has died. nil: its writer lives, or there is none to take over.
    package static func adopt(_ migration: MigrationID, _ role: JournalRole) -> (journal: Journal, content: Content)? {
        let path = path(migration, role)
        let raw = open(path, O_RDWR | O_CLOEXEC)
        guard raw >= 0 else { return nil }
        let file = OwnedDescriptor(raw)
        guard tryLock(raw) else { return nil }
        // Another one may have taken it over and removed it meanwhile.
        var (mine, named) = (stat(), stat())
        guard fstat(raw, &mine) == 0, stat(path, &named) == 0, mine.st_ino == named.st_ino else { return nil }
        var bytes = [UInt8](repeating: 0, count: Int(mine.st_size))
        guard pread(raw, &bytes, bytes.count, 0) == bytes.count else { return nil }
        guard let content = parse(bytes, migration, role) else {
            // It died while it wrote the first line.
            unlink(path)
            removeEmptyDirectories()
            return nil
        }
        return (Journal(adopting: file, migration, role, path, offset: content.length), content)
    }

    /// A living process writes this journal.
    package static func isBusy(_ migration: MigrationID, _ role: JournalRole) -> Bool {
        let raw = open(path(migration, role), O_RDWR | O_CLOEXEC)
        guard raw >= 0 else { return false }
        defer { close(raw) }
        var lock = flock()
        lock.l_type = Int16(F_WRLCK)
        return fcntl(raw, F_GETLK, &lock) == 0 && lock.l_type != Int16(F_UNLCK)
    }
}

/// One line after the first.
package struct JournalLine: Codable, Sendable {
    package var state: JournalState
    package var details: [String: String]
}
