// The channels of a session's processes: which are taken, which stay behind, which make the session impossible to move.

import CProc
import Glibc
import SCImage

/// Goes through the descriptors of the members. A channel is taken when both its ends are in the session; what leads out of it is left behind when it is
/// plainly the server's, and refused by name otherwise.
struct GroupChannels {
    let table: DescriptorTable
    let unix: [UInt64: UnixSockets.Entry]
    let connections: [SelectedSession]
    let request: GroupRequest
    let root: Int32
    let members: [Int32]
    let shared: Set<Int32>
    /// nil: all that its process has.
    var own: [Set<Int32>]?
    /// Nil when the processes stand still: then only they have been looked at, and what leads out and was not known before is refused.
    let finder: GroupFinder?
    var group: SessionGroup
    var connectionHolders: [[(member: Int, fd: Int32)]]
    /// What was decided about a pipe or a pair of sockets, by one of its links.
    var decided: [String: Bool] = [:]

    /// The group as it is now, while its processes run.
    static func find(
        _ root: TargetProcess, _ connections: [SelectedSession], _ request: GroupRequest
    ) throws(CheckpointError) -> SessionGroup {
        let finder = try GroupFinder(root, connections, request)
        let (pids, shared) = try finder.members()
        let group = SessionGroup.of(pids.compactMap { finder.table.processes[$0] }, shared: shared, connections)
        var channels = GroupChannels(group, root: root.pid, request, table: finder.table, unix: finder.unix, finder)
        return try channels.run()
    }

    /// The same group once its processes stand still: they may have opened and closed things since.
    static func inCut(
        _ former: SessionGroup, root: TargetProcess, _ request: GroupRequest, namespace: NetworkNamespace
    ) throws(CheckpointError) -> SessionGroup {
        var group = former
        (group.ends, group.unix) = ([], [:])
        for index in group.members.indices { group.members[index].descriptors = [] }
        let table = DescriptorTable(of: former.processesToStop)
        let unix = try table.unixSockets(in: namespace, besides: former.connections)
        var channels = GroupChannels(group, root: root.pid, request, table: table, unix: unix, nil)
        for link in former.leftLinks { channels.decided[link] = false }
        return try channels.run()
    }

    /// A group of which nobody but those in the table has to be looked at.
    /// `own`: each member's descriptors, where one process stands for several.
    static func found(
        _ group: SessionGroup, root: Int32, _ request: GroupRequest, table: DescriptorTable, unix: [UInt64: UnixSockets.Entry],
        own: [Set<Int32>]? = nil
    ) throws(CheckpointError) -> SessionGroup {
        var channels = GroupChannels(group, root: root, request, table: table, unix: unix, nil)
        channels.own = own
        return try channels.run()
    }

    private init(
        _ group: SessionGroup, root: Int32, _ request: GroupRequest, table: DescriptorTable, unix: [UInt64: UnixSockets.Entry],
        _ finder: GroupFinder?
    ) {
        (self.group, self.root, self.request, self.table, self.unix, self.finder) = (group, root, request, table, unix, finder)
        connections = group.connections
        members = group.members.map(\.process.pid)
        shared = Set(group.members.filter(\.isShared).map(\.process.pid))
        connectionHolders = Array(repeating: [], count: connections.count)
    }

    private mutating func run() throws(CheckpointError) -> SessionGroup {
        for (member, pid) in members.enumerated() {
            for (fd, link) in table.links[pid] ?? []
            where own?[member].contains(fd) ?? true && !request.leave.contains(where: { ($0.pid ?? root) == pid && $0.fd == fd }) {
                try look(at: link, member, fd)
            }
        }
        for (index, holders) in connectionHolders.enumerated() where holders.isEmpty {
            let channel = connections[index].channel
            throw CheckpointError(
                "the session ended meanwhile", why: "no process has \(channel.local) <- \(channel.peer) any longer", errno: ENOTCONN)
        }
        try connectUnixEnds()
        for end in group.ends where end.kind == .unix { group.unix[end.inode] = unix[end.inode] }
        for member in members.indices.reversed() where isUnused(member) { drop(member) }
        group.nameDescriptors(connectionHolders: connectionHolders)
        group.leftLinks.formUnion(decided.filter { !$0.value }.keys)
        return group
    }

    // MARK: One descriptor

    private mutating func look(at link: String, _ member: Int, _ fd: Int32) throws(CheckpointError) {
        let pid = members[member]
        if let index = connections.firstIndex(where: { "socket:[\($0.channel.inode)]" == link }) {
            connectionHolders[index].append((member, fd))
        } else if link.hasPrefix("pipe:") {
            if try isTaken(link, member, fd) { try addPipeEnd(link, member, fd) }
        } else if let inode = link.inode(of: "socket"), let socket = unix[inode] {
            if socket.state != "ESTABLISHED" { return leaveUnconnected(socket, link, member, fd) }
            if try isTaken(link, member, fd) { add(.unix, inode, member, fd) }
        } else if link.hasPrefix("socket:") || link.hasPrefix("/") {
            if shared.contains(pid) && !isNamed(link) { return }
            guard let process = table.processes[pid], let channel = try? Prober().channel(fd, of: process) else { return }
            switch channel.kind {
            case .udp: lookAtUDP(channel, link, member)
            case .file: try lookAtFile(channel, link, member)
            case .tcp where channel.tcpState != .listen: leave(link, member, fd, "another connection, \(channel.local) <- \(channel.peer)")
            case .pipe: leave(link, member, fd, "a named pipe, \(link)")
            default: break
            }
        }
    }

    private mutating func lookAtUDP(_ channel: Channel, _ link: String, _ member: Int) {
        guard !channel.peer.isEmpty else { return leave(link, member, channel.fd, "a UDP socket without a peer, which is the server's") }
        guard channel.fd > 2 || isNamed(link) else { return }
        let outside = table.holders[link]?.first { !members.contains($0.pid) }
        if let outside { return leave(link, member, channel.fd, "process \(outside.pid) has it too") }
        if request.channels.isEmpty || isNamed(link) { add(.udp, channel.inode, member, channel.fd) }
    }

    private mutating func lookAtFile(_ channel: Channel, _ link: String, _ member: Int) throws(CheckpointError) {
        guard isNamed(link) || (request.channels.isEmpty && channel.fd > 2) else { return }
        if link.hasPrefix("/memfd:") { return leave(link, member, channel.fd, "a memory file") }
        for other in table.holders[link] ?? [] where !members.contains(other.pid) {
            guard try isSame(other, DescriptorTable.Holder(pid: members[member], fd: channel.fd)) else { continue }
            return leave(link, member, channel.fd, "\(link), whose position process \(other.pid) shares")
        }
        if channel.state != "READ", !isNamed(link) {
            return leave(link, member, channel.fd, "\(link), open for writing: the receiver opens its own")
        }
        guard !link.hasSuffix(" (deleted)") else {
            throw refusal(member, channel.fd, "it is a deleted file, \(link), which the receiver cannot find", ENOENT)
        }
        try add(.file, channel.inode, member, channel.fd, among: { $0.path == link })
        if let index = group.ends.firstIndex(where: { $0.holders.contains { $0.member == member && $0.fd == channel.fd } }) {
            group.ends[index].path = link
        }
    }

    private mutating func leaveUnconnected(_ socket: UnixSockets.Entry, _ link: String, _ member: Int, _ fd: Int32) {
        if socket.state != "LISTEN" { leave(link, member, fd, "an unconnected Unix socket") }
    }

    // MARK: The result

    func isNamed(_ link: String) -> Bool {
        request.channels.contains { name in
            guard let own = table.link(of: .init(pid: name.pid ?? root, fd: name.fd)) else { return false }
            return own == link || Self.key(own, unix) == Self.key(link, unix)
        }
    }

    mutating func add(_ kind: Channel.Kind, _ inode: UInt64, _ member: Int, _ fd: Int32) {
        if let index = group.ends.firstIndex(where: { $0.kind == kind && $0.inode == inode }) {
            group.ends[index].holders.append((member, fd))
        } else {
            group.ends.append(SessionGroup.End(kind: kind, holders: [(member, fd)], inode: inode))
        }
    }

    private mutating func addPipeEnd(_ link: String, _ member: Int, _ fd: Int32) throws(CheckpointError) {
        guard let inode = link.inode(of: "pipe") else { return }
        try add(.pipe, inode, member, fd, among: { $0.kind == .pipe && $0.inode == inode })
        let mode = table.accessMode(.init(pid: members[member], fd: fd))
        if let index = group.ends.lastIndex(where: { $0.holders.contains { $0.member == member && $0.fd == fd } }) {
            (group.ends[index].isWriter, group.ends[index].isReader) = (mode != O_RDONLY, mode != O_WRONLY)
        }
    }

    /// Inodes do not tell open file descriptions of pipes and files apart: kcmp(2) does.
    mutating func add(
        _ kind: Channel.Kind, _ inode: UInt64, _ member: Int, _ fd: Int32, among isCandidate: (SessionGroup.End) -> Bool
    ) throws(CheckpointError) {
        let own = DescriptorTable.Holder(pid: members[member], fd: fd)
        for (index, end) in group.ends.enumerated() where end.kind == kind && isCandidate(end) {
            let first = end.holders[0]
            if try isSame(own, .init(pid: members[first.member], fd: first.fd)) {
                group.ends[index].holders.append((member, fd))
                return
            }
        }
        group.ends.append(SessionGroup.End(kind: kind, holders: [(member, fd)], inode: inode))
    }

    func isSame(_ a: DescriptorTable.Holder, _ b: DescriptorTable.Holder) throws(CheckpointError) -> Bool {
        try check(
            cproc_same_file(a.pid, a.fd, b.pid, b.fd), "cannot compare descriptors of processes \(a.pid) and \(b.pid)",
            advice: "kcmp needs CAP_SYS_PTRACE and CONFIG_KCMP") == 0
    }

    private mutating func connectUnixEnds() throws(CheckpointError) {
        for (index, end) in group.ends.enumerated() where end.kind == .unix {
            guard let peer = unix[end.inode]?.peer, peer != 0 else { continue }
            group.ends[index].peer = group.ends.firstIndex { $0.kind == .unix && $0.inode == peer }
        }
    }

    mutating func leave(_ link: String, _ member: Int, _ fd: Int32, _ reason: String) {
        let key = Self.key(link, unix)
        if decided[key] == false { return }
        decided[key] = false
        group.leftOut.append("descriptor \(fd) of process \(members[member]) (\(group.members[member].process.command)): \(reason)")
    }

    func refusal(_ member: Int, _ fd: Int32, _ why: String, _ errno: Int32) -> CheckpointError {
        let pid = members[member]
        return CheckpointError(
            "cannot move descriptor \(fd) of process \(pid) (\(group.members[member].process.command))", why: why, errno: errno,
            advice: "Leave it behind with --leave \(pid == root ? "" : "\(pid):")\(fd), and the receiver has to open its own")
    }

    /// A process that was reached over channels of which none is taken.
    private func isUnused(_ member: Int) -> Bool {
        !group.ends.contains { $0.holders.contains { $0.member == member } }
            && !connectionHolders.contains { $0.contains { $0.member == member } }
    }

    private mutating func drop(_ member: Int) {
        group.members.remove(at: member)
        for index in group.ends.indices {
            group.ends[index].holders = group.ends[index].holders.map { ($0.member > member ? $0.member - 1 : $0.member, $0.fd) }
        }
        for index in connectionHolders.indices {
            connectionHolders[index] = connectionHolders[index].map { ($0.member > member ? $0.member - 1 : $0.member, $0.fd) }
        }
    }
}

extension SessionGroup {
    static func of(_ processes: [TargetProcess], shared: Set<Int32>, _ connections: [SelectedSession]) -> SessionGroup {
        let members = zip(processes, roles(of: processes)).map { Member(process: $0, role: $1, isShared: shared.contains($0.pid)) }
        return SessionGroup(connections: connections, members: members, ends: [])
    }
}
