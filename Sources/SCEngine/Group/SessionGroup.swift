// The processes that serve one session, the channels that join them, and what every descriptor is called.

import CProc
import Glibc
import SCImage

/// What is moved when a session is served by several processes: found by `GroupFinder`, or put together by whoever knows better.
package struct SessionGroup {
    /// One process of the session.
    package struct Member {
        package let process: TargetProcess
        package var role: String
        /// It serves other sessions as well, so only what joins it to this one's processes is taken.
        package var isShared = false
        /// By ascending number. `channel` counts the TCP connections first, then `ends`.
        package var descriptors: [SessionDescriptor] = []

        package init(process: TargetProcess, role: String, isShared: Bool = false) {
            (self.process, self.role, self.isShared) = (process, role, isShared)
        }
    }

    /// One open file description that is no TCP connection.
    package struct End {
        package var kind: Channel.Kind
        /// Who has it: indexes of `members`, and numbers there. Never empty.
        package var holders: [(member: Int, fd: Int32)]
        package var inode: UInt64
        /// Unix sockets: the other end, an index of `ends`.
        package var peer: Int?
        /// Pipes: what it can do.
        package var isWriter = false
        package var isReader = true
        /// Files: where.
        package var path = ""

        package init(kind: Channel.Kind, holders: [(member: Int, fd: Int32)], inode: UInt64, peer: Int? = nil) {
            (self.kind, self.holders, self.inode, self.peer) = (kind, holders, inode, peer)
        }
    }

    package var connections: [SelectedSession]
    package var members: [Member]
    package var ends: [End]
    /// Processes that have some of the channels open and are not of the session: they are stopped for the cut, and get nothing.
    package var bystanders: [TargetProcess] = []
    /// What was left out and why, for a person.
    package var leftOut: [String] = []

    /// What the kernel says of its Unix sockets, as of when the group was found.
    package var unix: [UInt64: UnixSockets.Entry] = [:]

    /// The links (`pipe:[1]`) of what was left out.
    var leftLinks: Set<String> = []

    /// All that have to hold still for the cut.
    package var processesToStop: [TargetProcess] { members.map(\.process) + bystanders }

    /// The same processes for an image or an offer.
    package var processes: [SessionProcess] {
        members.map { SessionProcess(role: $0.role, pid: $0.process.pid, descriptors: $0.descriptors) }
    }

    package init(connections: [SelectedSession], members: [Member], ends: [End]) {
        (self.connections, self.members, self.ends) = (connections, members, ends)
    }
}

extension SessionGroup {
    /// The group without one of its ends, and without the descriptors of it.
    mutating func remove(end index: Int) {
        let channel = connections.count + index
        ends.remove(at: index)
        for other in ends.indices {
            guard let peer = ends[other].peer else { continue }
            ends[other].peer = peer == index ? nil : peer > index ? peer - 1 : peer
        }
        for member in members.indices {
            members[member].descriptors = members[member].descriptors.filter { $0.channel != channel }.map {
                SessionDescriptor(fd: $0.fd, channel: $0.channel > channel ? $0.channel - 1 : $0.channel, name: $0.name)
            }
        }
    }

    /// Gives every descriptor its name: what it is and who is at the other end, which is the same after any number of moves, unlike numbers.
    ///
    ///     front.tcp   front.unix-worker   worker.unix-front   worker.pipe-to-logger   logger.pipe-from-worker   worker.file-big.iso
    mutating func nameDescriptors(connectionHolders: [[(member: Int, fd: Int32)]]) {
        var names: [Int: [(fd: Int32, channel: Int, name: String)]] = [:]
        for (channel, holders) in connectionHolders.enumerated() {
            for holder in holders { names[holder.member, default: []].append((holder.fd, channel, "tcp")) }
        }
        for (index, end) in ends.enumerated() {
            for holder in end.holders {
                names[holder.member, default: []].append((holder.fd, connections.count + index, name(end, in: holder.member)))
            }
        }
        for (member, entries) in names {
            var names = NumberedNames()
            members[member].descriptors = entries.sorted { $0.fd < $1.fd }.map {
                SessionDescriptor(fd: $0.fd, channel: $0.channel, name: names.next($0.name))
            }
        }
    }

    private func name(_ end: End, in member: Int) -> String {
        switch end.kind {
        case .unix: return "unix" + suffix(end.peer.map { ends[$0].holders.map(\.member) } ?? [], besides: member)
        case .pipe:
            let others = ends.filter { $0.kind == .pipe && $0.inode == end.inode && $0.isWriter != end.isWriter }.flatMap { $0.holders.map(\.member) }
            let direction = end.isWriter ? (end.isReader ? "pipe" : "pipe-to") : "pipe-from"
            let other = suffix(others, besides: member)
            return other.isEmpty ? (end.isWriter ? "pipe-out" : "pipe-in") : direction + other
        case .file: return "file-" + Self.word(end.path.split(separator: "/").last.map(String.init) ?? "", longest: 64)
        default: return end.kind.rawValue
        }
    }

    private func suffix(_ others: [Int], besides member: Int) -> String {
        guard let other = others.first(where: { $0 != member }) ?? others.first else { return "" }
        return "-" + members[other].role
    }

    /// The roles of processes: their names (`/proc/PID/comm`), numbered where several have the same.
    static func roles(of processes: [TargetProcess]) -> [String] {
        var names = NumberedNames()
        return processes.map { names.next(word($0.command, longest: 48)) }
    }

    /// Only characters that mean nothing in LISTEN_FDNAMES or in a role.
    private static func word(_ text: String, longest: Int) -> String {
        let letters = text.unicodeScalars.map { scalar in
            scalar.isASCII && (Character(scalar).isLetter || Character(scalar).isNumber || "+-_".unicodeScalars.contains(scalar))
                ? Character(scalar) : "_"
        }
        return letters.isEmpty ? "process" : String(letters.prefix(longest))
    }
}

/// Makes repeated names different: `tcp`, `tcp-2`, `tcp-3`.
struct NumberedNames {
    private var count: [String: Int] = [:]

    mutating func next(_ name: String) -> String {
        count[name, default: 0] += 1
        return count[name]! == 1 ? name : "\(name)-\(count[name]!)"
    }
}
