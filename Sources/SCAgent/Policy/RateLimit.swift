// A limit on how often something may happen: a bucket that fills with time.

/// Lets `perSecond` events pass in a second, and as many at once after a quiet time.
package struct RateLimit: Sendable {
    private let perSecond: Int
    /// Nanoseconds' worth of events in the bucket.
    private var filled: UInt64
    private var last: UInt64

    package init(perSecond: Int, now: UInt64) { (self.perSecond, filled, last) = (perSecond, 1_000_000_000, now) }

    /// Whether one more may happen at this monotonic time in nanoseconds.
    package mutating func allows(at now: UInt64) -> Bool {
        if now > last {
            filled = min(1_000_000_000, filled + min(1_000_000_000, now - last))
            last = now
        }
        let price = 1_000_000_000 / UInt64(max(1, perSecond))
        guard filled >= price else { return false }
        filled -= price
        return true
    }
}
