// What has to be repeated, as the memory of the "adapter" of a session whose servers exported its state themselves.

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

/// What one process of several has to repeat on one of its channels.
package struct PartRepetition: Sendable, Equatable {
    package var part: String
    /// The channel's name in the process.
    package var name: String
    package var repetition: Repetition
}

func littleEndian(_ value: UInt64) -> [UInt8] { (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * UInt64($0))) } }

func value(_ bytes: ArraySlice<UInt8>) -> UInt64 { bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) } }

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

    /// Of a session of several processes: only what has to be repeated, by process and channel.
    static let partsName = "libsc-parts"

    /// nil: nothing has to be repeated.
    init?(_ repetitions: [PartRepetition]) {
        guard !repetitions.isEmpty else { return nil }
        self.init(name: Self.partsName, bytes: [])
        for entry in repetitions {
            for text in [entry.part, entry.name] { bytes += [UInt8(text.utf8.count)] + Array(text.utf8) }
            bytes += littleEndian(entry.repetition.input) + entry.repetition.output
        }
    }

    /// Empty also when it makes no sense: then the sessions' states are not believed either, as nothing is repeated and everything compared.
    package var partRepetitions: [PartRepetition] {
        guard name == Self.partsName else { return [] }
        var rest = bytes[...]
        func take(_ count: UInt64) -> ArraySlice<UInt8>? {
            guard count <= rest.count else { return nil }
            defer { rest = rest.dropFirst(Int(count)) }
            return rest.prefix(Int(count))
        }
        func number() -> UInt64? { take(8).map(value) }
        func text() -> String? { take(1)?.first.flatMap { take(UInt64($0)) }.map { String(decoding: $0, as: UTF8.self) } }
        var result: [PartRepetition] = []
        while !rest.isEmpty {
            guard let part = text(), let name = text(), let input = number(), let hashed = number(), let hash = number(),
                let literal = number().flatMap({ take($0) })
            else { return [] }
            result.append(
                PartRepetition(part: part, name: name, repetition: Repetition(input: input, hashed: hashed, hash: hash, literal: Array(literal))))
        }
        return result
    }

    /// What the next move may know of it.
    var lasting: AdapterState {
        name == Self.serverName
            ? AdapterState(name: name, bytes: Array(bytes.prefix(4))) : name == Self.partsName ? AdapterState(name: name, bytes: []) : self
    }
}

extension Session {
    /// The connections as they were at their source: what was put back for a successor taken away again.
    var untouched: [TCPChannel] {
        var channels = channels
        for (index, count) in putBack {
            channels[index].receiveQueue.removeFirst(min(channels[index].receiveQueue.count, Int(clamping: count)))
            channels[index].bytesRead &+= count
        }
        return channels
    }

    /// Bytes at the heads of connections' receive queues that a former process had read.
    private var putBack: [(channel: Int, count: UInt64)] {
        if let repetition = adapter?.repetition { return [(0, repetition.input)] }
        return (adapter?.partRepetitions ?? []).compactMap { entry in
            let descriptors = processes.first { $0.role == entry.part }?.descriptors ?? []
            guard let channel = descriptors.first(where: { $0.name == entry.name })?.channel, channel < channels.count else { return nil }
            return (channel, entry.repetition.input)
        }
    }

    /// Refuses a session that needs a server with a log, where there is none.
    func requireNoRepetition(_ receiver: String) throws(CheckpointError) {
        let repetitions = [adapter?.repetition].compactMap(\.self) + (adapter?.partRepetitions ?? []).map(\.repetition)
        guard repetitions.contains(where: \.hasOutput) else { return }
        throw CheckpointError(
            "\(receiver) cannot go on with \(Flow(channels[0]))", why: "its output since the last export would reach the client twice",
            errno: EOPNOTSUPP,
            advice: "Give it to a server of its service that keeps a log (sc_log)")
    }
}
