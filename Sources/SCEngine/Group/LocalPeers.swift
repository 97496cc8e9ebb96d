// Which processes are at the other ends of a process's pipes and Unix sockets, for `inspect`.

import Glibc

/// One look at the whole system, for any number of processes.
package struct LocalPeers {
    private let table = DescriptorTable.ofSystem()

    package init() {}

    /// Fills in who is at the other end of each pipe and unnamed Unix socket, as `PID:FD NAME`; up to three of them.
    package func complete(_ channels: inout [Channel], of process: TargetProcess) {
        for index in channels.indices where channels[index].peer.isEmpty {
            let channel = channels[index]
            var others: [DescriptorTable.Holder]
            switch channel.kind {
            case .unix where channel.peerInode != 0: others = table.holders["socket:[\(channel.peerInode)]"] ?? []
            case .pipe:
                let own = DescriptorTable.Holder(pid: process.pid, fd: channel.fd)
                others = (table.holders["pipe:[\(channel.inode)]"] ?? []).filter { $0 != own && isWriter($0) != isWriter(own) }
            default: continue
            }
            let names = others.prefix(3).map { "\($0.pid):\($0.fd) \(table.processes[$0.pid]?.command ?? "?")" }
            channels[index].peer = names.joined(separator: ", ") + (others.count > 3 ? ", …" : "")
        }
    }

    private func isWriter(_ holder: DescriptorTable.Holder) -> Bool { table.accessMode(holder) != O_RDONLY }
}
