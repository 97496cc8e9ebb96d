// What can be wrong with an image, in plain words that say where.

/// A failure to read or write an image or a stream of frames. Offsets count bytes from the start of the stream.
package enum ImageError: Error, Equatable, Sendable {
    /// The first bytes are not those of an image (or, on a socket, not those of the wire protocol).
    case notAnImage
    /// It was an image until something translated its line endings or cleared its high bits.
    case damagedByTextTransfer
    /// The bytes end in the middle of something.
    case truncated(offset: UInt64)
    /// The CRC32C of a record is wrong.
    case checksum(record: RecordType, offset: UInt64)
    /// Every record is right by itself, but the SHA-256 of the whole is not.
    case digest(offset: UInt64)
    /// The image needs a reader of version `found`.
    case unsupportedVersion(found: UInt16, known: ClosedRange<UInt16>)
    /// A record of a type unknown here, which its writer says must not be skipped.
    case unknownRequiredRecord(RecordType, offset: UInt64)
    /// A record of a known type where it does not belong.
    case unexpectedRecord(RecordType, offset: UInt64)
    /// Something is larger than `ImageLimits` allows. Without an offset: while writing.
    case overBudget(what: String, value: UInt64, limit: UInt64, offset: UInt64?)
    /// Something has a value that it cannot have. Without an offset: while writing.
    case malformed(what: String, offset: UInt64?)
    /// What was announced is not what came.
    case countMismatch(what: String, stated: UInt64, found: UInt64, offset: UInt64)
    /// Bytes after the End record.
    case trailingBytes(offset: UInt64)
    /// A system call failed; `operation` is what it was for, as in "writing the image".
    case io(errno: Int32, operation: String)
}

extension ImageError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .notAnImage: "the first bytes are not those of a continuation image"
        case .damagedByTextTransfer: "the image was damaged by a transfer in text mode: copy it again as binary"
        case .truncated(let offset): "the image is cut off at byte \(offset)"
        case .checksum(let record, let offset): "the checksum of the \(record) record at byte \(offset) is wrong"
        case .digest(let offset): "the SHA-256 in the End record at byte \(offset) is not that of the bytes before it"
        case .unsupportedVersion(let found, let known):
            "the image needs a reader of format version \(found); this program knows version \(Self.range(known))"
        case .unknownRequiredRecord(let type, let offset):
            "the record at byte \(offset) is of an unknown type (\(type.rawValue)) that must not be skipped: a newer program wrote it"
        case .unexpectedRecord(let type, let offset): "the \(type) record at byte \(offset) does not belong there"
        case .overBudget(let what, let value, let limit, let offset):
            "\(what): \(value) is over the limit of \(limit)\(Self.place(offset))"
        case .malformed(let what, let offset): "\(what)\(Self.place(offset))"
        case .countMismatch(let what, let stated, let found, let offset):
            "\(what): \(stated) announced, \(found) found at byte \(offset)"
        case .trailingBytes(let offset): "there are bytes after the end of the image at byte \(offset)"
        case .io(let errno, let operation): "\(operation): \(errorText(errno)) (\(errno))"
        }
    }

    private static func place(_ offset: UInt64?) -> String {
        offset.map { " (in the record at byte \($0))" } ?? ""
    }

    private static func range(_ versions: ClosedRange<UInt16>) -> String {
        versions.count == 1 ? "\(versions.lowerBound)" : "\(versions.lowerBound) to \(versions.upperBound)"
    }
}
