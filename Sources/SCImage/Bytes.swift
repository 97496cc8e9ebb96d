// Where the bytes of an image go to and come from.

/// Takes bytes, in order.
package protocol ByteSink {
    /// Takes all of `bytes`, or throws.
    mutating func write(_ bytes: UnsafeRawBufferPointer) throws(ImageError)
}

/// Gives bytes, in order.
package protocol ByteSource {
    /// Puts at least one byte into `buffer`, which is not empty, and returns how many; 0 at the end.
    mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int
}

/// Collects an image in memory.
package struct MemorySink: ByteSink, Sendable {
    package var bytes: [UInt8] = []

    package init() {}

    package mutating func write(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        unsafe self.bytes.append(contentsOf: bytes)
    }
}

/// Reads an image from memory.
package struct MemorySource: ByteSource, Sendable {
    private let bytes: [UInt8]
    private var position = 0

    package init(_ bytes: [UInt8]) { self.bytes = bytes }

    package mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        let count = min(buffer.count, bytes.count - position)
        unsafe buffer.copyBytes(from: bytes[position..<position + count])
        position += count
        return count
    }
}

extension ByteSink {
    /// Takes all of an array's bytes, or throws.
    package mutating func write(_ bytes: [UInt8]) throws(ImageError) {
        var failure: ImageError?
        unsafe bytes.withUnsafeBytes { buffer in
            do throws(ImageError) { try unsafe write(buffer) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}
