// CRC32C and SHA-256.

internal import CSCImage

/// SHA-256 of some bytes: 32 bytes.
package func sha256(_ bytes: [UInt8]) throws(ImageError) -> [UInt8] {
    var stream = try SHA256Stream()
    try stream.update(bytes)
    return try stream.finish()
}

/// SHA-256 in pieces.
@safe package struct SHA256Stream: ~Copyable {
    private let context: OpaquePointer

    package init() throws(ImageError) {
        guard let context = unsafe csci_sha256_new() else { throw Self.failure }
        unsafe self.context = context
    }

    deinit { unsafe csci_sha256_free(context) }

    @unsafe package mutating func update(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        guard unsafe csci_sha256_update(context, bytes.baseAddress, bytes.count) == 0 else { throw Self.failure }
    }

    package mutating func update(_ bytes: [UInt8]) throws(ImageError) {
        guard unsafe csci_sha256_update(context, bytes, bytes.count) == 0 else { throw Self.failure }
    }

    /// Adds a record header's 12 bytes.
    mutating func update(_ header: RecordHeader) throws(ImageError) {
        var words = (header.word.littleEndian, header.crc.littleEndian)
        guard unsafe csci_sha256_update(context, &words, RecordHeader.size) == 0 else { throw Self.failure }
    }

    package consuming func finish() throws(ImageError) -> [UInt8] {
        var digest = [UInt8](repeating: 0, count: 32)
        guard unsafe csci_sha256_final(context, &digest) == 0 else { throw Self.failure }
        return digest
    }

    /// libcrypto gives no errno: it has no memory, or a policy forbids the algorithm.
    private static var failure: ImageError { .io(errno: 5, operation: "computing a SHA-256 with libcrypto") }
}

/// The CRC32C of a record: the 8 header bytes before it, then the payload.
@unsafe func recordChecksum(_ header: RecordHeader, _ payload: UnsafeRawBufferPointer) -> UInt32 {
    unsafe csci_crc32c(recordChecksum(header), payload.baseAddress, payload.count)
}

/// The CRC32C of a record's first 8 bytes, to be continued over the payload.
func recordChecksum(_ header: RecordHeader) -> UInt32 {
    var word = header.word.littleEndian
    return unsafe csci_crc32c(0, &word, 8)
}

/// Continues a CRC32C.
@unsafe func checksum(_ crc: UInt32, _ bytes: UnsafeRawBufferPointer) -> UInt32 {
    unsafe csci_crc32c(crc, bytes.baseAddress, bytes.count)
}

/// Continues a CRC32C without the machine's instruction for it; for tests.
@unsafe func portableChecksum(_ crc: UInt32, _ bytes: UnsafeRawBufferPointer) -> UInt32 {
    unsafe csci_crc32c_portable(crc, bytes.baseAddress, bytes.count)
}

/// CRC32C of some bytes.
package func crc32c(_ bytes: [UInt8]) -> UInt32 {
    unsafe csci_crc32c(0, bytes, bytes.count)
}
