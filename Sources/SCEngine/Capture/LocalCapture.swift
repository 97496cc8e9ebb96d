// The local channels of a session whose processes stand still: read without consuming a byte, and emptied once they live elsewhere.
//
// Pipes are copied by tee(2), sockets are read by MSG_PEEK.

import CProc
import Glibc
import SCImage

/// Duplicates of a group's descriptions. The processes have to stand still from `init` to the end of `capture` or `empty`.
package final class LocalCapture {
    private let group: SessionGroup
    private let copies: [SharedDescriptor]
    private let connections: [Int32]
    private let digests: FileDigests
    private let baselines: LocalBaselines

    /// `connections`: duplicates of the group's TCP sockets, borrowed.
    package init(
        _ group: SessionGroup, connections: [Int32], baselines: LocalBaselines, digests: FileDigests
    ) throws(CheckpointError) {
        (self.group, self.connections, self.baselines, self.digests) = (group, connections, baselines, digests)
        var copies: [SharedDescriptor] = []
        for end in group.ends {
            let (member, fd) = end.holders[0]
            let process = group.members[member].process
            guard let copy = process.duplicate(fd, withInode: end.inode) else {
                throw CheckpointError(
                    "cannot take a copy of descriptor \(fd) of process \(process.pid) (\(process.command))", why: "it became another one meanwhile",
                    errno: ESTALE, advice: "Try again")
            }
            copies.append(SharedDescriptor(copy))
        }
        self.copies = copies
    }

    /// The channels by themselves, in the order of the group's ends. `withQueues` false: as an offer has them, of processes that run.
    package func capture(withQueues: Bool = true) throws(CheckpointError) -> [LocalChannel] {
        var channels: [LocalChannel] = []
        var pipes: Set<UInt64> = []
        for (index, end) in group.ends.enumerated() {
            do throws(CheckpointError) {
                var channel = try describe(index)
                if withQueues {
                    switch end.kind {
                    case .pipe: if pipes.insert(end.inode).inserted { try readPipe(end, into: &channel) }
                    case .unix, .udp:
                        let peek = SocketPeek(copies[index].raw, channel.detail) { raw throws(CheckpointError) in try self.channelIndex(of: raw) }
                        try peek.read(into: &channel)
                        if let peer = end.peer { try requireNothingHidden(channel, sender: copies[peer].raw) }
                    default: break
                    }
                }
                channels.append(channel)
            } catch {
                let (member, fd) = end.holders[0]
                let process = group.members[member].process
                throw error.during("cannot capture descriptor \(fd) of process \(process.pid) (\(process.command))")
            }
        }
        return channels
    }

    private func describe(_ index: Int) throws(CheckpointError) -> LocalChannel {
        let (end, raw) = (group.ends[index], copies[index].raw)
        var channel: LocalChannel
        switch end.kind {
        case .unix: channel = LocalChannel(.unix(try unixState(index)))
        case .pipe:
            let capacity = try check(cproc_pipe_capacity(raw), "the size of the pipe")
            // Numbered in the order of their first ends, as an inode means nothing elsewhere.
            var seen: [UInt64] = []
            for end in group.ends where end.kind == .pipe && !seen.contains(end.inode) { seen.append(end.inode) }
            channel = LocalChannel(.pipe(PipeEndState(pipe: seen.firstIndex(of: end.inode)!, capacity: Int(capacity))))
        case .udp:
            guard let local = SocketView(raw).local, let peer = SocketView(raw).peer else {
                throw CheckpointError("its addresses cannot be read", why: "it is no longer connected", errno: ENOTCONN)
            }
            channel = LocalChannel(.udp(UDPSocketState(local: local, peer: peer)))
        default: channel = LocalChannel(.file(try fileState(end, raw)))
        }
        channel.flags = DescriptionFlags(rawValue: UInt32(try check(cproc_description_flags(raw), "its flags")))
        guard end.kind == .unix || end.kind == .udp else { return channel }
        channel.sendBuffer = UInt32(max(0, SocketView(raw).option(SOL_SOCKET, SO_SNDBUF) ?? 0))
        channel.receiveBuffer = UInt32(max(0, SocketView(raw).option(SOL_SOCKET, SO_RCVBUF) ?? 0))
        channel.socketOptions = try baselines.differences(of: raw, channel.detail)
        return channel
    }

    private func unixState(_ index: Int) throws(CheckpointError) -> UnixSocketState {
        let (end, raw) = (group.ends[index], copies[index].raw)
        guard let entry = group.unix[end.inode] else {
            throw CheckpointError("its state cannot be read", why: "it is not in the session's network namespace", errno: EXDEV)
        }
        if SocketView(raw).hasUrgentData {
            throw CheckpointError("urgent data waits in it", why: "MSG_OOB would be lost", errno: EOPNOTSUPP)
        }
        var state = UnixSocketState(type: entry.type, peer: end.peer.map { $0 + connections.count })
        state.shutdown = entry.shutdown
        state.name = Array(entry.name.utf8)
        if state.name.first == UInt8(ascii: "@") { state.name[0] = 0 }
        var (pid, uid, gid): (Int32, UInt32, UInt32) = (0, 0, 0)
        if cproc_peer_credentials(raw, &pid, &uid, &gid) >= 0 { state.peerCredentials = Credentials(pid: pid, uid: uid, gid: gid) }
        return state
    }

    private func fileState(_ end: SessionGroup.End, _ raw: Int32) throws(CheckpointError) -> RegularFileState {
        var stat = cproc_stat()
        try check(cproc_fstat(raw, &stat), "its file")
        // What a running process had under this number may be another file by now.
        let path = ownLink(of: raw)
        guard path.hasPrefix("/"), !path.hasSuffix(" (deleted)") else {
            throw CheckpointError("its file has gone", why: path, errno: ENOENT, advice: "Leave it behind with --leave")
        }
        var state = RegularFileState(path: Array(path.utf8), size: stat.size, modified: stat.mtime_ns)
        state.position = UInt64(try check(lseek(raw, 0, SEEK_CUR), "its position"))
        state.sha256 = digests.known(stat) ?? []
        return state
    }

    private func ownLink(of raw: Int32) -> String {
        var link = [CChar](repeating: 0, count: 4097)
        let count = max(0, readlink("/proc/self/fd/\(raw)", &link, link.count))
        return String(decoding: link.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    // MARK: Queues

    private func readPipe(_ end: SessionGroup.End, into channel: inout LocalChannel) throws(CheckpointError) {
        // Without a reader there is nothing that anybody could still read.
        guard let reader = group.ends.firstIndex(where: { $0.kind == .pipe && $0.inode == end.inode && $0.isReader }) else { return }
        var raw: Int32 = -1
        let count = Int(try check(cproc_pipe_copy(copies[reader].raw, &raw), "copying what is in the pipe"))
        let copy = OwnedDescriptor(raw)
        let isPackets = group.ends.indices.contains { index in
            let other = group.ends[index]
            return other.kind == .pipe && other.inode == end.inode && other.isWriter
                && cproc_description_flags(copies[index].raw) & Int32(DescriptionFlags.direct.rawValue) != 0
        }
        var chunk = [UInt8](repeating: 0, count: max(1, count))
        while true {
            let length = read(copy.raw, &chunk, chunk.count)
            guard length > 0 else { break }
            channel.queue += chunk.prefix(length)
            if isPackets || channel.messages.isEmpty {
                channel.messages.append(QueuedMessage(length: length))
            } else {
                channel.messages[0].length += length
            }
        }
        guard channel.queue.count == count else {
            throw CheckpointError("what is in the pipe cannot be read", why: "\(channel.queue.count) of \(count) bytes came", errno: EIO)
        }
    }

    /// Which channel a descriptor in flight is; one that is none of the session's cannot be rebuilt.
    private func channelIndex(of raw: Int32) throws(CheckpointError) -> Int {
        for (index, other) in (connections + copies.map(\.raw)).enumerated() where inode(of: other) == inode(of: raw) {
            if try check(cproc_same_file(getpid(), raw, getpid(), other), "comparing descriptors") == 0 { return index }
        }
        throw CheckpointError(
            "a descriptor travels in its queue", why: "\(ownLink(of: raw)) is no channel of the session", errno: EOPNOTSUPP,
            advice: "Try again when it has been received")
    }

    // MARK: After the move

    /// The bytes live elsewhere now: takes them out, so that the processes that are left behind do not handle them a second time.
    package func empty() { Self.empty(zip(group.ends, copies).filter { $0.0.kind == .unix || ($0.0.kind == .pipe && $0.0.isReader) }.map(\.1.raw)) }

    /// Empties pipes and Unix sockets through these descriptors, which nobody reads meanwhile.
    static func empty(_ descriptors: [Int32]) {
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        for raw in descriptors {
            if SocketView(raw).domain == AF_UNIX {
                // At the end of a stream, and of messages from a closed end, there is 0 for ever.
                var empty = 0
                while empty <= SocketPeek.emptyLimit {
                    let result = cproc_drop_message(raw)
                    if result < 0 { break }
                    empty = result == 0 ? empty + 1 : 0
                }
                continue
            }
            var left = Int(cproc_siocinq(raw))
            while left > 0 {
                let count = read(raw, &chunk, min(left, chunk.count))
                if count <= 0 { break }
                left -= count
            }
        }
    }
}

extension SourceEntry.Local {
    /// Its descriptor, if it is still that channel.
    private var descriptor: SharedDescriptor? {
        guard let copy = (try? TargetProcess(pid: pid))?.duplicate(fd, withInode: inode) else { return nil }
        return SharedDescriptor(copy)
    }

    /// Empties those that are still there.
    static func empty(_ locals: [SourceEntry.Local]) {
        let descriptors = locals.compactMap(\.descriptor)
        withExtendedLifetime(descriptors) { LocalCapture.empty(descriptors.map(\.raw)) }
    }

    /// Puts back what a capture that was killed in its middle has changed.
    static func putBack(_ locals: [SourceEntry.Local]) {
        for local in locals {
            guard let offset = local.peekOffset, let descriptor = local.descriptor else { continue }
            SocketPeek.setOffset(of: descriptor.raw, offset)
        }
    }
}
