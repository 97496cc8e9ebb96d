// A session whose server cannot be asked: what its shared memory says of it, made into a state by the kernel's own counters.

import Glibc
import SCImage

/// What a successor has to be told beside the state: input that lies before it again, and output that its client has already.
package struct Repetition: Sendable, Equatable {
    /// Bytes at the head of the receive queue that the former process had read.
    package var input: UInt64
    /// So many bytes of output, of which only the hash is known (sc_memory_hash), …
    package var hashed: UInt64
    package var hash: UInt64
    /// … and those after them.
    package var literal: [UInt8]

    package init(input: UInt64, hashed: UInt64, hash: UInt64, literal: [UInt8]) {
        (self.input, self.hashed, self.hash, self.literal) = (input, hashed, hash, literal)
    }

    package var hasOutput: Bool { hashed > 0 || !literal.isEmpty }

    /// As sc_memory_repeat stands on the wire and in files: hashed, hash, the literal's length, the literal.
    package var output: [UInt8] { littleEndian(hashed) + littleEndian(hash) + littleEndian(UInt64(literal.count)) + literal }
}

/// The memory of one session (sc_memory.h). The kernel counts for itself, so what the server managed to note before it was killed does not matter, but for
/// the proof that nobody read or wrote past the library.
package struct LoggedSession: Sendable {
    package enum Intent: Sendable, Equatable { case none, receives(UInt64), sends(UInt64) }

    package var role = ""
    package var state: [UInt8] = []
    package var stateVersion: UInt32 = 0
    /// The kernel's counters minus the positions; nil: nothing was read or written since the session came.
    package var base: (input: UInt64, output: UInt64)?
    /// The kernel's counters when the server had died: nothing has changed them since, but that a socket which was rebuilt after a failed move counts anew.
    package var final: (read: UInt64, written: UInt64)?
    /// The positions at the export.
    package var exported: (input: UInt64, output: UInt64) = (0, 0)
    /// Without a log only a session that stands exactly at its export can go on.
    package var hasLog = false
    /// The library's own positions.
    package var noted: (input: UInt64, output: UInt64) = (0, 0)
    package var intent = Intent.none
    /// Input was read after the log had been full.
    package var hasGap = false
    /// Where `output` begins, and the hash of what lies between the export and that.
    package var literalStart: UInt64 = 0
    package var hash: UInt64 = 0
    package var input: [UInt8] = []
    package var output: [UInt8] = []

    package init() {}

    /// What a successor begins with, when the kernel has counted so many bytes of data as read and written. Throws when it cannot be proved.
    package func resolve(read: UInt64, written: UInt64) throws(CheckpointError) -> ParkedSession {
        let (read, written) = final ?? (read, written)
        let input = base.map { read &- $0.input } ?? exported.input
        let output = base.map { written &- $0.output } ?? (hasLog ? noted.output : exported.output)
        guard hasLog else {
            guard input == exported.input, output == exported.output else {
                throw Self.lost(
                    "it keeps no log, and was in the middle of a step: \(input &- exported.input) bytes read, \(output &- exported.output) written since its last export"
                )
            }
            return ParkedSession(state: state, stateVersion: stateVersion, role: role)
        }
        try check(input, output)
        guard !hasGap else { throw Self.lost("its log was full before the last export") }
        let consumed = input &- exported.input
        guard consumed <= UInt64(self.input.count), output >= literalStart, output - literalStart <= UInt64(self.output.count),
            literalStart >= exported.output
        else { throw Self.lost("its log does not reach as far as the kernel's counters") }
        var parked = ParkedSession(state: state, stateVersion: stateVersion, role: role)
        parked.input = Array(self.input.prefix(Int(consumed)))
        let repetition = Repetition(
            input: consumed, hashed: literalStart - exported.output, hash: hash, literal: Array(self.output.prefix(Int(output - literalStart))))
        if repetition.hasOutput || consumed > 0 { parked.repetition = repetition }
        return parked
    }

    /// Between two calls of the library its positions are the kernel's; during one, the kernel is ahead by what the call may move.
    private func check(_ input: UInt64, _ output: UInt64) throws(CheckpointError) {
        var (mostIn, mostOut): (UInt64, UInt64) = (0, 0)
        switch intent {
        case .none: break
        case .receives(let most): mostIn = most
        case .sends(let most): mostOut = most
        }
        guard base != nil else { return }
        guard input &- noted.input <= mostIn, output &- noted.output <= mostOut else {
            throw Self.lost(
                "its socket was read or written without the log: the kernel counts \(input) bytes read and \(output) written, the log \(noted.input) and \(noted.output)"
            )
        }
    }

    package static func lost(_ why: String) -> CheckpointError {
        CheckpointError("a session cannot be taken back to its last export", why: why, errno: ENODATA, advice: "It can move when its server parks it")
    }
}

private func littleEndian(_ value: UInt64) -> [UInt8] { (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * UInt64($0))) } }

private func value(_ bytes: ArraySlice<UInt8>) -> UInt64 { bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) } }

extension AdapterState {
    /// The "adapter" of a session whose server exported its state itself: it remembers the state's version, and what has to be repeated.
    package static let serverName = "libsc"

    init(_ parked: ParkedSession) {
        self.init(name: Self.serverName, bytes: (0..<4).map { UInt8(truncatingIfNeeded: parked.stateVersion >> (8 * $0)) })
        if let repetition = parked.repetition { bytes += littleEndian(repetition.input) + repetition.output }
    }

    /// The version of an exported state; nil when the state was not exported by a server.
    package var stateVersion: UInt32? {
        guard name == Self.serverName, bytes.count >= 4 else { return nil }
        return UInt32(value(bytes.prefix(4)))
    }

    /// nil: nothing has to be repeated.
    package var repetition: Repetition? {
        guard stateVersion != nil, bytes.count >= 36 else { return nil }
        return Repetition(
            input: value(bytes[4..<12]), hashed: value(bytes[12..<20]), hash: value(bytes[20..<28]), literal: Array(bytes.dropFirst(36)))
    }

    /// What the next move may know of it.
    var lasting: AdapterState {
        stateVersion == nil ? self : AdapterState(name: name, bytes: Array(bytes.prefix(4)))
    }
}

extension Session {
    /// The connections as they were at their source: what was put back for a successor taken away again.
    var untouched: [TCPChannel] {
        var channels = channels
        let count = adapter?.repetition?.input ?? 0
        channels[0].receiveQueue.removeFirst(min(channels[0].receiveQueue.count, Int(clamping: count)))
        channels[0].bytesRead &+= count
        return channels
    }

    /// Refuses a session that needs a server with a log, where there is none.
    func requireNoRepetition(_ receiver: String) throws(CheckpointError) {
        guard adapter?.repetition?.hasOutput == true else { return }
        throw CheckpointError(
            "\(receiver) cannot go on with \(Flow(channels[0]))", why: "its output since the last export would reach the client twice",
            errno: EOPNOTSUPP,
            advice: "Give it to a server of its service that keeps a log (sc_log)")
    }
}
