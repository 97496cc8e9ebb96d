// The agent's side of a mover that wants sessions parked: which it knows, then park, then gone or resume.

import CProc
import Glibc
import SCEngine

/// One mover's connection, from its question on. It ends with the connection; a mover that ends without a word leaves it to the sockets to tell what
/// has become of the sessions.
final class ParkConversation {
    let connection: SharedDescriptor
    private unowned let servers: Servers
    private var continuations: [(inode: UInt64, continuation: RegisteredContinuation)] = []
    private var answers: [UInt64: (ParkAnswer, [UInt8])] = [:]
    private var deadline: Deadline?

    init(_ connection: SharedDescriptor, in servers: Servers) { (self.connection, self.servers) = (connection, servers) }

    var isWaiting: Bool { deadline != nil }

    /// Which of these sockets belong to registered servers.
    func find(_ inodes: [UInt64]) -> LocalAnswer {
        continuations = inodes.compactMap { inode in servers.continuation(of: inode).map { (inode, $0) } }
        var answer = LocalAnswer()
        answer.known = continuations.map(\.inode)
        return answer
    }

    func receive() throws(CheckpointError) {
        guard let request = try LocalService.request(on: connection) else {
            throw CheckpointError("the mover has ended the conversation", why: "connection closed", errno: ECONNRESET)
        }
        switch request.verb {
        case "park": park(within: request.deadline ?? 1000)
        case "gone":
            for entry in continuations where isParked(entry.continuation) { entry.continuation.server.gone(entry.continuation) }
        case "resume": resumeAll()
        default: throw CheckpointError("the mover lost its place in the conversation", why: "it said \"\(request.verb)\"", errno: EPROTO)
        }
    }

    private func isParked(_ continuation: RegisteredContinuation) -> Bool {
        if case .parked(let mover) = continuation.state { mover === self } else { false }
    }

    private func isAsked(_ continuation: RegisteredContinuation) -> Bool {
        if case .asked(let mover) = continuation.state { mover === self } else { false }
    }

    private func resumeAll() {
        deadline = nil
        for entry in continuations where isParked(entry.continuation) || isAsked(entry.continuation) {
            entry.continuation.server.resume(entry.continuation)
        }
    }

    private func park(within milliseconds: Int) {
        answers = [:]
        deadline = Deadline(milliseconds: milliseconds)
        for (inode, continuation) in continuations {
            guard servers.continuation(of: inode) === continuation, case .running = continuation.state else {
                return fail("its session has ended, or is moving already")
            }
            // Several channels of one session would need several captures; that is for groups.
            guard continuation.channels.count == 1 else { return fail("the session has \(continuation.channels.count) channels, one can be moved") }
            guard continuation.server.park(continuation, for: self, within: milliseconds) else {
                return fail("process \(continuation.server.pid) does not read what it is told")
            }
        }
    }

    func parked(_ continuation: RegisteredContinuation, state: [UInt8], version: UInt32) {
        guard let channel = continuation.channels.values.first else { return fail("its session has no channel any longer") }
        answers[channel.inode] = (
            ParkAnswer(socket: channel.inode, role: channel.role, state_version: version, state_bytes: state.count), state
        )
        guard answers.count == continuations.count else { return }
        deadline = nil
        var answer = LocalAnswer()
        answer.parked = answers.values.map(\.0)
        let states = answers.values.flatMap(\.1)
        guard let file = memoryFile(states) else { return fail("there is no memory for its state") }
        LocalService.send(answer, on: connection, descriptors: [file.raw])
    }

    private func memoryFile(_ bytes: [UInt8]) -> SharedDescriptor? {
        let raw = cproc_memfd("sc-states")
        guard raw >= 0 else { return nil }
        let file = SharedDescriptor(raw)
        return bytes.withUnsafeBytes { pwrite(raw, $0.baseAddress, $0.count, 0) } == bytes.count ? file : nil
    }

    func failed(_ continuation: RegisteredContinuation, _ why: String) { fail(why) }

    func ended(_ continuation: RegisteredContinuation) {
        if isWaiting { fail("its session has ended") }
    }

    private func fail(_ why: String) {
        guard isWaiting else { return }
        resumeAll()
        LocalService.send(LocalAnswer(error: why), on: connection)
    }

    /// Called now and then: gives up what takes too long.
    func look() {
        guard let deadline, deadline.hasPassed else { return }
        let late = continuations.first { isAsked($0.continuation) }?.continuation.server.pid ?? 0
        fail("process \(late) did not park in time")
    }

    /// The connection has ended.
    func abandon() {
        for entry in continuations {
            if isAsked(entry.continuation) { entry.continuation.server.resume(entry.continuation) }
            if isParked(entry.continuation) { servers.watch(entry.continuation, isMoverDead: true) }
        }
    }
}
