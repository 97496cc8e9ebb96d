// Signals as bytes of a pipe, for an event loop.

import CProc
import Glibc
import SCEngine

/// The pipe's writing end, for the handler; written once, before the handlers are set.
private nonisolated(unsafe) var writingEnd: Int32 = -1

/// Catches the signals of one process; there is one of it.
final class SignalPipe {
    private let reading: OwnedDescriptor
    var raw: Int32 { reading.raw }

    init(_ numbers: [Int32]) throws(CheckpointError) {
        var ends: [Int32] = [-1, -1]
        try check(cproc_pipe(&ends), "cannot make a pipe")
        reading = OwnedDescriptor(ends[0])
        writingEnd = ends[1]
        for number in numbers {
            signal(number) { number in
                let saved = errno
                var byte = UInt8(truncatingIfNeeded: number)
                _ = write(writingEnd, &byte, 1)
                errno = saved
            }
        }
    }

    /// Those that have come since the last time.
    func take() -> [Int32] {
        var buffer = [UInt8](repeating: 0, count: 256)
        let count = read(raw, &buffer, buffer.count)
        return count > 0 ? buffer.prefix(count).map { Int32($0) } : []
    }
}
