// What programs of this host say to the agent: one JSON object each way, over a Unix socket of packets.

import CProc
import FoundationEssentials
import Glibc
import SCEngine

/// A request. `run`: start this program with the arguments in the directory, with the three descriptors that come along as its standard streams, and
/// tell its exit status; only root may. `status`: what the agent is doing. `metrics`: the text that the metrics address serves.
/// `sockets`: which of these belong to servers that take part; on the same connection then `park`, and `gone` or `resume`; only root may. At any time before
/// these, `leave`: some of the sockets stay, and the rest of the conversation is not about them.
/// `orphans`: the sessions whose servers have died, and that wait for another one. `registered`: the sessions of servers that take part; they come in a
/// memory file, since they may be many.
struct LocalRequest: Codable {
    var verb: String
    var arguments: [String]?
    var directory: String?
    /// Inodes.
    var sockets: [UInt64]?
    var service: String?
    /// Milliseconds.
    var deadline: Int?
    /// `park`: those that do not park are named, and the others parked all the same.
    var partly: Bool?
}

/// The answer.
package struct LocalAnswer: Codable, Sendable {
    package var error: String?
    package var status: Int32?
    package var text: String?
    package var agent: AgentStatus?
    var known: [UInt64]?
    /// For each of them the form of the state that its server exports.
    var versions: [UInt32]?
    /// The sessions among them that several servers serve.
    var groups: [GroupAnswer]?
    /// What servers keep of them in memory, for the case that they do not answer. The memory files come along.
    var logged: [LoggedAnswer]?
    /// Servers that did not park in time; what they have can be taken.
    var late: [LateAnswer]?
    /// To `park` with `partly`: those that do not.
    var refused: [ParkRefusal]?
    /// For each of them the most bytes of state that its servers export together.
    var rooms: [Int]?
    /// Those whose servers say that they cannot move.
    var pinned: [PinAnswer]?
    var orphans: OrphanAnswer?
    /// Bytes of the memory file that is an array of `RegisteredSession`.
    var registered: Int?
    /// Their states come in one memory file, in this order.
    var parked: [ParkAnswer]?
}

/// A session that its server has parked.
struct ParkAnswer: Codable, Sendable {
    var socket: UInt64
    /// Of a session of several processes: which of them says this.
    var part: String?
    var role: String
    var state_version: UInt32
    var state_bytes: Int
}

/// A session that stays, and why.
struct ParkRefusal: Codable, Sendable {
    var socket: UInt64
    var reason: String
}

/// A session that cannot move, and why.
struct PinAnswer: Codable, Sendable {
    var socket: UInt64
    var reason: String
}

/// A session of a server that takes part.
package struct RegisteredSession: Codable, Sendable {
    /// The name of the service.
    package var server: String
    /// The process that has registered, or the agent, of a dead one's.
    package var pid: Int32
    /// `IP:PORT` of the client and of the server.
    package var client, service: String
    /// Its inode.
    package var socket: UInt64
    /// Since it became known.
    package var seconds: Int
    /// Why it cannot move.
    package var pin: String?
    /// Why it was not parked when that was tried last, and how many seconds ago.
    package var refusal: String?
    package var refused: Int?
}

/// A session that several servers have joined.
struct GroupAnswer: Codable, Sendable {
    struct Part: Codable, Sendable {
        var name: String
        var pid: Int32
        var version: UInt32
        var descriptors: [Descriptor]
    }

    struct Descriptor: Codable, Sendable {
        var fd: Int32
        var role: String
    }

    var socket: UInt64
    var parts: [Part]
}

/// A server that did not park: of a session of several processes the one that does this part.
struct LateAnswer: Codable, Sendable {
    var socket: UInt64
    var part: String?
}

/// A session in the memory of its server.
struct LoggedAnswer: Codable, Sendable {
    /// `index`: the server's number of the channel; `fd` as in GroupAnswer.
    struct Channel: Codable, Sendable {
        var index: UInt32
        var fd: Int32
        var role: String
    }

    var socket: UInt64
    var part: String?
    var channels: [Channel]
    var number: UInt64
    /// Which of the files that came along.
    var file: Int
    /// There is nobody to be asked, and the kernel's counters were these.
    var isOrphan: Bool
    var read, written: UInt64?
}

/// The agent's own descriptors of sessions without a server.
package struct OrphanAnswer: Codable, Sendable {
    package var agent: Int32
    package var descriptors: [Int32]
}

/// What the agent is doing.
package struct AgentStatus: Codable, Sendable {
    package struct Work: Codable, Sendable {
        package var kind: String
        package var peer: String?
        package var pid: Int32
        package var sessions: Int
        package var seconds: Double
    }

    package struct Server: Codable, Sendable {
        package var service: String
        package var pid: Int32
        package var sessions: Int
        package var accepts: Bool
        /// It has died; its sessions wait for another one.
        package var isDead: Bool
    }

    package var pid: Int32
    package var listen: String?
    package var policy: String
    package var work: [Work]
    package var connections: Int
    /// Servers that have registered by libsc.
    package var servers: [Server]
}

/// A program's way to the agent of its host.
package enum AgentClient {
    package static var path: String { "\(StateDirectory.path)/agent.sock" }

    /// nil: no agent runs here.
    static func connect() -> SharedDescriptor? { connectedUnix(path, type: Int32(SOCK_SEQPACKET.rawValue)) }

    /// Asks one thing; nil: no agent runs here.
    private static func ask(_ request: LocalRequest, descriptors: [Int32] = []) throws(CheckpointError) -> LocalAnswer? {
        guard let connection = connect() else { return nil }
        return try converse(connection, request, descriptors: descriptors).answer
    }

    /// Says something that has no answer.
    static func tell(_ connection: SharedDescriptor, _ request: LocalRequest) {
        let bytes = Array((try? JSONEncoder().encode(request)) ?? Data())
        _ = cproc_send_fds(connection.raw, bytes, bytes.count, nil, 0)
    }

    /// One request and its answer, with the memory files that may come along.
    static func converse(
        _ connection: SharedDescriptor, _ request: LocalRequest, descriptors: [Int32] = []
    ) throws(CheckpointError) -> (answer: LocalAnswer, files: [SharedDescriptor]) {
        let bytes = Array((try? JSONEncoder().encode(request)) ?? Data())
        try check(cproc_send_fds(connection.raw, bytes, bytes.count, descriptors, Int32(descriptors.count)), "cannot speak to the agent at \(path)")
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        var received = [Int32](repeating: -1, count: Int(CPROC_MAX_FDS))
        var number = Int32(received.count)
        let count = Int(cproc_recv_fds(connection.raw, &buffer, buffer.count, &received, &number))
        let files = count >= 0 ? received.prefix(Int(number)).map { SharedDescriptor($0) } : []
        guard count > 0, let answer = try? JSONDecoder().decode(LocalAnswer.self, from: Data(buffer.prefix(count))) else {
            throw CheckpointError(
                "the agent at \(path) ended the conversation", why: "connection closed", errno: ECONNRESET,
                advice: "What was under way goes on without it; see sc-checkpoint sessions", outcome: .needsRecovery)
        }
        if let error = answer.error {
            throw CheckpointError("the agent refuses", why: error, errno: EACCES, advice: "Run as root, or name the user in the agent's local_users")
        }
        return (answer, files)
    }

    /// Has the agent run this program with its keys; the exit status. nil: no agent runs here.
    package static func run(_ arguments: [String]) throws(CheckpointError) -> Int32? {
        var directory = [CChar](repeating: 0, count: 4096)
        guard getcwd(&directory, directory.count) != nil else { throw CheckpointError("cannot tell the working directory", result: Int(-errno)) }
        let path = String(decoding: directory.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return try ask(LocalRequest(verb: "run", arguments: arguments, directory: path), descriptors: [0, 1, 2])?.status
    }

    package static func status() throws(CheckpointError) -> AgentStatus? { try ask(LocalRequest(verb: "status"))?.agent }

    /// Sessions of a service whose servers have died; nil: no agent runs here.
    package static func orphans(of service: String) throws(CheckpointError) -> OrphanAnswer? {
        try ask(LocalRequest(verb: "orphans", service: service))?.orphans
    }

    /// The sessions of servers that take part; nil: no agent runs here.
    package static func registered() throws(CheckpointError) -> [RegisteredSession]? {
        guard let connection = connect() else { return nil }
        let (answer, files) = try converse(connection, LocalRequest(verb: "registered"))
        var bytes = [UInt8](repeating: 0, count: max(0, answer.registered ?? 0))
        guard let file = files.first, pread(file.raw, &bytes, bytes.count, 0) == bytes.count,
            let sessions = try? JSONDecoder().decode([RegisteredSession].self, from: Data(bytes))
        else { throw CheckpointError("cannot read the agent's sessions", why: "it sent less than it said", errno: EBADMSG) }
        return sessions
    }

    package static func metrics() throws(CheckpointError) -> String? { try ask(LocalRequest(verb: "metrics"))?.text }
}
