// The frame format that images and the wire protocol share: preambles, record types, record headers.

/// The type of a record. 1 to 0xff belong to images, 0x100 to 0x1ff to the wire, 0x200 to 0x2ff to archives, 0x8000 and up to private use; the
/// rest is reserved.
package struct RecordType: RawRepresentable, Hashable, Sendable {
    package let rawValue: UInt16
    package init(rawValue: UInt16) { self.rawValue = rawValue }

    package static let inventory = RecordType(rawValue: 1)
    package static let session = RecordType(rawValue: 2)
    package static let tcpChannel = RecordType(rawValue: 3)
    package static let receiveQueue = RecordType(rawValue: 4)
    package static let sendQueue = RecordType(rawValue: 5)
    package static let adapter = RecordType(rawValue: 6)
    package static let state = RecordType(rawValue: 7)
    package static let localChannel = RecordType(rawValue: 8)
    package static let localQueue = RecordType(rawValue: 9)
    package static let process = RecordType(rawValue: 10)
    package static let end = RecordType(rawValue: 0xff)

    package static let offer = RecordType(rawValue: 0x100)
    package static let answer = RecordType(rawValue: 0x101)
    package static let report = RecordType(rawValue: 0x102)
    package static let failure = RecordType(rawValue: 0x103)
    package static let resolve = RecordType(rawValue: 0x104)
    package static let standing = RecordType(rawValue: 0x105)
    package static let inquiry = RecordType(rawValue: 0x106)
    package static let living = RecordType(rawValue: 0x107)

    package static let archiveEntry = RecordType(rawValue: 0x200)
}

extension RecordType: CustomStringConvertible {
    private static let names: [RecordType: String] = [
        .inventory: "Inventory", .session: "Session", .tcpChannel: "TCPChannel", .receiveQueue: "ReceiveQueue",
        .sendQueue: "SendQueue", .adapter: "Adapter", .state: "State",
        .localChannel: "LocalChannel", .localQueue: "LocalQueue", .process: "Process", .end: "End",
        .offer: "Offer", .answer: "Answer", .report: "Report", .failure: "Failure", .resolve: "Resolve", .standing: "Standing",
        .inquiry: "Inquiry", .living: "Living", .archiveEntry: "ArchiveEntry",
    ]

    /// A type that this version defines.
    package var isKnown: Bool { Self.names[self] != nil }

    package var description: String { Self.names[self] ?? "unknown (\(rawValue))" }
}

/// The flags of a record.
package struct RecordFlags: OptionSet, Sendable {
    package let rawValue: UInt16
    package init(rawValue: UInt16) { self.rawValue = rawValue }

    /// A reader that does not know the record's type must not go on without it.
    package static let required = RecordFlags(rawValue: 1)
}

/// The 12 bytes before each payload: type, flags, length, CRC32C of all the others and the payload. Little-endian.
package struct RecordHeader: Equatable, Sendable {
    package static let size = 12

    package var type: RecordType
    package var flags: RecordFlags
    package var length: Int
    var crc: UInt32
    /// Where in the stream the header begins.
    package var offset: UInt64

    /// The first 8 bytes, which the CRC covers.
    var word: UInt64 {
        UInt64(type.rawValue) | UInt64(flags.rawValue) << 16 | UInt64(UInt32(truncatingIfNeeded: length)) << 32
    }
}

/// The 16 bytes at the front of a stream: magic, format version, oldest version that can read it, flags (none is defined).
///
/// The magic follows PNG's: a byte that is not ASCII, CR LF, the end-of-file character of DOS, LF. A transfer in text mode breaks it.
package struct Preamble: Equatable, Sendable {
    package static let size = 16
    /// The version this program writes, and all that it reads.
    package static let version: UInt16 = 1
    package static let known: ClosedRange<UInt16> = 1...1

    /// What kind of stream follows, by its magic.
    package enum Kind: UInt64, Sendable {
        /// `8B 53 43 49 0D 0A 1A 0A`, a continuation image.
        case image = 0x0a1a_0a0d_4943_538b
        /// `8B 53 43 57 0D 0A 1A 0A`, one direction of a migration.
        case wire = 0x0a1a_0a0d_5743_538b
        /// `8B 53 43 41 0D 0A 1A 0A`, what an archive says about its images.
        case archive = 0x0a1a_0a0d_4143_538b
    }

    package var kind: Kind
    package var version = Preamble.version
    package var oldestReader = Preamble.version
    package var flags: UInt32 = 0

    package init(_ kind: Kind) { self.kind = kind }

    var words: (UInt64, UInt64) {
        (kind.rawValue, UInt64(version) | UInt64(oldestReader) << 16 | UInt64(flags) << 32)
    }

    /// Checks and reads the two halves of a preamble.
    init(_ kind: Kind, words: (UInt64, UInt64)) throws(ImageError) {
        guard words.0 == kind.rawValue else {
            throw Self.isDamaged(words.0, kind) ? .damagedByTextTransfer : .notAnImage
        }
        self.kind = kind
        version = UInt16(truncatingIfNeeded: words.1)
        oldestReader = UInt16(truncatingIfNeeded: words.1 >> 16)
        flags = UInt32(truncatingIfNeeded: words.1 >> 32)
        guard version >= oldestReader, version >= 1, oldestReader >= 1 else {
            throw .malformed(what: "version \(version) readable from \(oldestReader) on is impossible", offset: 0)
        }
        guard Self.known.contains(oldestReader) else { throw .unsupportedVersion(found: oldestReader, known: Self.known) }
        guard flags == 0 else { throw .malformed(what: "unknown flags 0x\(String(flags, radix: 16))", offset: 0) }
    }

    /// The letters are there, but not the bytes around them that a text transfer changes.
    private static func isDamaged(_ word: UInt64, _ kind: Kind) -> Bool {
        (word >> 8) & 0xff_ffff == (kind.rawValue >> 8) & 0xff_ffff && word & 0x7f == kind.rawValue & 0x7f
    }
}
