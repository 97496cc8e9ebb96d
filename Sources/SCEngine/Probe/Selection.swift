// Which sessions of a process are meant: the filters of `inspect`, `snapshot` and `migrate`.

import CProc
import Glibc
import SCImage

/// A peer as the user names it: an address, with or without a port.
package struct PeerFilter: Sendable, Equatable {
    package var address: IPAddress
    package var port: UInt16?

    /// Parses `ADDR`, `ADDR:PORT`, `[IPv6]`, `[IPv6]:PORT`.
    package init?(_ text: String) {
        var host = Substring(text)
        if text.hasPrefix("["), let end = text.firstIndex(of: "]") {
            host = text[text.index(after: text.startIndex)..<end]
            let rest = text[text.index(after: end)...]
            guard rest.isEmpty || rest.hasPrefix(":") else { return nil }
            if !rest.isEmpty {
                guard let number = UInt16(rest.dropFirst()) else { return nil }
                port = number
            }
        } else if text.filter({ $0 == ":" }).count == 1, let colon = text.firstIndex(of: ":") {
            host = text[..<colon]
            guard let number = UInt16(text[text.index(after: colon)...]) else { return nil }
            port = number
        }
        guard let address = IPAddress(host) else { return nil }
        self.address = address
    }

    func matches(_ peer: SocketAddress) -> Bool {
        peer.address.unmapped == address.unmapped && (port == nil || port == peer.port)
    }
}

/// The filters together: a channel has to pass every kind that is given.
package struct SessionFilter: Sendable {
    package var peers: [PeerFilter] = []
    package var ports: [UInt16] = []
    package var descriptors: [Int32] = []
    /// Every established session; without it and without a filter a selection is refused.
    package var all = false

    package init() {}

    package var isEmpty: Bool { peers.isEmpty && ports.isEmpty && descriptors.isEmpty && !all }

    package func matches(_ channel: Channel) -> Bool {
        if !descriptors.isEmpty, !descriptors.contains(channel.fd) { return false }
        if !ports.isEmpty {
            let own = [channel.localAddress?.port, channel.peerAddress?.port].compactMap { $0 }
            guard own.contains(where: ports.contains) else { return false }
        }
        if !peers.isEmpty {
            guard let peer = channel.peerAddress, peers.contains(where: { $0.matches(peer) }) else { return false }
        }
        return true
    }

    package var description: String {
        let parts =
            peers.map { "--peer \($0.address)\($0.port.map { ":\($0)" } ?? "")" } + ports.map { "--port \($0)" }
            + descriptors.map { "--fd \($0)" } + (all ? ["--all"] : [])
        return parts.joined(separator: " ")
    }
}

/// One session that was found: the process that holds it and what the probe said.
package struct SelectedSession {
    package let process: TargetProcess
    package let channel: Channel
}

/// Finds the sessions of a process (or, where it holds none of them itself, of its children) that the filter names.
/// Throws, naming every reason, when one that was named cannot be moved; with `--all` those are left out and returned as refused.
package func selectSessions(
    of root: TargetProcess, _ filter: SessionFilter
) throws(CheckpointError) -> (chosen: [SelectedSession], refused: [SelectedSession]) {
    guard !filter.isEmpty else {
        throw CheckpointError(
            "no session is named", why: "neither --peer, --port, --fd nor --all was given",
            advice: "List them with sc-checkpoint inspect \(root.pid)",
            outcome: .usage)
    }
    try requireDescriptors(filter.descriptors, of: root)
    var seen: Set<UInt64> = []
    let (chosen, refused) = try findSessions(of: root, filter, seen: &seen)
    if let first = refused.first, !filter.all {
        throw CheckpointError(
            "cannot move descriptor \(first.channel.fd) of process \(first.process.pid) (\(first.process.command)), \(first.channel.local) <- \(first.channel.peer)",
            why: first.channel.reason ?? "", errno: EOPNOTSUPP, advice: "sc-checkpoint inspect \(root.pid) shows what can be moved")
    }
    guard !chosen.isEmpty else {
        throw CheckpointError(
            "process \(root.pid) (\(root.command)) has no session that can be moved and matches \(filter.description)", why: "no such connection",
            errno: ENOENT, advice: "List its channels with sc-checkpoint inspect \(root.pid) --tree")
    }
    return (chosen, refused)
}

/// The sessions of a process and of its children that pass the filter, without a word about what is missing. `seen` are the sockets that were found
/// before, of other processes too.
package func findSessions(
    of root: TargetProcess, _ filter: SessionFilter, seen: inout Set<UInt64>
) throws(CheckpointError) -> (chosen: [SelectedSession], refused: [SelectedSession]) {
    var chosen: [SelectedSession] = []
    var refused: [SelectedSession] = []
    // A descriptor's number says something of the process itself only.
    let processes = filter.descriptors.isEmpty ? try Prober().channels(ofTree: root) : [(root, try Prober().channels(of: root))]
    for (process, channels) in processes {
        for channel in channels where channel.kind == .tcp && filter.matches(channel) {
            // A connection that several processes or descriptors share is one session.
            guard seen.insert(channel.inode).inserted else { continue }
            if channel.isMovable {
                chosen.append(SelectedSession(process: process, channel: channel))
            } else if channel.tcpState != .listen || !filter.descriptors.isEmpty {
                refused.append(SelectedSession(process: process, channel: channel))
            }
        }
    }
    return (chosen, refused)
}

/// Refuses a `--fd` that is not open, or that is no TCP socket, by name.
private func requireDescriptors(_ numbers: [Int32], of process: TargetProcess) throws(CheckpointError) {
    for fd in numbers {
        let channel: Channel
        do throws(CheckpointError) {
            channel = try Prober().channel(fd, of: process)
        } catch {
            guard error.errno == EBADF else { throw error }
            throw CheckpointError(
                "process \(process.pid) (\(process.command)) has no descriptor \(fd)", why: "it is not open", errno: EBADF,
                advice: "List them with sc-checkpoint inspect \(process.pid)")
        }
        guard channel.kind == .tcp else {
            let isSocket = channel.kind == .udp || channel.kind == .unix
            throw CheckpointError(
                "descriptor \(fd) of process \(process.pid) (\(process.command)) cannot be moved",
                why: "it is a \(channel.kind.rawValue), not a TCP socket",
                errno: isSocket ? EOPNOTSUPP : ENOTSOCK, advice: "List the sessions with sc-checkpoint inspect \(process.pid)")
        }
    }
}
