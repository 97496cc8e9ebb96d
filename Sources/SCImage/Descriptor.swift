// Images to and from file descriptors: files, pipes, sockets. They wait; never use them on Swift's cooperative pool.

import Glibc

/// Writes to a descriptor, which stays the caller's to close.
package struct DescriptorSink: ByteSink, Sendable {
    package let fd: Int32
    private let operation: String
    private let timeout: Int32

    /// `operation` names the work in errors. With a `timeout` in milliseconds a non-blocking descriptor that takes nothing for so long is
    /// `.io(ETIMEDOUT)`.
    package init(_ fd: Int32, operation: String = "writing the image", timeout: Int32 = -1) {
        (self.fd, self.operation, self.timeout) = (fd, operation, timeout)
    }

    package mutating func write(_ bytes: UnsafeRawBufferPointer) throws(ImageError) {
        var rest = unsafe bytes
        while let start = rest.baseAddress, unsafe !rest.isEmpty {
            let count = unsafe Glibc.write(fd, start, rest.count)
            if count > 0 {
                unsafe rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            } else if count == 0 {
                throw .io(errno: ENOSPC, operation: operation)
            } else if errno == EAGAIN {
                try wait(fd, POLLOUT, operation, timeout)
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
    package var timeout: Int32

    /// `operation` names the work in errors. With a `timeout` in milliseconds a non-blocking descriptor that gives nothing for so long is
    /// `.io(ETIMEDOUT)`.
    package init(_ fd: Int32, operation: String = "reading the image", timeout: Int32 = -1) {
        (self.fd, self.operation, self.timeout) = (fd, operation, timeout)
    }

    package mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(ImageError) -> Int {
        while true {
            let count = unsafe Glibc.read(fd, buffer.baseAddress, buffer.count)
            if count >= 0 { return count }
            if errno == EAGAIN {
                try wait(fd, POLLIN, operation, timeout)
            } else if errno != EINTR {
                throw .io(errno: errno, operation: operation)
            }
        }
    }
}

/// Waits until a non-blocking descriptor is ready.
private func wait(_ fd: Int32, _ events: Int32, _ operation: String, _ timeout: Int32) throws(ImageError) {
    var entry = pollfd(fd: fd, events: Int16(events), revents: 0)
    let ready = unsafe poll(&entry, 1, timeout)
    if ready < 0, errno != EINTR { throw .io(errno: errno, operation: operation) }
    if ready == 0 { throw .io(errno: ETIMEDOUT, operation: operation) }
}

/// The C library's words for an errno.
func errorText(_ errno: Int32) -> String {
    unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 128) { buffer in
        guard let text = buffer.baseAddress, unsafe strerror_r(errno, text, buffer.count) == 0 else { return "error" }
        return unsafe String(cString: text)
    }
}
