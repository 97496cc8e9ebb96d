// Reads of a socket through a borrowed descriptor, from any namespace, that change nothing about it.

import CProc
import Glibc
import SCImage

/// A borrowed socket. Every read is one system call.
package struct SocketView {
    package let fd: Int32
    package init(_ fd: Int32) { self.fd = fd }

    /// An int option; nil when the socket has no such option.
    package func option(_ level: Int32, _ name: Int32) -> Int32? {
        var value: Int32 = 0
        return cproc_getsockopt_int(fd, level, name, &value) >= 0 ? value : nil
    }

    package var domain: Int32 { option(SOL_SOCKET, SO_DOMAIN) ?? -1 }
    package var type: Int32 { option(SOL_SOCKET, Int32(SO_TYPE)) ?? -1 }
    package var protocolNumber: Int32 { option(SOL_SOCKET, SO_PROTOCOL) ?? -1 }

    package var local: SocketAddress? {
        var endpoint = cproc_endpoint()
        return cproc_getsockname(fd, &endpoint) >= 0 ? SocketAddress(endpoint) : nil
    }

    package var peer: SocketAddress? {
        var endpoint = cproc_endpoint()
        return cproc_getpeername(fd, &endpoint) >= 0 ? SocketAddress(endpoint) : nil
    }

    package var tcpInfo: cproc_tcp_info? {
        var info = cproc_tcp_info()
        return cproc_tcp_info(fd, &info) >= 0 ? info : nil
    }

    /// The upper-layer protocol of the socket (TCP_ULP): `tls`, `mptcp`; empty without one.
    package var upperLayerProtocol: String {
        var bytes = [UInt8](repeating: 0, count: 16)
        let count = cproc_getsockopt(fd, IPPROTO_TCP_, TCP_ULP_, &bytes, 16)
        return count > 0 ? String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self) : ""
    }

    package var isInRepairMode: Bool { option(IPPROTO_TCP_, TCP_REPAIR_) == 1 }

    /// Urgent data waits (POLLPRI, or the read position stands at the mark): peeks would stop there and lose it.
    package var hasUrgentData: Bool {
        let events = cproc_poll(fd, Int16(POLLPRI), 0)
        return events > 0 && events & Int32(POLLPRI) != 0
    }

    package var cookie: UInt64 {
        var cookie: UInt64 = 0
        return cproc_socket_cookie(fd, &cookie) >= 0 ? cookie : 0
    }
}

// The kernel's numbers, as Int32, where Glibc offers them as another type or not at all (include/uapi/linux/tcp.h).
let IPPROTO_TCP_: Int32 = 6
let IPPROTO_MPTCP_: Int32 = 262
let TCP_ULP_: Int32 = 31
let TCP_REPAIR_: Int32 = 19
let TCP_AO_INFO_: Int32 = 40

/// Why a TCP socket cannot be moved, in words for a person; nil when it can. Asked before anything is touched.
package func immovableReason(of socket: SocketView) -> String? {
    if socket.protocolNumber == IPPROTO_MPTCP_ { return "MPTCP: the kernel cannot repair its subflows" }
    guard socket.protocolNumber == IPPROTO_TCP_ else { return "not a TCP socket" }
    guard let info = socket.tcpInfo, let state = TCPState(rawValue: info.state) else { return "its TCP state cannot be read" }
    if state == .listen { return "a listening socket is part of the server, not of a session" }
    guard state.isMovable else { return "state \(state.name): only established and half-closed connections can be moved" }
    let ulp = socket.upperLayerProtocol
    if !ulp.isEmpty { return "upper-layer protocol \(ulp): its keys and record state cannot be read from the kernel" }
    if let ao = socket.option(IPPROTO_TCP_, TCP_AO_INFO_), ao != 0 { return "TCP-AO: its keys cannot be read from the kernel" }
    if socket.isInRepairMode { return "it is in repair mode already: another move or a snapshot --take holds it" }
    if cproc_filter_locked(socket.fd) == 1 { return "its socket filter is locked (SO_LOCK_FILTER), so it cannot be silenced" }
    if cproc_get_filter(socket.fd, nil, 0) == -EACCES { return "it has an eBPF filter of its own, which the kernel does not hand out" }
    if socket.hasUrgentData { return "urgent data waits to be read (MSG_OOB); it would be lost" }
    return nil
}
