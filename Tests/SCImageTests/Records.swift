// Taking images apart and putting them together again, wrongly where a test wants it.

@testable import SCImage

/// One record as it lies in an image.
struct RawRecord: Equatable {
    var type: RecordType
    var flags: RecordFlags = .required
    var payload: [UInt8]
}

/// All records of a right image but the End record.
func records(_ image: [UInt8]) throws(ImageError) -> [RawRecord] {
    var frames = try FrameReader(MemorySource(image), kind: .image)
    var records: [RawRecord] = []
    while let header = try frames.next() {
        var payload = [UInt8](repeating: 0, count: header.length)
        try payload.withUnsafeMutableBufferPointer { buffer throws(ImageError) in
            try frames.payload(header, into: UnsafeMutableRawBufferPointer(buffer))
        }
        if header.type != .end { records.append(RawRecord(type: header.type, flags: header.flags, payload: payload)) }
    }
    return records
}

/// An image of these records with an End record that is right but for `change`.
func assemble(
    _ records: [RawRecord], change: (inout ImageEnd) -> Void = { _ in }
) throws(ImageError) -> [UInt8] {
    var frames = try FrameWriter(MemorySink(), kind: .image, digesting: true)
    for record in records { try frames.write(record) }
    var end = ImageEnd(sessions: 0, channels: 0, records: frames.records, sha256: try frames.takeDigest())
    end.sessions = UInt64(records.count { $0.type == .session })
    end.channels = UInt64(records.count { $0.type == .tcpChannel || $0.type == .localChannel })
    change(&end)
    var arena = try RecordArena(budget: 4096)
    try frames.write(end, &arena)
    try frames.flush()
    return frames.sink.bytes
}

extension FrameWriter {
    mutating func write(_ record: RawRecord) throws(ImageError) {
        try record.payload.withUnsafeBufferPointer { bytes throws(ImageError) in
            try write(record.type, flags: record.flags, payload: UnsafeRawBufferPointer(bytes))
        }
    }
}

/// What reading an image throws, and the sessions it gave before.
func outcome(
    _ image: [UInt8], limits: ImageLimits = ImageLimits()
) -> (sessions: [Session], error: ImageError?) {
    var sessions: [Session] = []
    do {
        var reader = try ImageReader(MemorySource(image), limits: limits)
        while let session = try reader.next() { sessions.append(session) }
        return (sessions, nil)
    } catch {
        return (sessions, error)
    }
}

/// A protobuf field of bytes.
func field(_ number: Int, _ value: [UInt8]) -> [UInt8] { varint(number << 3 | 2) + varint(value.count) + value }

/// A protobuf varint.
func varint(_ value: Int) -> [UInt8] {
    value < 0x80 ? [UInt8(value)] : [UInt8(value & 0x7f) | 0x80] + varint(value >> 7)
}
