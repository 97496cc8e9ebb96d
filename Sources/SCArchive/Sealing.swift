// Sealed streams: encrypted to public keys in chunks, each of them authenticated, so that they can be written and read without being held.
//
// The format, in docs/archive.md "The sealed format":
//   magic 8, version 2, recipients 2, reserved 4 (0)            little-endian
//   for each recipient: key id 8, ephemeral public key 32, wrapped file key 48
//   chunks: 64 KiB of text (the last one 1 to 65,536 bytes) + tag 16, nonce = number of the chunk (11 bytes, big-endian), 1 if it is the last one

import CSeal
import Glibc
import SCImage

enum SealedFormat {
    /// `8B 53 43 53 0D 0A 1A 0A`, as the other magics of this project.
    static let magic: [UInt8] = [0x8b, 0x53, 0x43, 0x53, 0x0d, 0x0a, 0x1a, 0x0a]
    static let version: UInt16 = 1
    static let preambleSize = 16
    static let recipientSize = 88
    static let mostRecipients = 256
    static let chunk = 64 << 10
    static let tag = Int(CSEAL_TAG)
    static let wrapInfo = "sc-checkpoint sealed image v1: file key"
    static let chunkInfo = "sc-checkpoint sealed image v1: chunks"

    static func nonce(_ number: UInt64, isLast: Bool) -> [UInt8] {
        [0, 0, 0] + (0..<8).map { UInt8(truncatingIfNeeded: number >> (56 - 8 * $0)) } + [isLast ? 1 : 0]
    }

    /// The key of the chunks: bound to the whole header, so that no recipient can be added or taken away unseen.
    static func chunkKey(_ fileKey: [UInt8], header: [UInt8]) throws(ImageError) -> [UInt8] {
        var key = [UInt8](repeating: 0, count: 32)
        let salt = try sha256(header)
        try sealed(cseal_derive(fileKey, salt, salt.count, chunkInfo, &key))
        return key
    }
}

/// Encrypts what it takes into another sink. Without `finish()` the stream is recognised as cut.
package final class SealingSink<Inner: ByteSink>: ByteSink {
    private var inner: Inner
    private let cipher: OpaquePointer
    private var pending: [UInt8] = []
    private var output = [UInt8](repeating: 0, count: SealedFormat.chunk + SealedFormat.tag)
    private var number: UInt64 = 0

    /// Writes the header. There is at least one recipient, and at most 256.
    package init(_ inner: Inner, to recipients: [PublicKey]) throws(ImageError) {
        guard (1...SealedFormat.mostRecipients).contains(recipients.count) else {
            throw .malformed(what: "\(recipients.count) recipients of a sealed image", offset: nil)
        }
        var fileKey = [UInt8](repeating: 0, count: 32)
        defer { cseal_cleanse(&fileKey, fileKey.count) }
        try sealed(cseal_random(&fileKey, fileKey.count))
        var header = SealedFormat.magic
        header += [UInt8(SealedFormat.version), 0, UInt8(recipients.count & 255), UInt8(recipients.count >> 8), 0, 0, 0, 0]
        for recipient in recipients { header += recipient.id + (try Self.wrap(fileKey, for: recipient)) }
        var key = try SealedFormat.chunkKey(fileKey, header: header)
        defer { cseal_cleanse(&key, key.count) }
        guard let cipher = cseal_new(key, 1) else { throw .io(errno: ENOMEM, operation: "sealing the image") }
        (self.inner, self.cipher) = (inner, cipher)
        pending.reserveCapacity(2 * SealedFormat.chunk)
        try self.inner.write(header)
    }

    deinit {
        cseal_cleanse(&pending, pending.count)
        cseal_free(cipher)
    }

    /// An ephemeral public key, and the file key under what it and the recipient's key agree on.
    private static func wrap(_ fileKey: [UInt8], for recipient: PublicKey) throws(ImageError) -> [UInt8] {
        var (secret, ephemeral, key) = ([UInt8](repeating: 0, count: 32), [UInt8](repeating: 0, count: 32), [UInt8](repeating: 0, count: 32))
        defer {
            cseal_cleanse(&secret, secret.count)
            cseal_cleanse(&key, key.count)
        }
        try sealed(cseal_make_key(&secret, &ephemeral))
        let salt = ephemeral + recipient.bytes
        try sealed(cseal_agree(secret, recipient.bytes, salt, salt.count, SealedFormat.wrapInfo, &key))
        guard let cipher = cseal_new(key, 1) else { throw .io(errno: ENOMEM, operation: "sealing the image") }
        defer { cseal_free(cipher) }
        var wrapped = [UInt8](repeating: 0, count: fileKey.count + SealedFormat.tag)
        // The key is used once, so the nonce may be anything.
        try sealed(cseal_encrypt(cipher, SealedFormat.nonce(0, isLast: true), fileKey, fileKey.count, &wrapped))
        return ephemeral + wrapped
    }

    package func write(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        var rest = bytes
        while !rest.isEmpty {
            // A chunk goes only when something follows it: the last one has to know that it is.
            if pending.count == SealedFormat.chunk { try emit(isLast: false) }
            let count = min(rest.count, SealedFormat.chunk - pending.count)
            pending.append(contentsOf: rest[..<count])
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
    }

    package func finish() throws(ImageError) { try emit(isLast: true) }

    private func emit(isLast: Bool) throws(ImageError) {
        try sealed(cseal_encrypt(cipher, SealedFormat.nonce(number, isLast: isLast), pending, pending.count, &output))
        try inner.write(Array(output[..<(pending.count + SealedFormat.tag)]))
        pending.removeAll(keepingCapacity: true)
        number += 1
    }
}

/// Decrypts what another source gives. It gives a byte only after its chunk was found authentic, and ends only after the last chunk.
package final class UnsealingSource<Inner: ByteSource>: ByteSource {
    private var inner: Inner
    private let cipher: OpaquePointer
    private var (plain, head) = ([UInt8](), 0)
    /// What was read of the stream and not yet decrypted: a chunk, and the first byte after it.
    private var pending: [UInt8] = []
    private var number: UInt64 = 0
    private var isAtEnd = false

    /// Reads the header. EKEYREJECTED: it is sealed to other keys.
    package init(_ inner: Inner, key secret: SecretKey) throws(ImageError) {
        var inner = inner
        var header = try take(SealedFormat.preambleSize, from: &inner)
        guard header.count == SealedFormat.preambleSize, header.starts(with: SealedFormat.magic) else {
            throw .malformed(what: "the sealed image has no header", offset: nil)
        }
        let version = UInt16(header[8]) | UInt16(header[9]) << 8
        guard version == SealedFormat.version else { throw .unsupportedVersion(found: version, known: 1...SealedFormat.version) }
        let count = Int(header[10]) | Int(header[11]) << 8
        guard (1...SealedFormat.mostRecipients).contains(count) else {
            throw .malformed(what: "the sealed image names \(count) recipients", offset: nil)
        }
        let recipients = try take(count * SealedFormat.recipientSize, from: &inner)
        guard recipients.count == count * SealedFormat.recipientSize else { throw .malformed(what: "the sealed image is cut off", offset: nil) }
        header += recipients
        var fileKey = try Self.fileKey(recipients, secret)
        defer { cseal_cleanse(&fileKey, fileKey.count) }
        var key = try SealedFormat.chunkKey(fileKey, header: header)
        defer { cseal_cleanse(&key, key.count) }
        guard let cipher = cseal_new(key, 0) else { throw .io(errno: ENOMEM, operation: "opening the sealed image") }
        (self.inner, self.cipher) = (inner, cipher)
    }

    deinit {
        cseal_cleanse(&plain, plain.count)
        cseal_free(cipher)
    }

    private static func fileKey(_ recipients: [UInt8], _ secret: SecretKey) throws(ImageError) -> [UInt8] {
        let (id, own) = (secret.publicKey.id, secret.publicKey.bytes)
        for start in stride(from: 0, to: recipients.count, by: SealedFormat.recipientSize) where Array(recipients[start..<start + 8]) == id {
            let (ephemeral, wrapped) = (Array(recipients[(start + 8)..<(start + 40)]), Array(recipients[(start + 40)..<(start + 88)]))
            guard var key = secret.agree(ephemeral, salt: ephemeral + own, info: SealedFormat.wrapInfo) else { continue }
            defer { cseal_cleanse(&key, key.count) }
            guard let cipher = cseal_new(key, 0) else { throw .io(errno: ENOMEM, operation: "opening the sealed image") }
            defer { cseal_free(cipher) }
            var fileKey = [UInt8](repeating: 0, count: 32)
            guard cseal_decrypt(cipher, SealedFormat.nonce(0, isLast: true), wrapped, wrapped.count, &fileKey) == 0 else {
                throw .malformed(what: "the key in the sealed image's header is damaged", offset: nil)
            }
            return fileKey
        }
        throw .io(errno: EKEYREJECTED, operation: "opening an image that is sealed to other keys")
    }

    package func read(into output: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        if head == plain.count {
            if isAtEnd { return 0 }
            try openChunk()
        }
        let count = min(output.count, plain.count - head)
        output.copyBytes(from: plain[head..<head + count])
        head += count
        return count
    }

    private func openChunk() throws(ImageError) {
        let size = SealedFormat.chunk + SealedFormat.tag
        pending += try take(size + 1 - pending.count, from: &inner)
        let isLast = pending.count <= size
        let chunk = Array(pending.prefix(size))
        pending.removeFirst(chunk.count)
        guard chunk.count > SealedFormat.tag else { throw .malformed(what: "the sealed image is cut off", offset: nil) }
        if open(chunk, isLast: isLast) {
            isAtEnd = isLast
        } else if isLast, open(chunk, isLast: false) {
            throw .malformed(what: "the sealed image is cut off after chunk \(number)", offset: nil)
        } else {
            throw .malformed(
                what: "chunk \(number) of the sealed image is \(isLast ? "cut off or " : "")not what was sealed", offset: nil)
        }
        number += 1
    }

    private func open(_ chunk: [UInt8], isLast: Bool) -> Bool {
        var text = [UInt8](repeating: 0, count: chunk.count - SealedFormat.tag)
        guard cseal_decrypt(cipher, SealedFormat.nonce(number, isLast: isLast), chunk, chunk.count, &text) == 0 else { return false }
        (plain, head) = (text, 0)
        return true
    }
}

/// Up to `count` bytes; fewer only at the end of the source.
private func take(_ count: Int, from source: inout some ByteSource) throws(ImageError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var (filled, failure) = (0, ImageError?.none)
    bytes.withUnsafeMutableBytes { buffer in
        do throws(ImageError) {
            while filled < count {
                let more = try source.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[filled...]))
                if more == 0 { break }
                filled += more
            }
        } catch { failure = error }
    }
    if let failure { throw failure }
    return Array(bytes.prefix(filled))
}

private func sealed(_ result: Int32) throws(ImageError) {
    guard result >= 0 else { throw .io(errno: -result, operation: "sealing the image with libcrypto") }
}
