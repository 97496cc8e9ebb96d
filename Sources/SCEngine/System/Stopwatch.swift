// Monotonic time.

import CProc

/// CLOCK_MONOTONIC in nanoseconds: the one clock of stages, deadlines and blackouts.
package func monotonicNanoseconds() -> UInt64 { cproc_monotonic_ns() }

/// A point in time after which waiting is over.
package struct Deadline: Sendable {
    package let at: UInt64

    package init(milliseconds: Int) { at = monotonicNanoseconds() + UInt64(max(0, milliseconds)) * 1_000_000 }

    package var hasPassed: Bool { monotonicNanoseconds() >= at }

    /// What is left, for poll(2): at least 0, rounded up.
    package var remainingMilliseconds: Int32 {
        let now = monotonicNanoseconds()
        return now >= at ? 0 : Int32(clamping: (at - now + 999_999) / 1_000_000)
    }
}

/// Sleeps without occupying a processor; for waits of at least some ten microseconds.
package func pause(microseconds: UInt32) { cproc_sleep_us(microseconds) }
