// The TCP sockets of a service on this host, and the processes that have them: one SOCK_DIAG dump and one walk of /proc.

import CProc
import Glibc
import SCImage

/// The sockets of this process's network namespace with some ports of their own.
package struct ServiceSockets {
    /// A process that listens, and how many sessions it and its children have.
    package struct Server: Equatable, Sendable {
        package var pid: Int32
        package var command: String
        package var sessions: Int
    }

    private struct Socket {
        var inode: UInt64
        var isListener: Bool
    }

    package private(set) var servers: [Server] = []

    /// `addresses`: empty for any; a wildcard listener has all of them.
    package init(ports: Set<UInt16>, addresses: Set<IPAddress>) throws(CheckpointError) {
        let sockets = try Self.list { local in
            guard ports.contains(local.port) else { return false }
            let address = local.address.unmapped
            return addresses.isEmpty || addresses.contains(address) || address.bytes.allSatisfy { $0 == 0 }
        }
        let owners = Self.owners(of: Set(sockets.map(\.inode)))
        let listeners = Set(sockets.filter(\.isListener).flatMap { owners[$0.inode] ?? [] })
        var counts: [Int32: Int] = [:]
        for socket in sockets where !socket.isListener {
            // A connection that parent and child share counts once.
            if let server = (owners[socket.inode] ?? []).lazy.compactMap({ Self.ancestor(of: $0, among: listeners) }).first {
                counts[server, default: 0] += 1
            }
        }
        servers = listeners.sorted().map { pid in
            let name = TargetProcess.name(of: pid) ?? "?"
            return Server(pid: pid, command: name, sessions: counts[pid] ?? 0)
        }
    }

    private static func list(_ isWanted: @escaping (SocketAddress) -> Bool) throws(CheckpointError) -> [Socket] {
        final class Box {
            var found: [Socket] = []
            let isWanted: (SocketAddress) -> Bool
            init(_ isWanted: @escaping (SocketAddress) -> Bool) { self.isWanted = isWanted }
        }
        let box = Box(isWanted)
        let netlink = OwnedDescriptor(try check(cproc_diag_open(), "cannot open SOCK_DIAG"))
        let states = TCPState.allCases.filter { $0.isMovable || $0 == .listen }.reduce(UInt32(0)) { $0 | 1 << UInt32($1.rawValue) }
        for family in [AF_INET, AF_INET6] {
            let result = cproc_diag_inet(
                netlink.raw, UInt8(family), 6, states, 0,
                { socket, context in
                    let box = Unmanaged<Box>.fromOpaque(context!).takeUnretainedValue()
                    guard let local = SocketAddress(socket!.pointee.local), socket!.pointee.inode != 0, box.isWanted(local) else { return 0 }
                    box.found.append(
                        Socket(inode: socket!.pointee.inode, isListener: UInt32(socket!.pointee.state) == UInt32(TCPState.listen.rawValue)))
                    return 0
                }, nil, Unmanaged.passUnretained(box).toOpaque())
            try check(result, "cannot list the TCP sockets")
        }
        // An interrupted dump is begun anew and may name a socket twice.
        var seen: Set<UInt64> = []
        return withExtendedLifetime(box) { box.found.filter { seen.insert($0.inode).inserted } }
    }

    /// The processes that have each of the sockets, by inode.
    private static func owners(of inodes: Set<UInt64>) -> [UInt64: [Int32]] {
        var owners: [UInt64: [Int32]] = [:]
        if inodes.isEmpty { return owners }
        for pid in numericEntries(of: "/proc") where pid != getpid() {
            guard let process = try? TargetProcess(pid: pid), let numbers = try? process.descriptors() else { continue }
            var seen: Set<UInt64> = []
            for fd in numbers {
                guard let link = process.link(of: fd), link.hasPrefix("socket:["), let inode = UInt64(link.dropFirst(8).dropLast()),
                    inodes.contains(inode),
                    seen.insert(inode).inserted
                else { continue }
                owners[inode, default: []].append(pid)
            }
        }
        return owners
    }

    /// The process itself or the next one above it that is among `pids`.
    private static func ancestor(of pid: Int32, among pids: Set<Int32>) -> Int32? {
        var current = pid
        for _ in 0..<64 where current > 1 {
            if pids.contains(current) { return current }
            guard let text = readText("/proc/\(current)/stat"), let end = text.lastIndex(of: ")") else { return nil }
            let fields = text[text.index(after: end)...].split(separator: " ")
            guard fields.count > 1, let parent = Int32(fields[1]) else { return nil }
            current = parent
        }
        return nil
    }
}
