// Answers the programs of this host.

import CProc
import FoundationEssentials
import Glibc
import SCEngine

struct LocalService {
    private let agent: Agent

    init(_ agent: Agent) { self.agent = agent }

    /// The answer to the one request of a connection; nil when it comes later, with a command's end.
    func answer(_ connection: SharedDescriptor) throws(CheckpointError) -> LocalAnswer? {
        var (pid, uid, gid): (Int32, UInt32, UInt32) = (0, 0, 0)
        try check(cproc_peer_credentials(connection.raw, &pid, &uid, &gid), "cannot tell who asks")
        var buffer = [UInt8](repeating: 0, count: 65536)
        var descriptors = [Int32](repeating: -1, count: 3)
        var count: Int32 = 3
        let length = try check(
            cproc_recv_fds(connection.raw, &buffer, buffer.count, &descriptors, &count), "cannot read the request of process \(pid)")
        let passed = descriptors.prefix(Int(count)).map { SharedDescriptor($0) }
        guard uid == 0 || uid == geteuid() || agent.policy.admits(user: uid) else {
            throw CheckpointError(
                "process \(pid) of user \(uid) may not speak to the agent", why: "local_users does not name the user", errno: EACCES)
        }
        guard length > 0, let request = try? JSONDecoder().decode(LocalRequest.self, from: Data(buffer.prefix(Int(length)))) else {
            throw CheckpointError("the request of process \(pid) cannot be understood", why: "it is no JSON object with a \"verb\"", errno: EBADMSG)
        }
        switch request.verb {
        case "status": return LocalAnswer(agent: agent.status)
        case "metrics": return LocalAnswer(text: agent.metrics.text)
        case "sockets":
            guard uid == 0 || uid == geteuid() else {
                throw CheckpointError("user \(uid) may not park sessions", why: "it takes the rights of root", errno: EPERM)
            }
            let mover = agent.servers.begin(connection)
            let answer = mover.find(request.sockets ?? [])
            LocalService.send(answer, on: connection, descriptors: mover.memories.map(\.raw))
            return nil
        case "orphans":
            return LocalAnswer(orphans: OrphanAnswer(agent: getpid(), descriptors: agent.servers.orphans.descriptors(of: request.service ?? "")))
        case "registered":
            let bytes = Array((try? JSONEncoder().encode(agent.servers.registered)) ?? Data())
            let file = try makeStateFile(bytes)
            LocalService.send(LocalAnswer(registered: bytes.count), on: connection, descriptors: [file.raw])
            return nil
        case "run":
            try run(request, passed, connection, uid)
            return nil
        default:
            throw CheckpointError(
                "the agent knows no \"\(request.verb)\"", why: "status, metrics, sockets, orphans, registered and run exist", errno: EINVAL)
        }
    }

    /// A command that needs the agent's keys. It does what its user could do with this program anyway, so only root's are run.
    private func run(_ request: LocalRequest, _ passed: [SharedDescriptor], _ connection: SharedDescriptor, _ uid: UInt32) throws(CheckpointError) {
        guard uid == 0 || uid == geteuid() else {
            throw CheckpointError("user \(uid) may not move sessions", why: "it takes the rights of root", errno: EPERM, advice: "Run as root")
        }
        guard let arguments = request.arguments, let verb = arguments.first, ["migrate", "drain"].contains(verb), passed.count == 3 else {
            throw CheckpointError("the request is incomplete", why: "a migrate or a drain with three descriptors is expected", errno: EBADMSG)
        }
        let worker = try Worker(
            .command, arguments, standard: (passed[0].raw, passed[1].raw, passed[2].raw), passing: [], client: connection,
            environment: agent.workerEnvironment + ["SC_WORKER=1", "SC_WORKING_DIRECTORY=\(request.directory ?? "/")"])
        withExtendedLifetime(passed) { agent.workers.append(worker) }
    }

    /// A mover's next request; nil: it has ended the conversation.
    static func request(on connection: SharedDescriptor) throws(CheckpointError) -> LocalRequest? {
        var buffer = [UInt8](repeating: 0, count: 65536)
        let count = recv(connection.raw, &buffer, buffer.count, Int32(MSG_DONTWAIT))
        guard count > 0 else { return nil }
        return try? JSONDecoder().decode(LocalRequest.self, from: Data(buffer.prefix(count)))
    }

    static func send(_ answer: LocalAnswer, on connection: SharedDescriptor, descriptors: [Int32] = []) {
        let bytes = Array((try? JSONEncoder().encode(answer)) ?? Data())
        _ = cproc_send_fds(connection.raw, bytes, bytes.count, descriptors, Int32(descriptors.count))
    }
}
