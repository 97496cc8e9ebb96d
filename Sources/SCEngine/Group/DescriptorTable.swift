// Who has what open, by what the links in /proc/PID/fd say: the way from a channel to the processes at its ends.

import CProc
import Glibc

/// A descriptor of a process, as a user names it: `N`, or `PID:N`.
package struct DescriptorName: Hashable, Sendable, CustomStringConvertible {
    /// nil: of the process that the command is about.
    package var pid: Int32?
    package var fd: Int32

    package init(pid: Int32? = nil, fd: Int32) { (self.pid, self.fd) = (pid, fd) }

    package init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard (1...2).contains(parts.count), let fd = Int32(parts[parts.count - 1]), fd >= 0 else { return nil }
        if parts.count == 2 {
            guard let pid = Int32(parts[0]), pid > 0 else { return nil }
            self.pid = pid
        }
        self.fd = fd
    }

    package var description: String { pid.map { "\($0):\(fd)" } ?? "\(fd)" }
}

/// The descriptors of some processes, in both directions. Those of this tool's own processes are left out: they read nothing.
struct DescriptorTable {
    struct Holder: Hashable {
        var pid: Int32
        var fd: Int32
    }

    private(set) var processes: [Int32: TargetProcess] = [:]
    /// Each process's descriptors by ascending number, with what they point to: `socket:[1]`, `pipe:[2]`, a path.
    private(set) var links: [Int32: [(fd: Int32, link: String)]] = [:]
    private(set) var holders: [String: [Holder]] = [:]

    /// Of all processes of the system; one that cannot be looked into is left out.
    static func ofSystem() -> DescriptorTable {
        var table = DescriptorTable()
        for pid in numericEntries(of: "/proc") where pid != getpid() {
            guard let process = try? TargetProcess(pid: pid), process.command != "sc-checkpoint", process.command != "sc-keeper" else { continue }
            table.add(process)
        }
        return table
    }

    /// Of these alone.
    init(of processes: [TargetProcess] = []) {
        for process in processes { add(process) }
    }

    /// Of these processes the descriptors that are named.
    init(of processes: [TargetProcess], only names: Set<DescriptorName>) {
        for process in processes { add(process) { names.contains(DescriptorName(pid: process.pid, fd: $0)) } }
    }

    private mutating func add(_ process: TargetProcess, where isWanted: (Int32) -> Bool = { _ in true }) {
        guard processes[process.pid] == nil, let numbers = try? process.descriptors() else { return }
        processes[process.pid] = process
        links[process.pid] = numbers.filter(isWanted).compactMap { fd in
            guard let link = process.link(of: fd) else { return nil }
            holders[link, default: []].append(Holder(pid: process.pid, fd: fd))
            return (fd, link)
        }
    }

    /// O_RDONLY, O_WRONLY or O_RDWR; the first when it can no longer be told.
    func accessMode(_ holder: Holder) -> Int32 {
        guard let copy = try? processes[holder.pid]?.duplicate(holder.fd) else { return O_RDONLY }
        return fcntl(copy.raw, F_GETFL) & O_ACCMODE
    }

    /// Those of the Unix sockets in it, and their peers; `besides` are none.
    func unixSockets(in namespace: NetworkNamespace, besides connections: [SelectedSession]) throws(CheckpointError) -> [UInt64: UnixSockets.Entry] {
        let inodes = Set(holders.keys.compactMap { $0.inode(of: "socket") }).subtracting(connections.map(\.channel.inode))
        return inodes.isEmpty ? [:] : try UnixSockets(inodes, in: namespace).byInode
    }

    /// What a descriptor points to; nil when it is not open.
    func link(of holder: Holder) -> String? { links[holder.pid]?.first { $0.fd == holder.fd }?.link }
}

extension String {
    /// The inode in `socket:[1]` or `pipe:[2]`.
    func inode(of kind: String) -> UInt64? {
        guard hasPrefix("\(kind):["), hasSuffix("]") else { return nil }
        return UInt64(dropFirst(kind.utf8.count + 2).dropLast())
    }
}
