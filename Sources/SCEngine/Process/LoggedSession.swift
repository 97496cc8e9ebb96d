// A session whose server cannot be asked: what its shared memory says of it, made into a state by the kernel's own counters.

import Glibc
import SCImage

/// What a process keeps of one channel of a session (sc_memory.h). The kernel counts for itself, so what the server managed to note before it was killed does
/// not matter, but for the proof that nobody read or wrote past the library.
package struct LoggedChannel: Sendable {
    package enum Intent: Sendable, Equatable { case none, receives(UInt64), sends(UInt64) }
    package enum Kind: Sendable { case tcp, stream, messages }

    package var kind = Kind.tcp
    /// The server's number for it, and what it calls it.
    package var fd: Int32 = -1
    package var role = ""
    /// TCP: the kernel's counters minus the positions; nil: nothing was read or written since the session came.
    package var base: (input: UInt64, output: UInt64)?
    /// Other kinds: the bytes that waited in it when it came to the process, and the process's position in its output then.
    package var arrived: (queued: UInt64, output: UInt64) = (0, 0)
    /// The positions at the export.
    package var exported: (input: UInt64, output: UInt64) = (0, 0)
    /// Without a log only a session that stands exactly at its export can go on.
    package var hasLog = false
    /// The library's own positions.
    package var noted: (input: UInt64, output: UInt64) = (0, 0)
    package var intent = Intent.none
    /// Input was read after the log had been full.
    package var hasGap = false
    /// Where `output` begins, and how much lies between the export and that, with its hash.
    package var literalStart: UInt64 = 0
    package var hashed: UInt64 = 0
    package var hash: UInt64 = 0
    /// Of messages each stands behind its length.
    package var input: [UInt8] = []
    package var output: [UInt8] = []

    package init() {}

    /// How far a call that was under way may have moved a position beyond the noted one.
    var most: (input: UInt64, output: UInt64) {
        switch intent {
        case .none: (0, 0)
        case .receives(let most): (most, 0)
        case .sends(let most): (0, most)
        }
    }

    /// What a successor is told of it, with the input that lies before it again, when so many bytes were read and written in all (positions).
    func resolve(input read: UInt64, output written: UInt64) throws(CheckpointError) -> (input: [[UInt8]], repetition: Repetition?) {
        guard hasLog else {
            guard read == exported.input, written == exported.output else {
                throw LoggedSession.lost(
                    "it keeps no log, and was in the middle of a step: \(read &- exported.input) bytes read, \(written &- exported.output) written since its last export"
                )
            }
            return ([], nil)
        }
        guard !hasGap else { throw LoggedSession.lost("its log was full before the last export") }
        guard read >= exported.input, written >= literalStart, let input = prefix(of: input, read - exported.input, isNoted: read == noted.input),
            let literal = prefix(of: output, written - literalStart, isNoted: true)
        else { throw LoggedSession.lost("its log does not reach as far as the kernel's counters") }
        // Output stands in the memory with the lengths of its messages before the kernel gets it; the last input may have come without its own.
        let repetition = Repetition(
            input: read - exported.input, hashed: hashed, hash: hash, literal: kind == .messages ? framed(literal) : literal.flatMap(\.self))
        return (input, repetition.hasOutput || repetition.input > 0 ? repetition : nil)
    }

    /// The first `count` bytes, as messages where there are such; nil when there are not so many, or a message would be cut.
    private func prefix(of bytes: [UInt8], _ count: UInt64, isNoted: Bool) -> [[UInt8]]? {
        guard count > 0 else { return [] }
        guard kind == .messages else { return count <= bytes.count ? [Array(bytes.prefix(Int(count)))] : nil }
        var messages: [[UInt8]] = []
        var (left, place) = (count, 0)
        while left > 0 {
            guard place + 4 <= bytes.count else { return nil }
            // One whose length was not noted is the last.
            let isLast = !isNoted && UInt64(messages.reduce(0) { $0 + $1.count }) == noted.input &- exported.input
            let length = isLast ? left : value(bytes[place..<place + 4])
            guard length > 0, length <= left, length <= UInt64(bytes.count - place - 4) else { return nil }
            messages.append(Array(bytes[place + 4..<place + 4 + Int(length)]))
            (left, place) = (left - length, place + 4 + Int(length))
        }
        return messages
    }

    private func framed(_ messages: [[UInt8]]) -> [UInt8] { messages.flatMap { littleEndian(UInt64($0.count)).prefix(4) + $0 } }
}

/// The memory of one session, or of one process's part of it.
package struct LoggedSession: Sendable {
    package var state: [UInt8] = []
    package var stateVersion: UInt32 = 0
    package var channels: [LoggedChannel] = []
    /// The kernel's counters of its connection when the server had died: nothing has changed them since, but that a socket which was rebuilt after a failed
    /// move counts anew.
    package var final: (read: UInt64, written: UInt64)?

    package init() {}

    /// What a successor begins with, of a session with one connection, when the kernel has counted so many bytes of data as read and written. Throws when it
    /// cannot be proved.
    package func resolve(read: UInt64, written: UInt64) throws(CheckpointError) -> ParkedSession {
        guard let channel = channels.first, channels.count == 1 else { throw Self.lost("it has several channels") }
        let (input, repetition) = try resolve(channel, read: read, written: written)
        var parked = ParkedSession(state: state, stateVersion: stateVersion, role: channel.role)
        (parked.input, parked.repetition) = (input, repetition)
        return parked
    }

    /// The same for one connection of several channels.
    func resolve(_ channel: LoggedChannel, read: UInt64, written: UInt64) throws(CheckpointError) -> (input: [UInt8], repetition: Repetition?) {
        let (read, written) = final ?? (read, written)
        let input = channel.base.map { read &- $0.input } ?? channel.exported.input
        let output = channel.base.map { written &- $0.output } ?? (channel.hasLog ? channel.noted.output : channel.exported.output)
        // Between two calls of the library its positions are the kernel's; during one, the kernel is ahead by what the call may move.
        if channel.hasLog, channel.base != nil {
            guard input &- channel.noted.input <= channel.most.input, output &- channel.noted.output <= channel.most.output else {
                throw Self.lost(
                    "its socket was read or written without the log: the kernel counts \(input) bytes read and \(output) written, the log \(channel.noted.input) and \(channel.noted.output)"
                )
            }
        }
        let resolved = try channel.resolve(input: input, output: output)
        return (resolved.input.flatMap(\.self), resolved.repetition)
    }

    package static func lost(_ why: String) -> CheckpointError {
        CheckpointError("a session cannot be taken back to its last export", why: why, errno: ENODATA, advice: "It can move when its server parks it")
    }
}
