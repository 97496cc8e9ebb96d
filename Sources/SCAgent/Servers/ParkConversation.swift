// The agent's side of a mover that wants sessions parked: which it knows, then park, then gone or resume; and leave, for some of them.

import CProc
import Glibc
import SCEngine

/// One mover's connection, from its question on. It ends with the connection; a mover that ends without a word leaves it to the sockets to tell what
/// has become of the sessions.
final class ParkConversation {
    let connection: SharedDescriptor
    private unowned let servers: Servers
    private var continuations: [(inode: UInt64, continuation: RegisteredContinuation)] = []
    /// The most bytes of each one's state when the mover asked: the target hears of so many.
    private var rooms: [ObjectIdentifier: Int] = [:]
    private var answers: [ObjectIdentifier: (ParkAnswer, [UInt8])] = [:]
    private var deadline: Deadline?
    /// Those that did not park.
    private var late: Set<ObjectIdentifier> = []
    /// Those that do not park, and without which the mover goes on; nil: it goes on with all of them or none.
    private var refusals: [ParkRefusal]?
    /// What goes with the answer of `find`.
    private(set) var memories: [SharedDescriptor] = []

    init(_ connection: SharedDescriptor, in servers: Servers) { (self.connection, self.servers) = (connection, servers) }

    var isWaiting: Bool { deadline != nil }

    /// Which of these sockets belong to registered servers.
    func find(_ inodes: [UInt64]) -> LocalAnswer {
        let known = inodes.compactMap { inode in servers.continuation(of: inode).map { (inode: inode, continuation: $0) } }
        continuations = []
        for entry in known where !continuations.contains(where: { $0.continuation === entry.continuation }) { continuations.append(entry) }
        var answer = LocalAnswer()
        answer.known = known.map(\.inode)
        answer.versions = known.map(\.continuation.server.stateVersion)
        answer.rooms = known.map { servers.parts(of: $0.continuation).reduce(0) { $0 + $1.room } }
        answer.pinned = known.compactMap { inode, continuation in
            servers.pin(of: continuation).map {
                let peer = continuation.connection?.peer ?? "-"
                servers.log("session-stays", ["service": continuation.server.service ?? "-", "peer": peer, "reason": $0])
                return PinAnswer(socket: inode, reason: $0)
            }
        }
        var seen: Set<GroupName> = []
        answer.groups = known.compactMap { inode, continuation in
            guard let part = continuation.part, seen.insert(part.group).inserted else { return nil }
            let parts = servers.parts(of: continuation)
            continuations += parts.filter { part in !continuations.contains { $0.continuation === part } }.map { (inode, $0) }
            return GroupAnswer(
                socket: inode,
                parts: parts.map { part in
                    .init(
                        name: part.part?.name ?? "", pid: part.holder, version: part.server.stateVersion,
                        descriptors: part.channels.sorted { $0.key < $1.key }.map { .init(fd: part.number(of: $0.value), role: $0.value.role) })
                })
        }
        for entry in continuations { rooms[ObjectIdentifier(entry.continuation)] = entry.continuation.room }
        (answer.logged, memories) = findMemories()
        return answer
    }

    /// Those of which something is left when their servers do not answer, and where.
    private func findMemories() -> ([LoggedAnswer], [SharedDescriptor]) {
        var files: [SharedDescriptor] = []
        var places: [ObjectIdentifier: Int] = [:]
        let answers = continuations.compactMap { inode, continuation -> LoggedAnswer? in
            guard let memory = continuation.server.memory, continuation.canBeSeized,
                places[ObjectIdentifier(continuation.server)] != nil || files.count < Int(CPROC_MAX_FDS)
            else { return nil }
            let place = places[ObjectIdentifier(continuation.server)] ?? files.count
            if place == files.count { files.append(memory.file) }
            places[ObjectIdentifier(continuation.server)] = place
            let channels = continuation.channels.map {
                LoggedAnswer.Channel(index: $0.key, fd: continuation.number(of: $0.value), role: $0.value.role)
            }
            return LoggedAnswer(
                socket: inode, part: continuation.part?.name, channels: channels.sorted { $0.index < $1.index }, number: continuation.number,
                file: place, isOrphan: continuation.server.isDead, read: continuation.counted?.read, written: continuation.counted?.written)
        }
        return (answers, files)
    }

    func receive() throws(CheckpointError) {
        guard let request = try LocalService.request(on: connection) else {
            throw CheckpointError("the mover has ended the conversation", why: "connection closed", errno: ECONNRESET)
        }
        switch request.verb {
        case "park": park(within: request.deadline ?? 1000, partly: request.partly ?? false)
        case "leave":
            let sockets = Set(request.sockets ?? [])
            for entry in continuations where sockets.contains(entry.inode) { forget(entry.continuation) }
            conclude()
        case "gone":
            for entry in continuations where isParked(entry.continuation) { entry.continuation.server.gone(entry.continuation) }
        case "resume": resumeAll()
        default: throw CheckpointError("the mover lost its place in the conversation", why: "it said \"\(request.verb)\"", errno: EPROTO)
        }
    }

    private func isParked(_ continuation: RegisteredContinuation) -> Bool {
        switch continuation.state {
        case .parked(let mover), .seized(let mover): mover === self
        default: false
        }
    }

    private func isAsked(_ continuation: RegisteredContinuation) -> Bool {
        if case .asked(let mover) = continuation.state { mover === self } else { false }
    }

    private func resume(_ continuation: RegisteredContinuation) {
        if isParked(continuation) || isAsked(continuation) { continuation.server.resume(continuation) }
    }

    private func resumeAll() {
        deadline = nil
        for entry in continuations { resume(entry.continuation) }
    }

    /// It stays, and is no longer this conversation's.
    private func forget(_ continuation: RegisteredContinuation) {
        resume(continuation)
        answers[ObjectIdentifier(continuation)] = nil
        late.remove(ObjectIdentifier(continuation))
        continuations.removeAll { $0.continuation === continuation }
    }

    private func park(within milliseconds: Int, partly: Bool) {
        (answers, late, refusals) = ([:], [], partly ? [] : nil)
        deadline = Deadline(milliseconds: milliseconds)
        for entry in continuations where isWaiting {
            if let why = ask(entry.continuation, entry.inode, within: milliseconds) { refuse(entry.continuation, why) }
        }
        // Nobody waits for the dead.
        for entry in continuations where entry.continuation.server.isDead { seize(entry.continuation, "its server has died") }
        conclude()
    }

    /// Why not; nil: it has been asked.
    private func ask(_ continuation: RegisteredContinuation, _ inode: UInt64, within milliseconds: Int) -> String? {
        guard servers.continuation(of: inode).map({ servers.parts(of: $0).contains { $0 === continuation } }) ?? false,
            case .running = continuation.state
        else { return "its session has ended, or is moving already" }
        guard continuation.isAlone || continuation.part != nil else {
            return "the session has \(continuation.channels.count) channels, and joins no group (sc_join)"
        }
        // Also when it was pinned since the mover asked which there are.
        if let pin = servers.pin(of: continuation) { return pin }
        guard !continuation.server.isDead else {
            continuation.state = .asked(self)
            return nil
        }
        return continuation.server.park(continuation, for: self, within: milliseconds)
            ? nil : "process \(continuation.server.pid) does not read what it is told"
    }

    /// It does not park, and cannot be taken: the others go on without it, or none does.
    private func refuse(_ continuation: RegisteredContinuation, _ why: String) {
        guard isWaiting, let entry = continuations.first(where: { $0.continuation === continuation }) else { return }
        guard refusals != nil, continuation.part == nil else { return fail(why) }
        refusals?.append(ParkRefusal(socket: entry.inode, reason: why))
        forget(continuation)
    }

    /// It does not park; with its memory the mover goes on.
    private func seize(_ continuation: RegisteredContinuation, _ why: String) {
        guard isWaiting else { return }
        guard continuation.canBeSeized else {
            refuse(continuation, why)
            return conclude()
        }
        continuation.state = .seized(self)
        late.insert(ObjectIdentifier(continuation))
        conclude()
    }

    func parked(_ continuation: RegisteredContinuation, state: [UInt8], version: UInt32) {
        guard let entry = continuations.first(where: { $0.continuation === continuation }), let channel = continuation.channels.values.first else {
            refuse(continuation, "its session has no channel any longer")
            return conclude()
        }
        let room = rooms[ObjectIdentifier(continuation)] ?? 0
        guard state.count <= room else {
            let why = "its state has grown to \(state.count) bytes, and \(room) were offered; try again"
            continuation.refusal = (why, monotonicNanoseconds())
            refuse(continuation, why)
            return conclude()
        }
        answers[ObjectIdentifier(continuation)] = (
            ParkAnswer(
                socket: entry.inode, part: continuation.part?.name, role: channel.role, state_version: version, state_bytes: state.count), state
        )
        conclude()
    }

    /// When all have answered, or are known not to.
    private func conclude() {
        guard isWaiting, answers.count + late.count == continuations.count else { return }
        deadline = nil
        var answer = LocalAnswer()
        answer.refused = refusals
        answer.late = continuations.filter { late.contains(ObjectIdentifier($0.continuation)) }.map {
            LateAnswer(socket: $0.inode, part: $0.continuation.part?.name)
        }
        let inOrder = continuations.compactMap { answers[ObjectIdentifier($0.continuation)] }
        answer.parked = inOrder.map(\.0)
        let states = inOrder.flatMap(\.1)
        guard let file = try? makeStateFile(states) else { return fail("there is no memory for its state") }
        LocalService.send(answer, on: connection, descriptors: [file.raw])
    }

    /// `isPassing`: it will be able to later.
    func failed(_ continuation: RegisteredContinuation, _ why: String, isPassing: Bool) {
        guard isWaiting else { return }
        if isPassing { return seize(continuation, why) }
        refuse(continuation, why)
        conclude()
    }

    /// Its server has died, and will not answer.
    func died(_ continuation: RegisteredContinuation) { seize(continuation, "its server has died") }

    func ended(_ continuation: RegisteredContinuation) {
        guard isWaiting else { return }
        refuse(continuation, "its session has ended")
        conclude()
    }

    private func fail(_ why: String) {
        guard isWaiting else { return }
        resumeAll()
        LocalService.send(LocalAnswer(error: why), on: connection)
    }

    /// Called now and then: gives up what takes too long.
    func look() {
        guard let deadline, deadline.hasPassed else { return }
        for entry in continuations where isAsked(entry.continuation) && isWaiting {
            entry.continuation.refusal = ("it did not park in time", monotonicNanoseconds())
            seize(entry.continuation, "process \(entry.continuation.server.pid) did not park in time")
        }
    }

    /// The connection has ended.
    func abandon() {
        for entry in continuations {
            if isAsked(entry.continuation) { entry.continuation.server.resume(entry.continuation) }
            if isParked(entry.continuation) { servers.watch(entry.continuation, isMoverDead: true) }
        }
    }
}
