// Zstandard between an image and where it is kept.

import CZstd
import Glibc
import SCImage

/// Compresses what it takes into another sink. `finish()` ends the frame; without it the frame is cut.
package final class CompressingSink<Inner: ByteSink>: ByteSink {
    private var inner: Inner
    private let handle: OpaquePointer
    private var buffer = [UInt8](repeating: 0, count: 128 << 10)
    /// Bytes taken so far.
    package private(set) var taken: UInt64 = 0

    /// `level` is 1 to 19. ELIBACC: libzstd is not installed.
    package init(_ inner: Inner, level: Int32 = 3) throws(ImageError) {
        self.inner = inner
        handle = try opened { czstd_compressor($0, level) }
    }

    deinit { czstd_free(handle) }

    package func write(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        taken += UInt64(bytes.count)
        var rest = bytes
        while !rest.isEmpty {
            let used = try step(rest, isLast: false).used
            rest = UnsafeRawBufferPointer(rebasing: rest[used...])
        }
    }

    package func finish() throws(ImageError) {
        while try !step(UnsafeRawBufferPointer(start: nil, count: 0), isLast: true).isComplete {}
    }

    private func step(_ input: UnsafeRawBufferPointer, isLast: Bool) throws(ImageError) -> (used: Int, isComplete: Bool) {
        var (used, made) = (input.count, buffer.count)
        let result = buffer.withUnsafeMutableBytes { czstd_compress(handle, input.baseAddress, &used, $0.baseAddress, &made, isLast ? 1 : 0) }
        guard result >= 0 else { throw .io(errno: -result, operation: "compressing the image (\(String(cString: czstd_problem(handle))))") }
        if made > 0 { try write(prefix: made) }
        return (used, result == 0)
    }

    private func write(prefix count: Int) throws(ImageError) {
        var failure: ImageError?
        buffer.withUnsafeBytes { bytes in
            do throws(ImageError) { try inner.write(UnsafeRawBufferPointer(rebasing: bytes[..<count])) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}

/// Decompresses what another source gives; skippable frames are left out. It ends where the other one does, between two frames.
package final class DecompressingSource<Inner: ByteSource>: ByteSource {
    private var inner: Inner
    private let handle: OpaquePointer
    private var buffer = [UInt8](repeating: 0, count: 128 << 10)
    private var (head, tail) = (0, 0)
    private var isBetweenFrames = true
    /// The decompressor may have more to give without taking more.
    private var isFull = false

    package init(_ inner: Inner) throws(ImageError) {
        self.inner = inner
        handle = try opened { czstd_decompressor($0) }
    }

    deinit { czstd_free(handle) }

    package func read(into output: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        while true {
            if head == tail, !isFull {
                (head, tail) = (0, try refill())
                if tail == 0 {
                    guard isBetweenFrames else { throw .malformed(what: "the compressed image is cut off", offset: nil) }
                    return 0
                }
            }
            var (used, made) = (tail - head, output.count)
            let result = buffer.withUnsafeBytes { czstd_decompress(handle, $0.baseAddress! + head, &used, output.baseAddress, &made) }
            guard result >= 0 else {
                throw .malformed(what: "the compressed image is damaged (\(String(cString: czstd_problem(handle))))", offset: nil)
            }
            head += used
            isBetweenFrames = result == 0
            isFull = made == output.count && !isBetweenFrames
            if made > 0 { return made }
        }
    }

    private func refill() throws(ImageError) -> Int {
        var failure: ImageError?
        let count = buffer.withUnsafeMutableBytes { bytes in
            do throws(ImageError) { return try inner.read(into: bytes) } catch {
                failure = error
                return 0
            }
        }
        if let failure { throw failure }
        return count
    }
}

private func opened(_ open: (UnsafeMutablePointer<OpaquePointer?>) -> Int32) throws(ImageError) -> OpaquePointer {
    var handle: OpaquePointer?
    let result = open(&handle)
    guard result >= 0, let handle else {
        throw .io(errno: -result, operation: result == -ELIBACC ? "loading libzstd.so.1 (install libzstd1)" : "starting libzstd")
    }
    return handle
}
