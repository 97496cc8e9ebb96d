// Hands restored sessions to a process that listens on a Unix socket and says yes first.

import CProc
import Glibc
import SCImage

/// The conversation (`AcceptorMessages.swift`): offer, accept or decline; then each session with its descriptors, still silent; ready; go.
/// A receiver that declines, dies or says nothing until the deadline leaves the sessions where they are.
package final class AcceptorHandover: HandoverDriver {
    private let path: String
    private let namespace: NetworkNamespace
    private let fresh: FreshSockets
    private let deadline: Int
    private let user: UInt32?
    private var connection: SharedDescriptor?
    private var pid: Int32 = 0
    private var offers: [SessionOffer] = []
    private var layout: Session?
    private var canRepeat = false

    /// `deadline` is the time in milliseconds that the acceptor has for each answer.
    /// An acceptor that does not run as `user` (SO_PEERCRED) is refused.
    package init(path: String, in namespace: NetworkNamespace, deadline: Int = 5000, user: UInt32? = nil) {
        (self.path, self.namespace, self.deadline, self.user) = (path, namespace, deadline, user)
        fresh = FreshSockets(in: namespace)
    }

    package func prepare(_ offers: [SessionOffer], layout: Session?) throws(CheckpointError) {
        try refuseHeldFlows(offers, in: namespace)
        try fresh.checkFiles(layout)
        (self.offers, self.layout) = (offers, layout)
        let connection = try connect()
        self.connection = connection
        var (uid, gid): (UInt32, UInt32) = (0, 0)
        _ = cproc_peer_credentials(connection.raw, &pid, &uid, &gid)
        if let user, uid != user {
            throw CheckpointError(
                "the acceptor at \(path) is not the one of the policy", why: "it runs as user \(uid), not \(user)", errno: EACCES,
                advice: "Correct services.NAME.accept in the policy, or who listens there")
        }
        let flows = offers.map { ["local": $0.flow.service.description, "peer": $0.flow.client.description, "kind": "tcp"] }
        try send(
            AcceptorRequest(
                type: "offer", flows: flows, names: layout?.deliveries.map(\.name), state_bytes: offers.reduce(0) { $0 + $1.stateBytes },
                states: layout.flatMap { layout in layout.states.map { zip(layout.processes, $0).map(AcceptorRequest.State.init) } },
                state_version: offers.first.flatMap { $0.stateVersion == 0 ? nil : $0.stateVersion }))
        canRepeat = try expect("accept", "to the offer").repeats ?? false
    }

    private func connect() throws(CheckpointError) -> SharedDescriptor {
        for type in [SOCK_SEQPACKET, SOCK_STREAM] {
            if let connection = connectedUnix(path, type: Int32(type.rawValue)) { return connection }
            if errno != EPROTOTYPE { break }
        }
        throw CheckpointError(
            "cannot reach the acceptor at \(path)", result: Int(-errno),
            advice: "Start the receiving process first; it has to listen on that Unix socket")
    }

    /// An acceptor waits for as many sessions as it was offered, so it is asked anew for those that are left.
    package func withdraw(_ flows: Set<Flow>) throws(CheckpointError) {
        try? send(AcceptorRequest(type: "cancel"))
        connection = nil
        try prepare(offers.filter { !flows.contains($0.flow) }, layout: layout)
    }

    package func rebuild(_ session: Session) throws(CheckpointError) {
        if !canRepeat { try session.requireNoRepetition("the acceptor at \(path)") }
        try fresh.rebuild(session)
    }

    package func consent() throws(CheckpointError) {
        for entry in fresh.sessions {
            var descriptors = FreshSockets.delivered(entry.session, entry.sockets.map(\.raw) + entry.locals.descriptors)
            let state = entry.session.state
            let repeated = entry.session.adapter?.repetition.flatMap { $0.hasOutput ? $0.output : nil } ?? []
            let parts = (entry.session.adapter?.partRepetitions ?? []).filter(\.repetition.hasOutput)
            let bytes = state + repeated + parts.flatMap(\.repetition.output)
            let file = bytes.isEmpty ? nil : try makeStateFile(bytes)
            if let file { descriptors.append(file.raw) }
            let channels = entry.session.deliveries.map { AcceptorChannel($0, of: entry.session) }
            try withExtendedLifetime(file) { () throws(CheckpointError) in
                try send(
                    AcceptorRequest(
                        type: "session", id: entry.session.id.description, channels: channels, state_bytes: state.count,
                        states: entry.session.states.map { zip(entry.session.processes, $0).map(AcceptorRequest.State.init) },
                        state_version: entry.session.adapter?.stateVersion, repeat_bytes: repeated.isEmpty ? nil : repeated.count,
                        repeats: parts.isEmpty
                            ? nil : parts.map { .init(process: $0.part, name: $0.name, bytes: $0.repetition.output.count) }),
                    descriptors: descriptors)
            }
        }
        try expect("ready", "after the sessions")
    }

    package func confirm() throws(CheckpointError) {
        guard let connection else { return }
        let events = cproc_poll(connection.raw, Int16(POLLIN), 0)
        guard events <= 0 else {
            throw CheckpointError(
                "the acceptor at \(path) has gone", why: "it closed the connection after it was ready", errno: ECONNRESET,
                advice: "The session stays where it was")
        }
    }

    package func activate() throws(CheckpointError) { try fresh.activate() }

    /// An acceptor that has ended since it said ready has read nothing, so its successor on the same path may have the sessions just as well.
    package func deliver() throws(CheckpointError) -> Int32 {
        let deadline = Deadline(milliseconds: self.deadline)
        while true {
            do throws(CheckpointError) {
                try send(AcceptorRequest(type: "go"))
                // Whoever closes before it is told to go has gone; what it sends later nobody waits for.
                return pid
            } catch {
                guard !deadline.hasPassed else { throw error }
                pause(microseconds: 5000)
                try? offerAgain()
            }
        }
    }

    private func offerAgain() throws(CheckpointError) {
        try prepare(offers, layout: layout)
        try consent()
    }

    package func cleanUp() { fresh.register(pid: pid) }

    package func discard() {
        try? send(AcceptorRequest(type: "cancel"))
        connection = nil
        fresh.discard()
    }

    package var record: HandoverRecord {
        var record = HandoverRecord(.into, [path])
        record.pid = pid
        return record
    }
    package var processesToStop: [TargetProcess] { [] }
    package var rebuiltSessions: [Session] { fresh.sessions.map(\.session) }
    package var keepsakes: [Int32] { fresh.connections + [connection?.raw].compactMap { $0 } }
    package var isLive: Bool { fresh.isLive }

    private func send(_ request: AcceptorRequest, descriptors: [Int32] = []) throws(CheckpointError) {
        guard let connection else { return }
        let line = request.line
        let count = try check(
            cproc_send_fds(connection.raw, line, line.count, descriptors, Int32(descriptors.count)), "cannot speak to the acceptor at \(path)",
            advice: "It has closed the connection")
        var sent = Int(count)
        while sent < line.count {
            let more = line.withUnsafeBytes { Glibc.send(connection.raw, $0.baseAddress! + sent, line.count - sent, Int32(MSG_NOSIGNAL)) }
            guard more > 0 else { throw CheckpointError("cannot speak to the acceptor at \(path)", result: Int(-errno)) }
            sent += more
        }
    }

    @discardableResult
    private func expect(_ wanted: String, _ moment: String) throws(CheckpointError) -> AcceptorReply {
        guard let connection else { throw CheckpointError("the acceptor at \(path) has gone", why: "not connected", errno: ENOTCONN) }
        let deadline = Deadline(milliseconds: self.deadline)
        var line: [UInt8] = []
        while line.last != UInt8(ascii: "\n") {
            guard cproc_poll(connection.raw, Int16(POLLIN), deadline.remainingMilliseconds) > 0 else {
                throw CheckpointError(
                    "the acceptor at \(path) did not answer \(moment)", why: "no reply after \(self.deadline) ms", errno: ETIMEDOUT,
                    advice: "The session stays where it was")
            }
            var buffer = [UInt8](repeating: 0, count: 4096)
            let count = recv(connection.raw, &buffer, buffer.count, 0)
            guard count > 0, line.count < 65536 else {
                throw CheckpointError(
                    "the acceptor at \(path) ended the conversation \(moment)", why: "connection closed", errno: ECONNRESET,
                    advice: "The session stays where it was")
            }
            line += buffer.prefix(count)
            // A message of a SEQPACKET socket is whole, with or without its newline.
            if AcceptorReply(line) != nil { break }
        }
        guard let reply = AcceptorReply(line), reply.type == wanted else {
            let reason = AcceptorReply(line).map { $0.reason ?? "it answered \"\($0.type)\"" } ?? "its answer is no JSON object with a \"type\""
            throw CheckpointError(
                "the acceptor at \(path) declined \(moment)", why: reason, errno: ECONNREFUSED, advice: "The session stays where it was")
        }
        if let other = reply.pid, other > 0 { pid = other }
        return reply
    }
}
