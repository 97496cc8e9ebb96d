// Images to and from file descriptors: files, pipes, sockets. Blocking; never on Swift's cooperative pool.

import Glibc

/// Writes to a descriptor, which stays the caller's to close.
package struct DescriptorSink: ByteSink, Sendable {
    package let fd: Int32
    private let operation: String

    /// `operation` names the work in errors.
    package init(_ fd: Int32, operation: String = "writing the image") { (self.fd, self.operation) = (fd, operation) }

    package mutating func write(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        var rest = unsafe bytes
        while let start = rest.baseAddress, unsafe !rest.isEmpty {
            let count = unsafe Glibc.write(fd, start, rest.count)
            if count > 0 {
                unsafe rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            } else if count == 0 {
                throw .io(errno: ENOSPC, operation: operation)
            } else if errno == EAGAIN {
                try wait(fd, POLLOUT, operation)
            } else if errno != EINTR {
                throw .io(errno: errno, operation: operation)
            }
        }
    }
}

/// Reads from a descriptor, which stays the caller's to close.
package struct DescriptorSource: ByteSource, Sendable {
    package let fd: Int32
    private let operation: String

    /// `operation` names the work in errors.
    package init(_ fd: Int32, operation: String = "reading the image") { (self.fd, self.operation) = (fd, operation) }

    package mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        while true {
            let count = unsafe Glibc.read(fd, buffer.baseAddress, buffer.count)
            if count >= 0 { return count }
            if errno == EAGAIN {
                try wait(fd, POLLIN, operation)
            } else if errno != EINTR {
                throw .io(errno: errno, operation: operation)
            }
        }
    }
}

/// Someone made the descriptor non-blocking (a terminal's other end, a parent): wait until it is ready.
private func wait(_ fd: Int32, _ events: Int32, _ operation: String) throws(ImageError) {
    var entry = pollfd(fd: fd, events: Int16(events), revents: 0)
    guard unsafe poll(&entry, 1, -1) >= 0 || errno == EINTR else { throw .io(errno: errno, operation: operation) }
}

/// The C library's words for an errno.
func errorText(_ errno: Int32) -> String {
    unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 128) { buffer in
        guard let text = buffer.baseAddress, unsafe strerror_r(errno, text, buffer.count) == 0 else { return "error" }
        return unsafe String(cString: text)
    }
}
