// A congestion window that covers the flight, for the instant of a repair connect.

import CProc
import Glibc
import SCImage

/// A restored socket begins with a window of 10 segments. When more than that was in flight, the last of it could not be sent as an original
/// transmission (`Activation`), and lost packets would wait for a timeout of seconds: there is no RTT sample. A sock_ops program may set the initial
/// window of a connection that has sent nothing (TCP_BPF_IW); it is attached only while one socket connects.
struct InitialWindow: ~Copyable {
    private let link: OwnedDescriptor

    /// nil when the flight fits the kernel's own initial window, or when this host has no cgroup v2 to attach to: the connection is then as correct,
    /// and only slower to recover from losses.
    init?(for channel: TCPChannel) {
        let sent = channel.sendQueue.count - channel.unsentLength
        let segments = sent / max(1, Int(channel.sendMSS)) + sent / 32768 + 4
        guard segments >= 10, let root = Self.root else { return nil }
        let fd = cproc_initial_window(root.raw, channel.local.port, channel.peer.port, UInt32(segments))
        guard fd >= 0 else { return nil }
        link = OwnedDescriptor(fd)
    }

    /// The root of the cgroup v2 hierarchy (cgroups(7)).
    private static let root: SharedDescriptor? = {
        for line in (readText("/proc/self/mounts") ?? "").split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count > 2, words[2] == "cgroup2" else { continue }
            let fd = open(String(words[1]), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
            if fd >= 0 { return SharedDescriptor(fd) }
        }
        return nil
    }()
}
