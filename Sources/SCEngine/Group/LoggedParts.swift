// A session of several processes of which some did not park: what their memory says, completed by what the others wrote and read.
//
// Pipes and Unix sockets do not count. But what was written into one, less what was read from it, is what is in it; so of two ends whose library kept count
// the one that was in the middle of a call can be told by the other, and both are proved when neither was.

import Glibc
import SCImage

/// Completes the session of a declared group.
package struct LoggedParts {
    private var session: Session
    private let group: SessionGroup
    /// The kernel's counters of each connection.
    private let counted: [(read: UInt64, written: UInt64)]
    /// Bytes in each local channel when everything stood still.
    private let waiting: [UInt64]
    private var logged: [String: LoggedSession] = [:]
    private var repetitions: [PartRepetition] = []

    package init(_ session: Session, _ group: SessionGroup, _ counted: [(read: UInt64, written: UInt64)]) {
        (self.session, self.group, self.counted) = (session, group, counted)
        waiting = session.locals.map { UInt64($0.queue.count) }
    }

    /// `parts`: what those said that parked. `logged`: what the memory says of the `late` ones, and of the others how far their channels came.
    package mutating func complete(
        parts: [ParkedSession.PartState], late: Set<String>, _ logged: [String: LoggedSession]
    ) throws(CheckpointError) -> Session {
        self.logged = logged
        for index in session.processes.indices {
            let process = session.processes[index]
            let part: ParkedSession.PartState
            if late.contains(process.role) {
                guard let memory = logged[process.role] else { throw LoggedSession.lost("process \(process.role) keeps nothing of it") }
                part = .init(name: process.role, state: memory.state, stateVersion: memory.stateVersion)
                for descriptor in process.descriptors { try resolve(descriptor, of: process.role, memory) }
            } else if let parked = parts.first(where: { $0.name == process.role }) {
                part = parked
            } else {
                continue
            }
            (session.processes[index].stateLength, session.processes[index].stateVersion) = (part.state.count, part.stateVersion)
            session.state += part.state
        }
        if !repetitions.isEmpty { session.adapter = AdapterState(repetitions) }
        return session
    }

    private mutating func resolve(_ descriptor: SessionDescriptor, of part: String, _ memory: LoggedSession) throws(CheckpointError) {
        do throws(CheckpointError) {
            guard let channel = memory.channels.first(where: { $0.fd == descriptor.fd && $0.hasLog }) else {
                throw LoggedSession.lost("it keeps no log of it")
            }
            let found: (input: [[UInt8]], repetition: Repetition?)
            if descriptor.channel < session.channels.count {
                let (input, repetition) = try memory.resolve(
                    channel, read: counted[descriptor.channel].read, written: counted[descriptor.channel].written)
                found = ([input], repetition)
                session.channels[descriptor.channel].receiveQueue = input + session.channels[descriptor.channel].receiveQueue
                session.channels[descriptor.channel].bytesRead &-= UInt64(input.count)
            } else {
                found = try resolveLocal(channel, descriptor.channel - session.channels.count)
                putBack(found.input, descriptor.channel - session.channels.count)
            }
            guard let repetition = found.repetition else { return }
            repetitions.append(PartRepetition(part: part, name: descriptor.name, repetition: repetition))
        } catch {
            throw error.during("cannot tell where \(part) stands with \(descriptor.name)")
        }
    }

    // MARK: Pipes and Unix sockets

    private func resolveLocal(_ channel: LoggedChannel, _ index: Int) throws(CheckpointError) -> (input: [[UInt8]], repetition: Repetition?) {
        let end = group.ends[index]
        var (read, written) = channel.noted
        if end.isReader, end.kind == .unix || end.kind == .pipe {
            let balance = Balance(writer: other(end, isWriter: true), reader: channel, queued: queued(index))
            read &+= try balance.solved().read
        }
        if end.isWriter || end.kind == .unix {
            let reader = otherIndex(end, isWriter: false)
            let balance = Balance(writer: channel, reader: other(end, isWriter: false), queued: reader.map(queued) ?? queued(index))
            written &+= try balance.solved().written
        }
        return try channel.resolve(input: read, output: written)
    }

    private func otherIndex(_ end: SessionGroup.End, isWriter: Bool) -> Int? {
        if end.kind == .unix { return end.peer }
        return group.ends.firstIndex {
            $0.kind == .pipe && $0.inode == end.inode && (isWriter ? $0.isWriter : $0.isReader) && $0.holders[0] != end.holders[0]
        }
    }

    /// What the memory of the process at the other end says of it; nil when that keeps no log.
    private func other(_ end: SessionGroup.End, isWriter: Bool) -> LoggedChannel? {
        guard let index = otherIndex(end, isWriter: isWriter), let holder = group.ends[index].holders.first else { return nil }
        return logged[group.members[holder.member].role]?.channels.first { $0.fd == holder.fd && $0.hasLog }
    }

    /// Bytes that wait to be read at this end. Those of a pipe are with its first end.
    private func queued(_ index: Int) -> UInt64 { waiting[queueIndex(index)] }

    private func queueIndex(_ index: Int) -> Int {
        guard case .pipe(let pipe) = session.locals[index].detail else { return index }
        return session.locals.firstIndex { if case .pipe(let other) = $0.detail { other.pipe == pipe.pipe } else { false } } ?? index
    }

    /// What the former process had read lies before its successor again.
    private mutating func putBack(_ input: [[UInt8]], _ index: Int) {
        guard !input.isEmpty else { return }
        let place = queueIndex(index)
        session.locals[place].queue = input.flatMap(\.self) + session.locals[place].queue
        guard case .pipe(let own) = session.locals[index].detail else {
            session.locals[place].messages = input.map { QueuedMessage(length: $0.count) } + session.locals[place].messages
            return
        }
        // A pipe is one message; it may need to be a larger one.
        session.locals[place].messages = [QueuedMessage(length: session.locals[place].queue.count)]
        for other in session.locals.indices {
            guard case .pipe(var pipe) = session.locals[other].detail, pipe.pipe == own.pipe else { continue }
            while pipe.capacity < session.locals[place].queue.count { pipe.capacity *= 2 }
            session.locals[other].detail = .pipe(pipe)
        }
    }
}

/// One direction of a channel between two processes.
private struct Balance {
    /// nil: that end keeps no log.
    let writer, reader: LoggedChannel?
    /// Bytes that are in it.
    let queued: UInt64

    /// How far the calls under way have moved the positions beyond the noted ones.
    func solved() throws(CheckpointError) -> (written: UInt64, read: UInt64) {
        let (mostWritten, mostRead) = (writer?.most.output ?? 0, reader?.most.input ?? 0)
        guard let writer, let reader else {
            guard mostWritten == 0, mostRead == 0 else {
                throw LoggedSession.lost("a call was under way, and the other end keeps no log that could tell")
            }
            return (0, 0)
        }
        // written - read, as the queue has it, less what is noted.
        let noted = reader.arrived.queued &+ (writer.noted.output &- writer.arrived.output) &- reader.noted.input
        let difference = Int64(bitPattern: queued &- noted)
        // Of two calls under way only the utmost tells.
        if difference >= 0, mostRead == 0 || UInt64(difference) == mostWritten, UInt64(difference) <= mostWritten { return (UInt64(difference), 0) }
        if difference <= 0, mostWritten == 0 || UInt64(-difference) == mostRead, UInt64(-difference) <= mostRead { return (0, UInt64(-difference)) }
        guard mostWritten == 0 || mostRead == 0 else {
            throw LoggedSession.lost("calls were under way at both ends, and nothing tells how far they came")
        }
        throw LoggedSession.lost("it was read or written without the log: \(queued) bytes are in it, \(noted) were noted")
    }
}
