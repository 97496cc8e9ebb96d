// Where the agent listens, and what it may do at most.

import CProc
import Glibc
import SCEngine
import SCImage

/// What workers need: sockets of others, packets, network namespaces, stopping and looking into processes, becoming nobody.
let agentCapabilities: [Int] = [
    0 /* CHOWN */, 1 /* DAC_OVERRIDE */, 2 /* DAC_READ_SEARCH */, 5 /* KILL */, 6 /* SETGID */, 7 /* SETUID */, 8 /* SETPCAP */,
    10 /* NET_BIND_SERVICE */, 12 /* NET_ADMIN */, 13 /* NET_RAW */, 18 /* SYS_CHROOT */, 19 /* SYS_PTRACE */, 21 /* SYS_ADMIN */,
    23 /* SYS_NICE */, 24 /* SYS_RESOURCE */, 38 /* PERFMON */, 39 /* BPF */, 40 /* CHECKPOINT_RESTORE */,
]

enum AgentListeners {
    /// For programs of this host; takes the place of an agent that has died.
    static func local() throws(CheckpointError) -> SharedDescriptor {
        _ = try StateDirectory.file("x", in: "sessions")
        let raw = socket(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        let listener = SharedDescriptor(try check(raw < 0 ? -errno : raw, "cannot make a Unix socket"))
        let path = AgentClient.path
        guard bindUnixReplacing(raw, path) else {
            guard errno == EADDRINUSE else { throw CheckpointError("cannot listen on \(path)", result: Int(-errno)) }
            throw CheckpointError("an agent runs on this host", why: "it listens on \(path)", errno: EADDRINUSE, advice: "Stop it first")
        }
        // Who may do what is decided by SO_PEERCRED, not by the file's mode.
        chmod(path, 0o666)
        chmod(StateDirectory.path, 0o711)
        guard Glibc.listen(raw, 64) == 0 else { throw CheckpointError("cannot listen on \(path)", result: Int(-errno)) }
        return listener
    }

    /// For servers that are linked with libsc.
    static func servers() throws(CheckpointError) -> SharedDescriptor { try packets("\(StateDirectory.path)/servers.sock") }

    /// Where the agent takes sessions for the registered servers of a service, as an acceptor.
    static func serverAcceptor(_ service: String) -> String { "\(StateDirectory.path)/servers/\(service).sock" }

    /// A listening socket of packets, in the place of a dead agent's.
    static func packets(_ path: String, mode: mode_t = 0o666) throws(CheckpointError) -> SharedDescriptor {
        let raw = socket(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
        let listener = SharedDescriptor(try check(raw < 0 ? -errno : raw, "cannot make a Unix socket"))
        unlink(path)
        guard bindUnix(raw, path), Glibc.listen(raw, 128) == 0 else { throw CheckpointError("cannot listen on \(path)", result: Int(-errno)) }
        chmod(path, mode)
        return listener
    }

    /// For peers.
    static func peers(_ address: SocketAddress) throws(CheckpointError) -> SharedDescriptor {
        let raw = socket(address.address.isIPv6 ? AF_INET6 : AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        let listener = SharedDescriptor(try check(raw < 0 ? -errno : raw, "cannot make a socket"))
        _ = cproc_setsockopt_int(raw, SOL_SOCKET, SO_REUSEADDR, 1)
        if address.address.isIPv6 { _ = cproc_setsockopt_int(raw, Int32(IPPROTO_IPV6), IPV6_V6ONLY, 0) }
        var endpoint = address.endpoint
        try check(cproc_bind(raw, &endpoint), "cannot listen on \(address)", advice: "Is another agent running? ss -tlnp")
        guard Glibc.listen(raw, 128) == 0 else { throw CheckpointError("cannot listen on \(address)", result: Int(-errno)) }
        return listener
    }
}

/// The servers of a service that have registered with the agent of this host, as receivers.
package func registeredServers(of service: String) -> Handover { .into(path: Array(AgentListeners.serverAcceptor(service).utf8)) }
