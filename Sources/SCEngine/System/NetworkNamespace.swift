// Network namespaces: made, found by process, and entered only on a thread that ends afterwards.

import CProc
import Glibc

/// A network namespace, held open by a descriptor.
package final class NetworkNamespace: Sendable {
    private let descriptor: OwnedDescriptor
    /// The namespace is this process's own: sockets can be made without entering anything.
    private let isOwn: Bool
    package var raw: Int32 { descriptor.raw }

    private init(_ descriptor: consuming OwnedDescriptor) {
        let own = cproc_pid_netns(getpid())
        isOwn = own >= 0 && cproc_same_netns(own, descriptor.raw) == 1
        if own >= 0 { close(own) }
        self.descriptor = descriptor
    }

    /// The namespace of a process (`/proc/PID/ns/net`).
    package static func of(pid: Int32) throws(CheckpointError) -> NetworkNamespace {
        let fd = try check(
            cproc_pid_netns(pid), "cannot open the network namespace of process \(pid)",
            advice: "Reading another user's process needs CAP_SYS_PTRACE")
        return NetworkNamespace(OwnedDescriptor(fd))
    }

    /// The caller's own namespace.
    package static func current() throws(CheckpointError) -> NetworkNamespace { try of(pid: getpid()) }

    /// The namespace in which a socket was made (SIOCGSKNS).
    package static func of(socket: Int32) throws(CheckpointError) -> NetworkNamespace {
        let fd = try check(
            cproc_socket_netns(socket), "cannot find the network namespace of the socket",
            advice: "It needs CAP_NET_ADMIN in that namespace")
        return NetworkNamespace(OwnedDescriptor(fd))
    }

    /// A new namespace with nothing but a loopback; it ends with the last descriptor or socket in it.
    package static func make() throws(CheckpointError) -> NetworkNamespace {
        let fd = try check(
            cproc_new_netns(), "cannot make a network namespace", advice: "It needs CAP_SYS_ADMIN and CONFIG_NET_NS")
        return NetworkNamespace(OwnedDescriptor(fd))
    }

    package func isSame(as other: NetworkNamespace) -> Bool { cproc_same_netns(raw, other.raw) == 1 }

    /// Device and inode, which name the namespace on this boot of this host.
    package var identity: (device: UInt64, inode: UInt64) {
        var stat = cproc_stat()
        guard cproc_fstat(raw, &stat) == 0 else { return (0, 0) }
        return (stat.device, stat.inode)
    }

    /// A socket made inside the namespace; only its creation needs the namespace.
    package func socket(family: Int32, type: Int32, protocol: Int32 = 0) throws(CheckpointError) -> OwnedDescriptor {
        // A thread that enters the namespace costs 20 µs, a socket 2.
        if isOwn {
            let fd = Glibc.socket(family, type | Int32(SOCK_CLOEXEC.rawValue), `protocol`)
            return OwnedDescriptor(try check(fd < 0 ? -errno : fd, "cannot make a socket"))
        }
        return OwnedDescriptor(
            try check(
                cproc_socket_in(raw, family, type, `protocol`), "cannot make a socket in the network namespace",
                advice: "Entering it needs CAP_SYS_ADMIN"))
    }

    /// Runs `body` on a fresh thread inside the namespace and waits for it.
    package func run<Value>(_ body: () throws(CheckpointError) -> Value) throws(CheckpointError) -> Value {
        try withoutActuallyEscaping(body) { body throws(CheckpointError) -> Value in
            let box = ThreadBox(body: body)
            let result = cproc_in_netns(
                raw,
                { context in
                    Unmanaged<AnyThreadBox>.fromOpaque(context!).takeUnretainedValue().run()
                    return 0
                }, Unmanaged<AnyThreadBox>.passUnretained(box).toOpaque())
            try check(result, "cannot enter the network namespace", advice: "It needs CAP_SYS_ADMIN in the namespace's owner")
            return try box.result!.get()
        }
    }
}

/// Carries a closure to the thread and its result back; type-erased because a C function cannot be generic.
private class AnyThreadBox {
    func run() {}
}

private final class ThreadBox<Value>: AnyThreadBox {
    private let body: () throws(CheckpointError) -> Value
    private(set) var result: Result<Value, CheckpointError>?

    init(body: @escaping () throws(CheckpointError) -> Value) { self.body = body }

    override func run() {
        do throws(CheckpointError) { result = .success(try body()) } catch { result = .failure(error) }
    }
}

/// Writes a value below /proc/sys, in the calling thread's network namespace; a kernel without the setting is left as it is.
func writeSysctl(_ name: String, _ value: String) {
    let fd = open("/proc/sys/\(name)", O_WRONLY | O_CLOEXEC)
    guard fd >= 0 else { return }
    _ = write(fd, value, value.utf8.count)
    close(fd)
}

/// uname(2)'s nodename.
package func hostName() -> String {
    var name = [CChar](repeating: 0, count: 256)
    gethostname(&name, name.count)
    return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
