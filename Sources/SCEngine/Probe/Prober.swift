// Walks the descriptors of a process and says what each one is.

import CProc
import Glibc
import SCImage

/// Reads channels by pidfd_getfd and fstat (2 µs a descriptor, against 3.5 to 6 for readlink); one duplicate at a time, so that a process with
/// 20,000 descriptors needs no limit raised here.
package struct Prober {
    package init() {}

    /// All descriptors of the process as channels, in ascending order. A descriptor that is closed meanwhile is left out.
    package func channels(of process: TargetProcess) throws(CheckpointError) -> [Channel] {
        var result: [Channel] = []
        for fd in try process.descriptors() {
            do throws(CheckpointError) {
                result.append(try channel(fd, of: process))
            } catch {
                guard error.errno == EBADF else { throw error }
            }
        }
        completeUnix(&result, of: process)
        refuseSigned(&result, of: process)
        return result
    }

    /// Those of the process and of its descendants, each with its channels; a descendant that ends meanwhile is left out.
    package func channels(ofTree root: TargetProcess) throws(CheckpointError) -> [(process: TargetProcess, channels: [Channel])] {
        var result: [(process: TargetProcess, channels: [Channel])] = []
        for process in root.tree() {
            do throws(CheckpointError) {
                result.append((process, try channels(of: process)))
            } catch {
                guard process.pid != root.pid, error.errno == ENOENT || error.errno == ESRCH else { throw error }
            }
        }
        return result
    }

    /// One descriptor.
    package func channel(_ fd: Int32, of process: TargetProcess) throws(CheckpointError) -> Channel {
        let descriptor = try process.duplicate(fd)
        var stat = cproc_stat()
        try check(cproc_fstat(descriptor.raw, &stat), "cannot look at descriptor \(fd) of process \(process.pid)")
        var channel: Channel
        switch stat.mode & UInt32(S_IFMT) {
        case UInt32(S_IFSOCK): channel = socketChannel(fd, SocketView(descriptor.raw))
        case UInt32(S_IFIFO):
            // A named one has a path of its own, and readers and writers that nobody knows.
            let isNamed = process.link(of: fd)?.hasPrefix("/") == true
            channel = Channel(
                fd: fd, kind: .pipe, state: accessMode(descriptor.raw), reason: isNamed ? "a named pipe: the receiver opens its own" : nil)
            channel.receiveQueue = max(0, Int(cproc_siocinq(descriptor.raw)))
        case UInt32(S_IFREG):
            channel = Channel(fd: fd, kind: .file, state: accessMode(descriptor.raw))
            channel.local = process.link(of: fd) ?? ""
            if channel.local.hasPrefix("/memfd:") || channel.local.hasSuffix(" (deleted)") { channel.reason = "the receiver has no such file" }
        default:
            channel = Channel(fd: fd, kind: .other, state: "", reason: "not part of a session")
            channel.local = process.link(of: fd) ?? ""
        }
        channel.inode = stat.inode
        return channel
    }

    private func accessMode(_ fd: Int32) -> String {
        switch fcntl(fd, F_GETFL) & O_ACCMODE {
        case O_RDONLY: "READ"
        case O_WRONLY: "WRITE"
        default: "READ_WRITE"
        }
    }

    private func socketChannel(_ fd: Int32, _ socket: SocketView) -> Channel {
        switch (socket.domain, socket.type) {
        case (AF_INET, Int32(SOCK_STREAM.rawValue)), (AF_INET6, Int32(SOCK_STREAM.rawValue)):
            return tcpChannel(fd, socket)
        case (AF_INET, Int32(SOCK_DGRAM.rawValue)), (AF_INET6, Int32(SOCK_DGRAM.rawValue)):
            var channel = Channel(fd: fd, kind: .udp, state: socket.peer == nil ? "UNCONN" : "ESTABLISHED")
            if socket.peer == nil { channel.reason = "a UDP socket without a peer is part of the server, not of a session" }
            channel.local = socket.local?.description ?? ""
            channel.peer = socket.peer?.description ?? ""
            channel.receiveQueue = max(0, Int(cproc_siocinq(socket.fd)))
            return channel
        case (AF_UNIX, _):
            var channel = Channel(fd: fd, kind: .unix, state: "")
            channel.receiveQueue = max(0, Int(cproc_siocinq(socket.fd)))
            return channel
        default:
            return Channel(fd: fd, kind: .other, state: "", reason: "socket of family \(socket.domain)")
        }
    }

    private func tcpChannel(_ fd: Int32, _ socket: SocketView) -> Channel {
        let state = socket.tcpInfo.flatMap { TCPState(rawValue: $0.state) }
        var channel = Channel(fd: fd, kind: .tcp, state: state?.name ?? "UNKNOWN", reason: immovableReason(of: socket))
        channel.tcpState = state
        channel.localAddress = socket.local
        channel.peerAddress = state == .listen ? nil : socket.peer
        channel.local = channel.localAddress?.description ?? ""
        channel.peer = channel.peerAddress?.description ?? ""
        if state != .listen {
            channel.receiveQueue = max(0, Int(cproc_siocinq(socket.fd)))
            channel.sendQueue = max(0, Int(cproc_siocoutq(socket.fd)))
        }
        return channel
    }

    /// The keys of TCP MD5 signatures (RFC 2385) can be seen in SOCK_DIAG only. A connection rebuilt without them would be mute.
    private func refuseSigned(_ channels: inout [Channel], of process: TargetProcess) {
        guard channels.contains(where: { $0.kind == .tcp && $0.isMovable }), let namespace = try? NetworkNamespace.of(pid: process.pid),
            let signed = try? signedSockets(in: namespace), !signed.isEmpty
        else { return }
        for index in channels.indices where channels[index].kind == .tcp && channels[index].isMovable && signed.contains(channels[index].inode) {
            channels[index].reason = "TCP MD5 signatures: their keys are not carried"
        }
    }

    /// UNIX_DIAG knows what getsockname cannot tell: the other end's inode, and the state.
    private func completeUnix(_ channels: inout [Channel], of process: TargetProcess) {
        guard channels.contains(where: { $0.kind == .unix }), let namespace = try? NetworkNamespace.of(pid: process.pid),
            let sockets = try? UnixSockets(in: namespace)
        else { return }
        for index in channels.indices where channels[index].kind == .unix {
            guard let entry = sockets.byInode[channels[index].inode] else { continue }
            channels[index].state = entry.state
            if entry.state != "ESTABLISHED" { channels[index].reason = "a Unix socket that is not connected is part of the server, not of a session" }
            channels[index].local = entry.name
            channels[index].peerInode = entry.peer
            channels[index].peer = sockets.byInode[entry.peer]?.name ?? ""
            channels[index].sendQueue = entry.sendQueue
        }
    }
}

/// The inodes of the TCP connections of a namespace that have MD5 keys.
private func signedSockets(in namespace: NetworkNamespace) throws(CheckpointError) -> Set<UInt64> {
    final class Box { var inodes: Set<UInt64> = [] }
    let box = Box()
    let netlink = OwnedDescriptor(
        try namespace.run { () throws(CheckpointError) in try check(cproc_diag_open(), "cannot open SOCK_DIAG") })
    let states = TCPState.allCases.filter(\.isMovable).reduce(UInt32(0)) { $0 | 1 << UInt32($1.rawValue) }
    for family in [AF_INET, AF_INET6] {
        let result = cproc_diag_inet(
            netlink.raw, UInt8(family), 6, states, 1,
            { socket, context in
                if socket!.pointee.has_md5 != 0 { Unmanaged<Box>.fromOpaque(context!).takeUnretainedValue().inodes.insert(socket!.pointee.inode) }
                return 0
            }, nil, Unmanaged.passUnretained(box).toOpaque())
        try check(result, "cannot list the TCP sockets")
    }
    return withExtendedLifetime(box) { box.inodes }
}
