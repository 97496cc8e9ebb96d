// What this host's files say of sessions: moves under way or in doubt, sessions that are held, that came from elsewhere, that are passed on.

import CProc
import Glibc
import SCImage

/// One session that this host knows of, and why.
package struct KnownSession: Sendable {
    package enum Kind: String, Sendable, CaseIterable {
        /// A journal names it: its move is under way, in doubt, or ended without the other end's word.
        case move
        /// `snapshot --take` holds it.
        case held
        /// It was restored here and lives.
        case restored
        /// It lives elsewhere, and this host passes its packets on.
        case forwarded
        /// A server that takes part has it; it was never moved.
        case served
    }

    package var kind: Kind
    package var flow: FlowText
    /// The id of the session, or of its move; nil: it has none yet.
    package var id: String?
    /// Seconds since it became so.
    package var age: Int
    /// The process that has it here.
    package var pid: Int32?
    package var command: String?
    /// The other end: a target's address, a source's name.
    package var other: String?
    /// Moves: this host's end of it, and how it stands.
    package var role: JournalRole?
    package var state: String?
    /// What its server says, when that takes part.
    package var serving: Serving?

    package struct Serving: Sendable {
        /// The name of the service.
        package var server: String
        /// Why it cannot move; nil: it can.
        package var pin: String?
        /// Why it was not parked when that was tried last, and how many seconds ago.
        package var refusal: String?
        package var refused: Int?

        package init(server: String, pin: String?, refusal: String?, refused: Int?) {
            (self.server, self.pin, self.refusal, self.refused) = (server, pin, refusal, refused)
        }
    }
}

extension KnownSession {
    /// All of them. Throws when a directory is there and cannot be read.
    package static func list() throws(CheckpointError) -> [KnownSession] {
        let state = StateDirectory.persistent
        for directory in [Journal.directory, "\(state)/forwards", "\(StateDirectory.path)/held", "\(StateDirectory.path)/sessions"] {
            try requireReadable(directory)
        }
        return try moves() + held() + restored() + forwarded(state)
    }

    /// A session that only its server knows.
    package static func served(client: String, service: String, pid: Int32, age: Int, _ serving: Serving) -> KnownSession {
        var session = KnownSession(kind: .served, flow: FlowText(client: client, service: service), age: age)
        (session.pid, session.command, session.serving) = (pid, TargetProcess.name(of: pid), serving)
        return session
    }

    /// One that does not exist holds nothing. A missing right to search a parent looks like a missing right to read.
    private static func requireReadable(_ directory: String) throws(CheckpointError) {
        guard access(directory, R_OK | X_OK) != 0, errno != ENOENT else { return }
        throw CheckpointError("cannot read \(directory)", result: Int(-errno), advice: "Run as root, or as the user who moves sessions")
    }

    private static func moves() throws(CheckpointError) -> [KnownSession] {
        var result: [KnownSession] = []
        for (migration, role) in Journal.list() {
            // One that ended since it was listed.
            guard let content = Journal.read(migration, role) else { continue }
            let (flows, other, begun): ([FlowText], String, Int)
            switch role {
            case .source:
                let entry = try content.sourceEntry().entry
                (flows, other, begun) = (entry.flows, entry.target.description, entry.writer.time)
            case .target:
                let entry = try content.targetEntry()
                (flows, other, begun) = (entry.flows, entry.source, entry.writer.time)
            }
            let age = max(0, time(nil) - begun)
            let state = text(content.standing)
            result += flows.map {
                KnownSession(
                    kind: .move, flow: $0, id: migration.description, age: age, pid: nil, command: nil, other: other, role: role,
                    state: state)
            }
        }
        return result
    }

    private static func text(_ standing: Journal.Content.Standing) -> String {
        switch standing {
        case .underWay: "under way"
        case .lost: "lost"
        case .active: "active"
        case .inDoubt: "in doubt"
        case .undecided: "to be given back"
        }
    }

    private static func held() -> [KnownSession] {
        let folder = "\(StateDirectory.path)/held"
        return names(in: folder).compactMap { name in
            guard let id = SessionID(name), let record = HoldRecord.find(id) else { return nil }
            return KnownSession(
                kind: .held, flow: FlowText(record.flow), id: name, age: fileAge("\(folder)/\(name)"), pid: record.pid,
                command: TargetProcess.name(of: record.pid))
        }
    }

    private static func restored() -> [KnownSession] {
        let folder = "\(StateDirectory.path)/sessions"
        var sockets: [Int32: [UInt64: Flow]] = [:]
        return names(in: folder).compactMap { name in
            guard let entry = SessionRegistry.read(name) else { return nil }
            let known = sockets[entry.pid] ?? flows(of: entry.pid)
            sockets[entry.pid] = known
            // Its process has closed it, or has ended.
            guard let flow = known[entry.inode] else { return nil }
            return KnownSession(
                kind: .restored, flow: FlowText(flow), id: entry.id.description, age: fileAge("\(folder)/\(name)"), pid: entry.pid,
                command: TargetProcess.name(of: entry.pid))
        }
    }

    private static func forwarded(_ state: String) -> [KnownSession] {
        ForwardRecord.list().flatMap { record in
            record.flows.map {
                KnownSession(
                    kind: .forwarded, flow: $0, id: record.migration, age: fileAge("\(state)/forwards/\(record.migration)"),
                    other: record.target.description)
            }
        }
    }

    /// The connections of a process, by the inodes of their sockets.
    private static func flows(of pid: Int32) -> [UInt64: Flow] {
        guard let process = try? TargetProcess(pid: pid), let numbers = try? process.descriptors() else { return [:] }
        var result: [UInt64: Flow] = [:]
        for fd in numbers {
            guard process.link(of: fd)?.hasPrefix("socket:[") == true, let copy = try? process.duplicate(fd) else { continue }
            let view = SocketView(copy.raw)
            guard let inode = inode(of: copy.raw), let local = view.local, let peer = view.peer else { continue }
            result[inode] = Flow(client: peer, service: local)
        }
        return result
    }

    private static func names(in directory: String) -> [String] {
        (entryNames(of: directory) ?? []).filter { !$0.hasPrefix(".") }.sorted()
    }
}
