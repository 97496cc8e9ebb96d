// What a terminator process is told when it is started, and what it answers: lines of text, since both ends are this program.

import CProc
import Glibc
import SCEngine

/// What a terminator may use, and how long it waits.
package struct TerminatorLimits: Sendable, Equatable {
    /// From the connection to the end of the handshake.
    package var handshakeMilliseconds = 5000
    /// Without a byte in either direction, afterwards.
    package var idleMilliseconds = 120_000
    /// Private writable memory (RLIMIT_DATA). A session has to fit in it with `overhead`.
    package var memoryBytes = 320 << 20
    /// The program whose verb `tls-end` is the terminator.
    package var program = "/proc/self/exe"

    package init() {}

    /// What the program itself takes of `memoryBytes`.
    static let overhead = 24 << 20
}

/// The order to a terminator, in a sealed memory file.
struct TerminatorOrder: Equatable {
    enum Role: String {
        /// Takes the part of the host that was connected to.
        case server
        /// Takes the part of the host that connects, and trusts one peer.
        case client
        /// Connects only to see which certificate is shown.
        case probe
    }

    /// The descriptors of a terminator.
    enum Descriptor: Int32 {
        case connection = 3
        case engine, outcome, order, key, certificate
    }

    var role: Role
    /// The other end, for messages: a peer's name, or an address.
    var label: String
    var limits: TerminatorLimits
    var trusted: [(name: String, fingerprint: Fingerprint)]

    static func == (left: Self, right: Self) -> Bool { left.text == right.text }

    private var text: String {
        var lines = [
            "role \(role.rawValue)", "label \(label)", "handshake \(limits.handshakeMilliseconds)", "idle \(limits.idleMilliseconds)",
            "memory \(limits.memoryBytes)",
        ]
        lines += trusted.map { "peer \($0.fingerprint) \($0.name)" }
        return lines.joined(separator: "\n") + "\n"
    }

    /// A sealed memory file with the order.
    func file() throws(CheckpointError) -> OwnedDescriptor {
        let file = OwnedDescriptor(try check(cproc_memfd("sc-tls-order"), "cannot make a memory file"))
        let text = text
        guard write(file.raw, text, text.utf8.count) == text.utf8.count else {
            throw CheckpointError("cannot write a memory file", result: Int(-errno))
        }
        lseek(file.raw, 0, SEEK_SET)
        try check(cproc_seal(file.raw), "cannot seal a memory file")
        return file
    }

    init(role: Role, label: String, limits: TerminatorLimits, trusted: [Peer]) {
        (self.role, self.label, self.limits) = (role, label, limits)
        self.trusted = trusted.map { ($0.name, $0.fingerprint) }
    }

    init?(text: String) {
        var fields: [Substring: Substring] = [:]
        trusted = []
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ", maxSplits: 1)
            guard words.count == 2 else { return nil }
            if words[0] == "peer" {
                let parts = words[1].split(separator: " ")
                guard parts.count == 2, let fingerprint = Fingerprint(parts[0]) else { return nil }
                trusted.append((String(parts[1]), fingerprint))
            } else {
                fields[words[0]] = words[1]
            }
        }
        guard let role = fields["role"].flatMap({ Role(rawValue: String($0)) }), let label = fields["label"],
            let handshake = fields["handshake"].flatMap({ Int($0) }), let idle = fields["idle"].flatMap({ Int($0) }),
            let memory = fields["memory"].flatMap({ Int($0) })
        else { return nil }
        (self.role, self.label, limits) = (role, String(label), TerminatorLimits())
        (limits.handshakeMilliseconds, limits.idleMilliseconds, limits.memoryBytes) = (handshake, idle, memory)
    }
}

/// How a handshake ended, as the terminator's one line.
enum HandshakeOutcome: Equatable {
    /// The peer's name (empty for a probe), its fingerprint, and the end of its certificate's validity.
    case peer(name: String, Fingerprint, validUntil: Int64)
    case refused(CheckpointError)

    var line: String {
        let fields: [String] =
            switch self {
            case .peer(let name, let fingerprint, let until): ["peer", name, fingerprint.description, String(until)]
            case .refused(let error): ["refused", String(error.errno), error.what, error.why, error.advice]
            }
        return fields.map { $0.filter { !$0.isNewline && $0 != "\t" } }.joined(separator: "\t") + "\n"
    }

    /// nil when the line is none of ours: the terminator is not believed more than it has to be.
    init?(line: String) {
        guard line.last == "\n", line.unicodeScalars.dropLast().allSatisfy({ $0.value >= 32 || $0 == "\t" }) else { return nil }
        let fields = line.dropLast().split(separator: "\t", omittingEmptySubsequences: false)
        switch (fields.first, fields.count) {
        case ("peer", 4):
            guard let fingerprint = Fingerprint(fields[2]), let until = Int64(fields[3]) else { return nil }
            self = .peer(name: String(fields[1]), fingerprint, validUntil: until)
        case ("refused", 5):
            self = .refused(
                CheckpointError(String(fields[2]), why: String(fields[3]), errno: Int32(fields[1]) ?? 0, advice: String(fields[4])))
        default: return nil
        }
    }
}
