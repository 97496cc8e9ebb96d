// A mover's side of parking: it asks the agent of its host, which asks the servers.

import CProc
import Glibc
import SCEngine

/// The sessions of a move whose servers take part.
package final class ServerParking: SessionParking {
    package let sockets: Set<UInt64>
    private let connection: SharedDescriptor
    private let deadline: Int

    /// nil: no agent runs here, or it knows none of the sockets. `deadline` is the time in milliseconds that the servers have to park.
    package static func find(_ sockets: Set<UInt64>, deadline: Int) throws(CheckpointError) -> (any SessionParking)? {
        guard let connection = AgentClient.connect() else { return nil }
        var request = LocalRequest(verb: "sockets")
        request.sockets = Array(sockets)
        let (answer, _) = try AgentClient.converse(connection, request)
        guard let known = answer.known, !known.isEmpty else { return nil }
        return ServerParking(connection, Set(known), deadline)
    }

    private init(_ connection: SharedDescriptor, _ sockets: Set<UInt64>, _ deadline: Int) {
        (self.connection, self.sockets, self.deadline) = (connection, sockets, deadline)
    }

    package func park() throws(CheckpointError) -> [UInt64: ParkedSession] {
        var request = LocalRequest(verb: "park")
        request.deadline = deadline
        let answer: LocalAnswer
        let file: SharedDescriptor?
        do throws(CheckpointError) {
            (answer, file) = try AgentClient.converse(connection, request)
        } catch {
            throw CheckpointError(
                "a server does not park its session", why: error.why, errno: EBUSY,
                advice: "The session goes on where it is; --force stops the server instead, and moves the session without its state")
        }
        var result: [UInt64: ParkedSession] = [:]
        var offset = 0
        for parked in answer.parked ?? [] {
            var state = [UInt8](repeating: 0, count: max(0, min(parked.state_bytes, exportedStateLimit)))
            guard state.isEmpty || (file.map { pread($0.raw, &state, state.count, off_t(offset)) } ?? 0) == state.count else {
                throw CheckpointError("cannot read the state of a parked session", why: "the agent sent less than it said", errno: EBADMSG)
            }
            offset += state.count
            result[parked.socket] = ParkedSession(state: state, stateVersion: parked.state_version, role: parked.role)
        }
        return result
    }

    package func resume() { AgentClient.tell(connection, LocalRequest(verb: "resume")) }
    package func gone() { AgentClient.tell(connection, LocalRequest(verb: "gone")) }
}
