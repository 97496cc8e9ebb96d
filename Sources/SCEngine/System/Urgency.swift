// The blackout is not spent waiting for a processor.

import Glibc

/// While it lives, the calling thread is in the scheduling class SCHED_RR (sched(7)) and runs before everything ordinary on a busy host. For the few
/// milliseconds from parking to release, in which the thread mostly waits for the other end.
///
/// Without CAP_SYS_NICE, or under RestrictRealtime=, nothing changes. Processes that are started meanwhile are ordinary ones (SCHED_RESET_ON_FORK).
/// To be ended by the thread that made it.
final class Urgency {
    private var former = sched_param()
    private let formerPolicy: Int32
    private var isRaised: Bool

    init() {
        formerPolicy = sched_getscheduler(0)
        sched_getparam(0, &former)
        var lowest = sched_param()
        lowest.sched_priority = sched_get_priority_min(SCHED_RR)
        // A caller who has chosen a real-time class for this program keeps it.
        isRaised = formerPolicy == SCHED_OTHER && sched_setscheduler(0, SCHED_RR | Self.resetOnFork, &lowest) == 0
    }

    func end() {
        guard isRaised else { return }
        isRaised = false
        sched_setscheduler(0, formerPolicy, &former)
    }

    deinit { end() }

    /// SCHED_RESET_ON_FORK of linux/sched.h.
    private static let resetOnFork: Int32 = 0x4000_0000
}
