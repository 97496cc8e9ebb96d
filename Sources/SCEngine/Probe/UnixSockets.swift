// The Unix sockets of a network namespace, by SOCK_DIAG: all of them, or those that somebody asks about.

import CProc
import Glibc
import SCImage

/// Unix sockets of a namespace, by inode.
package struct UnixSockets {
    package struct Entry {
        package var name: String
        package var state: String
        package var peer: UInt64
        package var sendQueue: Int
        /// SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_SEQPACKET 5.
        package var type: Int32
        /// RCV_SHUTDOWN 1, SEND_SHUTDOWN 2.
        package var shutdown: UInt8

        init(_ socket: cproc_unix_diag) {
            name = withUnsafeBytes(of: socket.name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
            state = TCPState(rawValue: socket.state)?.name ?? ""
            (peer, sendQueue) = (socket.peer_inode, Int(socket.send_queue))
            (type, shutdown) = (Int32(socket.type), socket.shutdown)
        }
    }

    package private(set) var byInode: [UInt64: Entry] = [:]

    /// All.
    package init(in namespace: NetworkNamespace) throws(CheckpointError) { byInode = try Self.list(namespace) }

    private static func list(_ namespace: NetworkNamespace) throws(CheckpointError) -> [UInt64: Entry] {
        final class Box { var entries: [UInt64: Entry] = [:] }
        let box = Box()
        let netlink = try open(namespace)
        let result = cproc_diag_unix(
            netlink.raw,
            { socket, context in
                let socket = socket!.pointee
                Unmanaged<Box>.fromOpaque(context!).takeUnretainedValue().entries[socket.inode] = Entry(socket)
                return 0
            }, { Unmanaged<Box>.fromOpaque($0!).takeUnretainedValue().entries = [:] }, Unmanaged.passUnretained(box).toOpaque())
        try check(result, "cannot list the Unix sockets")
        return withExtendedLifetime(box) { box.entries }
    }

    /// Those among these, and their peers. Many are looked up in a list of all: a question takes some 10 us, the list 0.5 to 1 us for each socket of the host.
    package init(_ inodes: Set<UInt64>, in namespace: NetworkNamespace) throws(CheckpointError) {
        guard inodes.count <= 64 else {
            byInode = try Self.list(namespace)
            return
        }
        let netlink = try Self.open(namespace)
        var waiting = Array(inodes)
        var asked = inodes
        while let inode = waiting.popLast() {
            var socket = cproc_unix_diag()
            let result = cproc_diag_unix_one(netlink.raw, inode, &socket)
            // A socket of another kind.
            if result == -ENOENT { continue }
            try check(result, "cannot look up a Unix socket")
            byInode[inode] = Entry(socket)
            if socket.peer_inode != 0, asked.insert(socket.peer_inode).inserted { waiting.append(socket.peer_inode) }
        }
    }

    private static func open(_ namespace: NetworkNamespace) throws(CheckpointError) -> OwnedDescriptor {
        OwnedDescriptor(try namespace.run { () throws(CheckpointError) in try check(cproc_diag_open(), "cannot open SOCK_DIAG") })
    }
}
