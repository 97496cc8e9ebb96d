// Which processes serve a session, and which of their channels belong to it.
//
// The processes: those that hold the connection; from them, over unnamed Unix sockets and pipes, those at the other ends, and so on, as long as they are
// of one family. The way ends at a process that serves other sessions too (a worker that all share), and at the server that started them. What is not
// clear is refused, with the choice.

import CProc
import Glibc
import SCImage

/// What the user chose.
package struct GroupRequest: Sendable, Equatable {
    /// The channels besides the TCP connections; empty: they are found.
    package var channels: [DescriptorName] = []
    /// TCP connections that were named by their descriptors: only so may a session have several.
    package var connections: [Int32] = []
    /// Descriptors that stay behind.
    package var leave: [DescriptorName] = []
    /// All children of the process are of the session.
    package var tree = false

    package init() {}
}

/// One search. It looks at every process of the system once.
struct GroupFinder {
    private let root: TargetProcess
    private let connections: [SelectedSession]
    private let request: GroupRequest
    let table: DescriptorTable
    let unix: [UInt64: UnixSockets.Entry]
    /// Holders of the connections; the search begins here.
    private var serving: [Int32] = []
    private var servers: Set<Int32> = []
    /// Of one family are the descendants of this one: the topmost process above a serving one that runs the same program.
    private var familyRoot: Int32

    init(_ root: TargetProcess, _ connections: [SelectedSession], _ request: GroupRequest) throws(CheckpointError) {
        guard connections.count == 1 || connections.allSatisfy({ request.connections.contains($0.channel.fd) }) else {
            throw CheckpointError(
                "cannot tell which connections make up the session", why: "\(connections.count) are selected, and --with-ipc moves one session",
                errno: EINVAL, advice: "Name its connection with --peer ADDR:PORT, or each of them with --fd", outcome: .usage)
        }
        (self.root, self.connections, self.request) = (root, connections, request)
        table = .ofSystem()
        unix = try UnixSockets(in: NetworkNamespace.of(pid: root.pid)).byInode
        familyRoot = root.pid
        for connection in connections {
            for pid in holders(ofSocket: connection.channel.inode) where !serving.contains(pid) { serving.append(pid) }
        }
        guard let first = serving.first, let ancestors = table.processes[first]?.ancestors else { return }
        servers = Set(serving.flatMap { table.processes[$0]?.ancestors ?? [] }.filter { !serving.contains($0) && isServer($0) })
        familyRoot = ancestors.prefix { isSameProgram($0, first) }.last ?? first
    }

    private func holders(ofSocket inode: UInt64) -> [Int32] { (table.holders["socket:[\(inode)]"] ?? []).map(\.pid) }

    /// A process above a serving one that listens, or that runs another program: the server itself, or whoever supervises it.
    private func isServer(_ pid: Int32) -> Bool {
        guard let process = table.processes[pid], let first = serving.first, isSameProgram(pid, first) else { return true }
        return ((try? Prober().channels(of: process)) ?? []).contains { $0.tcpState == .listen || $0.state == "LISTEN" }
    }

    private func isSameProgram(_ a: Int32, _ b: Int32) -> Bool {
        var (one, other) = (stat(), stat())
        return stat("/proc/\(a)/exe", &one) == 0 && stat("/proc/\(b)/exe", &other) == 0 && one.st_ino == other.st_ino && one.st_dev == other.st_dev
    }

    private func isFamily(_ pid: Int32) -> Bool {
        pid == familyRoot || table.processes[pid]?.ancestors.contains(familyRoot) == true
    }

    /// The processes of the session in the order in which they were found, and those among them that serve others too.
    func members() throws(CheckpointError) -> (pids: [Int32], shared: Set<Int32>) {
        guard request.channels.isEmpty else {
            let pids = try namedMembers()
            return (pids, Set(pids.filter(servesOthers)))
        }
        var pids = serving
        if request.tree { for process in root.tree() where !pids.contains(process.pid) { pids.append(process.pid) } }
        for pid in pids { try requireOneSession(pid) }
        var shared: Set<Int32> = []
        var next = 0
        while next < pids.count {
            defer { next += 1 }
            if shared.contains(pids[next]) { continue }
            // One that has another connection serves another session; it shares something with this one at most.
            for pid in neighbours(of: pids[next]) where !pids.contains(pid) && otherConnections(of: pid).isEmpty {
                pids.append(pid)
                if servesOthers(pid) { shared.insert(pid) }
            }
        }
        return (pids, shared)
    }

    /// With channels named, the processes at their ends and no others.
    private func namedMembers() throws(CheckpointError) -> [Int32] {
        var pids = serving
        for name in request.channels {
            let holder = DescriptorTable.Holder(pid: name.pid ?? root.pid, fd: name.fd)
            guard let link = table.link(of: holder) else {
                throw CheckpointError(
                    "process \(holder.pid) has no descriptor \(name.fd)", why: "it is not open, or there is no such process", errno: EBADF,
                    advice: "List them with sc-checkpoint inspect \(holder.pid)")
            }
            for pid in [holder.pid] + ends(of: link).map(\.pid) where !pids.contains(pid) { pids.append(pid) }
        }
        return pids
    }

    /// An event loop with many clients has channels of many sessions, and nothing tells which is whose.
    private func requireOneSession(_ pid: Int32) throws(CheckpointError) {
        let others = otherConnections(of: pid)
        guard let first = others.first, let process = table.processes[pid] else { return }
        throw CheckpointError(
            "cannot tell which channels of process \(pid) (\(process.command)) belong to the session",
            why:
                "it has \(others.count) other connection\(others.count == 1 ? "" : "s"), as \(first.local) <- \(first.peer) (descriptor \(first.fd))",
            errno: EOPNOTSUPP,
            advice:
                "Name the session's channels with --fd [PID:]N (sc-checkpoint inspect \(pid) --tree lists them), or all connections of the process")
    }

    private func otherConnections(of pid: Int32) -> [Channel] {
        guard let process = table.processes[pid] else { return [] }
        let chosen = Set(connections.map(\.channel.inode))
        return ((try? Prober().channels(of: process)) ?? []).filter {
            $0.kind == .tcp && $0.tcpState?.isMovable == true && !chosen.contains($0.inode)
        }
    }

    /// Whether another connection can be reached from the process without passing one that serves this session.
    private func servesOthers(_ pid: Int32) -> Bool {
        var (seen, next) = (Set(serving + [pid]), [pid])
        while let current = next.popLast() {
            if !otherConnections(of: current).isEmpty { return true }
            for neighbour in neighbours(of: current) where seen.insert(neighbour).inserted { next.append(neighbour) }
        }
        return false
    }

    /// Who is at the other ends of a process's unnamed channels. Its standard streams lead to whoever started it, not to a session.
    private func neighbours(of pid: Int32) -> [Int32] {
        var result: [Int32] = []
        for (fd, link) in table.links[pid] ?? [] where fd > 2 && !isLeft(pid, fd) {
            guard isUnnamed(link), serverHolding(link) == nil else { continue }
            for other in ends(of: link) where other.pid != pid && !result.contains(other.pid) && isFamily(other.pid) {
                result.append(other.pid)
            }
        }
        return result
    }

    func isLeft(_ pid: Int32, _ fd: Int32) -> Bool {
        request.leave.contains { ($0.pid ?? root.pid) == pid && $0.fd == fd }
    }

    /// A pipe, or a Unix socket that has no name on either end: its ends were given to these processes, not found by them.
    func isUnnamed(_ link: String) -> Bool {
        if link.hasPrefix("pipe:") { return true }
        guard let inode = link.inode(of: "socket"), let socket = unix[inode] else { return false }
        return socket.state == "ESTABLISHED" && socket.name.isEmpty && (unix[socket.peer]?.name ?? "").isEmpty
    }

    /// Every descriptor of either end of a channel.
    func ends(of link: String) -> [DescriptorTable.Holder] {
        var links = [link]
        if let inode = link.inode(of: "socket"), let peer = unix[inode]?.peer, peer != 0 { links.append("socket:[\(peer)]") }
        return links.flatMap { table.holders[$0] ?? [] }
    }

    /// Its other connections make a process one that serves another session too.
    func servesAnother(_ pid: Int32) -> Bool { !otherConnections(of: pid).isEmpty }

    /// A process that started the session's and has an end of this channel: then it is the server's, and the session's have inherited it.
    func serverHolding(_ link: String) -> Int32? { ends(of: link).first { servers.contains($0.pid) || $0.pid == 1 }?.pid }
}
