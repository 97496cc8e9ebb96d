// A mover's side of parking: it asks the agent of its host, which asks the servers.

import CProc
import Glibc
import SCEngine

/// The sessions of a move whose servers take part.
package final class ServerParking: SessionParking {
    package let sockets: Set<UInt64>
    package let stateVersions: [UInt64: UInt32]
    package let groups: [DeclaredGroup]
    package let pinned: [UInt64: String]
    package let stateRooms: [UInt64: Int]
    private let connection: SharedDescriptor
    private let deadline: Int
    private let memories: [(entry: LoggedAnswer, memory: ServerMemory)]
    package var orphanCount: Int { memories.count { $0.entry.isOrphan } }
    package var seizable: Set<ServerPart> { Set(memories.map { ServerPart(socket: $0.entry.socket, name: $0.entry.part) }) }

    /// nil: no agent runs here, or it knows none of the sockets. `deadline` is the time in milliseconds that the servers have to park.
    package static func find(_ sockets: Set<UInt64>, deadline: Int) throws(CheckpointError) -> (any SessionParking)? {
        guard let connection = AgentClient.connect() else { return nil }
        var request = LocalRequest(verb: "sockets")
        request.sockets = Array(sockets)
        let (answer, files) = try AgentClient.converse(connection, request)
        guard let known = answer.known, !known.isEmpty else { return nil }
        let memories = (answer.logged ?? []).filter { files.indices.contains($0.file) }.map { ($0, ServerMemory(file: files[$0.file])) }
        let groups = (answer.groups ?? []).map { group in
            DeclaredGroup(
                socket: group.socket,
                parts: group.parts.map { part in
                    .init(name: part.name, pid: part.pid, descriptors: part.descriptors.map { ($0.fd, $0.role) }, stateVersion: part.version)
                })
        }
        let versions = Dictionary(zip(known, answer.versions ?? []), uniquingKeysWith: { first, _ in first })
        let pinned = Dictionary((answer.pinned ?? []).map { ($0.socket, $0.reason) }, uniquingKeysWith: { first, _ in first })
        let rooms = Dictionary(zip(known, answer.rooms ?? []), uniquingKeysWith: { first, _ in first })
        return ServerParking(connection, Set(known), versions, groups, pinned, rooms, memories, deadline)
    }

    private init(
        _ connection: SharedDescriptor, _ sockets: Set<UInt64>, _ stateVersions: [UInt64: UInt32], _ groups: [DeclaredGroup],
        _ pinned: [UInt64: String], _ stateRooms: [UInt64: Int], _ memories: [(LoggedAnswer, ServerMemory)], _ deadline: Int
    ) {
        (self.connection, self.sockets, self.stateVersions, self.groups) = (connection, sockets, stateVersions, groups)
        (self.pinned, self.stateRooms, self.memories, self.deadline) = (pinned, stateRooms, memories, deadline)
    }

    package func seize(_ late: Set<ServerPart>) throws(CheckpointError) -> [ServerPart: LoggedSession] {
        var result: [ServerPart: LoggedSession] = [:]
        let sockets = Set(late.map(\.socket))
        for (entry, memory) in memories where sockets.contains(entry.socket) {
            let part = ServerPart(socket: entry.socket, name: entry.part)
            let channels = entry.channels.map { ServerMemory.Channel(index: $0.index, fd: $0.fd, role: $0.role) }
            var session = try memory.session(entry.number, channels, isParked: !late.contains(part))
            if let read = entry.read, let written = entry.written { session.final = (read, written) }
            result[part] = session
        }
        return result
    }

    package func park(partly: Bool) throws(CheckpointError) -> ParkOutcome {
        var request = LocalRequest(verb: "park")
        (request.deadline, request.partly) = (deadline, partly)
        let answer: LocalAnswer
        let files: [SharedDescriptor]
        do throws(CheckpointError) {
            (answer, files) = try AgentClient.converse(connection, request)
        } catch {
            throw .notParked(error.why)
        }
        var result = ParkOutcome()
        for refusal in answer.refused ?? [] { result.refused[refusal.socket] = refusal.reason }
        result.late = Set((answer.late ?? []).map { ServerPart(socket: $0.socket, name: $0.part) })
        var offset = 0
        for parked in answer.parked ?? [] {
            // The target was told how much may come, and the agent leaves out what has grown.
            var state = [UInt8](repeating: 0, count: min(max(parked.state_bytes, 0), stateRooms[parked.socket] ?? 0))
            guard state.count == parked.state_bytes,
                state.isEmpty || (files.first.map { pread($0.raw, &state, state.count, off_t(offset)) } ?? 0) == state.count
            else {
                throw CheckpointError("cannot read the state of a parked session", why: "the agent sent something else than it said", errno: EBADMSG)
            }
            offset += state.count
            guard let part = parked.part else {
                result.sessions[parked.socket] = ParkedSession(state: state, stateVersion: parked.state_version, role: parked.role)
                continue
            }
            result.sessions[parked.socket, default: ParkedSession(state: [], stateVersion: 0, role: parked.role)].parts.append(
                .init(name: part, state: state, stateVersion: parked.state_version))
        }
        return result
    }

    package func leave(_ sockets: Set<UInt64>) { AgentClient.tell(connection, LocalRequest(verb: "leave", sockets: Array(sockets))) }
    package func resume() { AgentClient.tell(connection, LocalRequest(verb: "resume")) }
    package func gone() { AgentClient.tell(connection, LocalRequest(verb: "gone")) }
}
