// What programs of this host say to the agent: one JSON object each way, over a Unix socket of packets.

import CProc
import FoundationEssentials
import Glibc
import SCEngine

/// A request. `run`: start this program with the arguments in the directory, with the three descriptors that come along as its standard streams, and
/// tell its exit status; only root may. `status`: what the agent is doing. `metrics`: the text that the metrics address serves.
struct LocalRequest: Codable {
    var verb: String
    var arguments: [String]?
    var directory: String?
}

/// The answer.
package struct LocalAnswer: Codable, Sendable {
    package var error: String?
    package var status: Int32?
    package var text: String?
    package var agent: AgentStatus?
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

    package var pid: Int32
    package var listen: String?
    package var policy: String
    package var work: [Work]
    package var connections: Int
}

/// A program's way to the agent of its host.
package enum AgentClient {
    package static var path: String { "\(StateDirectory.path)/agent.sock" }

    /// nil: no agent runs here.
    private static func connect() -> SharedDescriptor? {
        let raw = socket(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard raw >= 0 else { return nil }
        let connection = SharedDescriptor(raw)
        return connectUnix(raw, path) ? connection : nil
    }

    /// Asks one thing; nil: no agent runs here.
    private static func ask(_ request: LocalRequest, descriptors: [Int32] = []) throws(CheckpointError) -> LocalAnswer? {
        guard let connection = connect() else { return nil }
        let bytes = Array((try? JSONEncoder().encode(request)) ?? Data())
        try check(cproc_send_fds(connection.raw, bytes, bytes.count, descriptors, Int32(descriptors.count)), "cannot speak to the agent at \(path)")
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        let count = recv(connection.raw, &buffer, buffer.count, 0)
        guard count > 0, let answer = try? JSONDecoder().decode(LocalAnswer.self, from: Data(buffer.prefix(count))) else {
            throw CheckpointError(
                "the agent at \(path) ended the conversation", why: "connection closed", errno: ECONNRESET,
                advice: "What was under way goes on without it; see sc-checkpoint sessions", outcome: .needsRecovery)
        }
        if let error = answer.error {
            throw CheckpointError("the agent refuses", why: error, errno: EACCES, advice: "Run as root, or name the user in the agent's local_users")
        }
        return answer
    }

    /// Has the agent run this program with its keys; the exit status. nil: no agent runs here.
    package static func run(_ arguments: [String]) throws(CheckpointError) -> Int32? {
        var directory = [CChar](repeating: 0, count: 4096)
        guard getcwd(&directory, directory.count) != nil else { throw CheckpointError("cannot tell the working directory", result: Int(-errno)) }
        let path = String(decoding: directory.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return try ask(LocalRequest(verb: "run", arguments: arguments, directory: path), descriptors: [0, 1, 2])?.status
    }

    package static func status() throws(CheckpointError) -> AgentStatus? { try ask(LocalRequest(verb: "status"))?.agent }

    package static func metrics() throws(CheckpointError) -> String? { try ask(LocalRequest(verb: "metrics"))?.text }
}
