// Empty messages that cannot be read without being taken: known by the memory that they occupy.
//
// A peek marks an empty datagram as seen and passes over it from then on (__skb_try_recv_from_queue() in net/core/datagram.c), whoever peeked: an earlier
// snapshot, or the application. Lost at the target it would be a message less, so the session is refused while it waits.

import CProc
import Glibc
import SCImage

/// Throws when the channel, a Unix socket as it was read, would lose messages. `sender`: its other end.
func requireNothingHidden(_ channel: LocalChannel, sender: Int32) throws(CheckpointError) {
    guard case .unix(let state) = channel.detail, state.type != Int32(SOCK_STREAM.rawValue) else { return }
    let hidden = try hiddenMessages(besides: channel, type: state.type, sender: sender)
    guard hidden == 0 else {
        throw CheckpointError(
            "\(hidden) empty message\(hidden == 1 ? "" : "s") in its queue cannot be read without being taken",
            why: "the kernel passes over an empty message that was looked at before, by a snapshot or by the application", errno: EAGAIN,
            advice: "Try again when the receiver has taken it")
    }
}

/// How many empty messages wait in the queue of a Unix socket beside those that were read. `sender`: its other end, whose SIOCOUTQ counts all that is
/// on its way, with some hundred bytes for each message. What the known messages should take is found by sending them once more, nowhere.
private func hiddenMessages(besides channel: LocalChannel, type: Int32, sender: Int32) throws(CheckpointError) -> Int {
    let occupied = Int(cproc_siocoutq(sender))
    guard occupied > 0 else { return 0 }
    var ends: [Int32] = [-1, -1]
    try check(cproc_unix_pair(type, .max, .max, &ends), "a pair of Unix sockets")
    let scratch = SharedDescriptor(ends[0])
    let receiver = SharedDescriptor(ends[1])
    _ = cproc_setsockopt_int(scratch.raw, SOL_SOCKET, 32, Int32(clamping: occupied + (1 << 20)))  // SO_SNDBUFFORCE
    try channel.forEachMessage { _, bytes throws(CheckpointError) in
        _ = try check(bytes.withUnsafeBytes { cproc_send_message(scratch.raw, $0.baseAddress, $0.count, nil, 0, nil) }, "a copy of its queue")
    }
    let known = Int(cproc_siocoutq(scratch.raw))
    try check(cproc_send_message(scratch.raw, nil, 0, nil, 0, nil), "a copy of its queue")
    let each = withExtendedLifetime(receiver) { Int(cproc_siocoutq(scratch.raw)) - known }
    // Another difference has another reason, as messages that were spliced in take other room.
    return each > 0 && occupied > known && (occupied - known) % each == 0 ? (occupied - known) / each : 0
}
