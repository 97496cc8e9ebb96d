// Whether a pipe or a pair of Unix sockets is the session's: who is at its ends, and who else has it.

import CProc
import Glibc
import SCImage

extension GroupChannels {
    /// Whether the channel is the session's. Each is decided once.
    mutating func isTaken(_ link: String, _ member: Int, _ fd: Int32) throws(CheckpointError) -> Bool {
        let key = Self.key(link, unix)
        if let known = decided[key] { return known }
        let taken = try decide(link, member, fd)
        decided[key] = taken
        return taken
    }

    /// One name for both ends.
    static func key(_ link: String, _ unix: [UInt64: UnixSockets.Entry]) -> String {
        guard let inode = link.inode(of: "socket"), let peer = unix[inode]?.peer, peer != 0 else { return link }
        return "socket:[\(min(inode, peer))]"
    }

    private func ends(of link: String) -> [[DescriptorTable.Holder]] {
        let all = table.holders[link] ?? []
        guard link.hasPrefix("pipe:") else {
            guard let inode = link.inode(of: "socket"), let peer = unix[inode]?.peer, peer != 0 else { return [all] }
            return [all, table.holders["socket:[\(peer)]"] ?? []]
        }
        let writers = all.filter { table.accessMode($0) != O_RDONLY }
        let readers = all.filter { table.accessMode($0) != O_WRONLY }
        // An end that nobody has leads nowhere.
        return [writers, readers].filter { !$0.isEmpty }
    }

    /// Only one end of a pipe was found, and yet the other is open somewhere: in another PID namespace, or in flight.
    private func hasUnseenEnd(_ ends: [[DescriptorTable.Holder]]) -> Bool {
        guard ends.count == 1, let holder = ends[0].first, table.link(of: holder)?.hasPrefix("pipe:") == true,
            let copy = try? table.processes[holder.pid]?.duplicate(holder.fd)
        else { return false }
        // poll(2): a writing end without readers has POLLERR, a reading end without writers POLLHUP.
        return cproc_poll(copy.raw, 0, 0) & Int32(POLLERR | POLLHUP) == 0
    }

    private mutating func decide(_ link: String, _ member: Int, _ fd: Int32) throws(CheckpointError) -> Bool {
        let ends = ends(of: link)
        let all = ends.flatMap { $0 }
        let isNamed = isNamed(link)
        if !request.channels.isEmpty && !isNamed { return false }
        let inside = Set(all.filter { members.contains($0.pid) }.map(\.pid))
        // What a worker of all sessions shares with others of its kind belongs to no session.
        if inside.isSubset(of: shared), !isNamed { return false }
        if isOneWay(link) {
            guard inside.count > 1 || isNamed else {
                leave(link, member, fd, "a datagram socket that only sends, as to a log")
                return false
            }
            throw refusal(member, fd, "it is a datagram socket whose other end is not connected back", EOPNOTSUPP)
        }
        let isPrivate = Set(all.map(\.pid)).count == 1 && ends.count > 1 && ends.allSatisfy { !$0.isEmpty }
        if isPrivate, !isNamed { return false }
        if let server = finder?.serverHolding(link), !isNamed {
            leave(link, member, fd, "it leads to, or was inherited from, process \(server), which started the process")
            return false
        }
        if let outer = ends.first(where: { end in !end.contains { members.contains($0.pid) } }) ?? (hasUnseenEnd(ends) ? [] : nil) {
            return try leads(out: link, to: outer, member, fd, isNamed: isNamed)
        }
        for other in all where !members.contains(other.pid) {
            if finder?.servesAnother(other.pid) == true {
                throw refusal(
                    member, fd,
                    "process \(other.pid) (\(TargetProcess.name(of: other.pid) ?? "?")), which serves another session, has it too, and nothing "
                        + "tells whose bytes are in it", EOPNOTSUPP)
            }
            guard other.pid != 1, let process = table.processes[other.pid] else { continue }
            if !group.bystanders.contains(where: { $0.pid == other.pid }) { group.bystanders.append(process) }
        }
        return true
    }

    /// The other end is not in the session.
    private mutating func leads(
        out link: String, to outer: [DescriptorTable.Holder], _ member: Int, _ fd: Int32, isNamed: Bool
    ) throws(CheckpointError) -> Bool {
        let others = Set(outer.map(\.pid)).sorted()
        let names = others.map { "process \($0) (\(TargetProcess.name(of: $0) ?? "?"))" }.joined(separator: ", ")
        if !isNamed {
            let inside = (table.holders[link] ?? []).filter { members.contains($0.pid) }
            if inside.allSatisfy({ $0.fd <= 2 }) {
                leave(link, member, fd, "a standard stream, to \(names.isEmpty ? "nobody" : names)")
                return false
            }
        }
        let why = names.isEmpty ? "its other end is with no process that can be seen" : "its other end is with \(names), which is not of the session"
        throw refusal(member, fd, why, EXDEV)
    }

    /// Connected to a datagram socket that is not connected back: openlog(3) makes one.
    private func isOneWay(_ link: String) -> Bool {
        guard let inode = link.inode(of: "socket"), let socket = unix[inode], socket.type == Int32(SOCK_DGRAM.rawValue) else { return false }
        return socket.peer != 0 && unix[socket.peer]?.peer != inode
    }
}
