// A session's local channels made anew: Unix sockets, pipes, UDP sockets, files, with what waited in them.
//
// First all descriptors, then all queues, since a queue may hold a descriptor of any of them; then what was shut down, options and flags.

import CProc
import Glibc
import SCImage

/// Owns one descriptor for each local channel of a session. Nobody else sees them until they are handed over, so all of it can be thrown away.
package final class RestoredLocals {
    private let session: Session
    private let namespace: NetworkNamespace
    private var made: [SharedDescriptor?]
    /// For each socket, who fills its queue: the other end, or one that is closed afterwards.
    private var feeders: [Int: SharedDescriptor] = [:]

    /// `connections`: the session's TCP sockets, borrowed; their descriptors may be in flight.
    package init(
        _ session: Session, connections: [Int32], in namespace: NetworkNamespace, digests: FileDigests = FileDigests()
    ) throws(CheckpointError) {
        (self.session, self.namespace) = (session, namespace)
        made = Array(repeating: nil, count: session.locals.count)
        for (index, channel) in session.locals.enumerated() where made[index] == nil {
            try step(index) { () throws(CheckpointError) in
                switch channel.detail {
                case .unix(let state): try makePair(index, state)
                case .pipe(let state): try makePipe(index, state)
                case .udp(let state): made[index] = try makeUDP(state, channel)
                case .file(let state): made[index] = try openFile(state, channel.flags, digests)
                }
            }
        }
        let all = connections + made.map { $0!.raw }
        for index in session.locals.indices { try step(index) { () throws(CheckpointError) in try fill(index, all) } }
        for index in session.locals.indices { try step(index) { () throws(CheckpointError) in try complete(index) } }
        feeders = [:]
    }

    /// One for each local channel, in their order; borrowed.
    package var descriptors: [Int32] { made.map { $0!.raw } }

    private func step(_ index: Int, _ body: () throws(CheckpointError) -> Void) throws(CheckpointError) {
        do throws(CheckpointError) { try body() } catch {
            let name = session.deliveries.first { $0.channel == session.channels.count + index }?.name ?? "channel \(session.channels.count + index)"
            throw error.during("cannot rebuild \(name)")
        }
    }

    // MARK: New descriptors

    private func makePair(_ index: Int, _ state: UnixSocketState) throws(CheckpointError) {
        var ends: [Int32] = [-1, -1]
        let who = state.peerCredentials
        try check(
            cproc_unix_pair(state.type, who?.uid ?? .max, who?.gid ?? .max, &ends), "a pair of Unix sockets",
            advice: "It is made as the user who made the source's, which needs CAP_SETUID and CAP_SETGID")
        let (own, other) = (SharedDescriptor(ends[0]), SharedDescriptor(ends[1]))
        (made[index], feeders[index]) = (own, other)
        guard let peer = state.peer.map({ $0 - session.channels.count }) else { return }
        (made[peer], feeders[peer]) = (other, own)
    }

    private func makePipe(_ index: Int, _ state: PipeEndState) throws(CheckpointError) {
        var ends: [Int32] = [-1, -1]
        try check(
            cproc_pipe_of(&ends, Int32(clamping: state.capacity)), "a pipe of \(state.capacity) bytes",
            advice: "Raise fs.pipe-max-size, or run as root")
        let (reader, writer) = (SharedDescriptor(ends[0]), SharedDescriptor(ends[1]))
        for (other, channel) in session.locals.enumerated() {
            guard case .pipe(let end) = channel.detail, end.pipe == state.pipe else { continue }
            feeders[other] = writer
            let mode = channel.flags.intersection([.writeOnly, .readWrite])
            let first = mode == .writeOnly ? writer : reader
            let isTaken = made.contains { $0?.raw == first.raw }
            if !isTaken, mode != .readWrite {
                made[other] = first
            } else {
                // Another description of the same pipe, as open(2) of /proc/PID/fd/N makes one.
                made[other] = SharedDescriptor(
                    try check(cproc_open_with("/proc/self/fd/\(first.raw)", mode.rawValue), "a second description of the pipe"))
            }
        }
    }

    private func makeUDP(_ state: UDPSocketState, _ channel: LocalChannel) throws(CheckpointError) -> SharedDescriptor {
        let family = state.local.address.isIPv6 ? AF_INET6 : AF_INET
        let socket = SharedDescriptor(try namespace.socket(family: family, type: Int32(SOCK_DGRAM.rawValue)))
        // SO_REUSEADDR, IP_FREEBIND and the like decide whether bind succeeds.
        setOptions(socket.raw, channel.socketOptions.filter { !LocalBaselines.isLate($0) })
        var (local, peer) = (state.local.endpoint, state.peer.endpoint)
        try check(
            cproc_bind(socket.raw, &local), "bind to \(state.local)",
            advice: "Give this host the address: ip address add \(state.local.address) dev lo; or leave the socket behind with --leave")
        try check(cproc_connect(socket.raw, &peer), "connect to \(state.peer)")
        return socket
    }

    private func openFile(_ state: RegularFileState, _ flags: DescriptionFlags, _ digests: FileDigests) throws(CheckpointError) -> SharedDescriptor {
        let file = try Self.checkedFile(state, flags, digests)
        try check(lseek(file.raw, off_t(state.position), SEEK_SET), "its position")
        return file
    }

    /// Opens the file that an image means, or says in what it differs.
    package static func checkedFile(
        _ state: RegularFileState, _ flags: DescriptionFlags, _ digests: FileDigests
    ) throws(CheckpointError) -> SharedDescriptor {
        let path = String(decoding: state.path, as: UTF8.self)
        let advice = "Copy it from the source with its times (rsync -t), or leave it behind with --leave"
        let raw = (state.path + [0]).withUnsafeBufferPointer { bytes in
            bytes.withMemoryRebound(to: CChar.self) { cproc_open_with($0.baseAddress!, flags.rawValue) }
        }
        let file = SharedDescriptor(try check(raw, "cannot open \(path) on \(hostName())", advice: advice))
        var stat = cproc_stat()
        try check(cproc_fstat(file.raw, &stat), "cannot look at \(path)")
        func refuse(_ why: String) -> CheckpointError {
            CheckpointError("\(path) on \(hostName()) is another file than the source's", why: why, errno: ESTALE, advice: advice)
        }
        guard stat.mode & UInt32(S_IFMT) == UInt32(S_IFREG) else { throw refuse("it is no regular file") }
        guard stat.size == state.size else { throw refuse("it has \(stat.size) bytes, not \(state.size)") }
        if state.sha256.isEmpty {
            guard stat.mtime_ns == state.modified else { throw refuse("it was changed at another time (compare the content instead: --digest)") }
        } else {
            guard try digests.digest(of: file.raw) == state.sha256 else { throw refuse("its SHA-256 is another one") }
        }
        try check(cproc_set_description_flags(file.raw, flags.rawValue), "its flags")
        return file
    }

    // MARK: Queues

    private func fill(_ index: Int, _ all: [Int32]) throws(CheckpointError) {
        let channel = session.locals[index]
        guard !channel.messages.isEmpty else { return }
        switch channel.detail {
        case .unix: try fillUnix(index, channel, all)
        case .pipe: try fillPipe(index, channel)
        case .udp(let state): try fillUDP(index, state, channel)
        case .file: break
        }
    }

    private func fillUnix(_ index: Int, _ channel: LocalChannel, _ all: [Int32]) throws(CheckpointError) {
        guard let feeder = feeders[index]?.raw, case .unix(let state) = channel.detail else { return }
        // What is queued counts against its sender, with some 800 bytes for each message besides its own.
        let room = channel.queue.count * 2 + channel.messages.count * 2048 + (1 << 20)
        try forceBuffer(feeder, SO_SNDBUF, Int32(clamping: room))
        let isStream = state.type == Int32(SOCK_STREAM.rawValue)
        try channel.forEachMessage { message, bytes throws(CheckpointError) in
            var descriptors = message.descriptors.map { all[$0] }
            var sender = message.sender.map { cproc_sender(pid: getpid(), uid: $0.uid, gid: $0.gid) }
            var rest = bytes
            repeat {
                let sent = rest.withUnsafeBytes { bytes in
                    withUnsafePointer(to: &sender) { pointer in
                        cproc_send_message(
                            feeder, bytes.baseAddress, bytes.count, descriptors, Int32(descriptors.count),
                            message.sender == nil ? nil : UnsafeRawPointer(pointer).assumingMemoryBound(to: cproc_sender.self))
                    }
                }
                try check(sent, "its queue of \(channel.queue.count) bytes")
                descriptors = []
                rest = rest.dropFirst(sent)
            } while isStream && !rest.isEmpty
        }
    }

    private func fillPipe(_ index: Int, _ channel: LocalChannel) throws(CheckpointError) {
        guard let writer = feeders[index]?.raw else { return }
        let isPackets = session.locals.contains { other in
            guard case .pipe(let end) = other.detail, case .pipe(let own) = channel.detail else { return false }
            return end.pipe == own.pipe && other.flags.isWritable && other.flags.contains(.direct)
        }
        try channel.forEachMessage { _, bytes throws(CheckpointError) in
            let count = try check(
                bytes.withUnsafeBytes { cproc_pipe_write(writer, $0.baseAddress, $0.count, isPackets ? 1 : 0) }, "its queue")
            guard count == bytes.count else {
                throw CheckpointError("its queue", why: "\(count) of \(bytes.count) bytes found room", errno: ENOSPC)
            }
        }
    }

    /// The datagrams come as from their peer, over the loopback, by a socket that may have any address (IP_TRANSPARENT).
    private func fillUDP(_ index: Int, _ state: UDPSocketState, _ channel: LocalChannel) throws(CheckpointError) {
        let isIPv6 = state.local.address.isIPv6
        let sender = try namespace.socket(family: isIPv6 ? AF_INET6 : AF_INET, type: Int32(SOCK_DGRAM.rawValue))
        try check(cproc_setsockopt_int(sender.raw, isIPv6 ? 41 : 0, isIPv6 ? 75 : 19, 1), "an address of its peer (IP_TRANSPARENT)")
        _ = cproc_setsockopt_int(sender.raw, SOL_SOCKET, SO_REUSEADDR, 1)
        var (local, peer) = (state.local.endpoint, state.peer.endpoint)
        try check(cproc_bind(sender.raw, &peer), "an address of its peer")
        try check(cproc_connect(sender.raw, &local), "its queue")
        try forceBuffer(made[index]!.raw, SO_RCVBUF, Int32(clamping: channel.queue.count * 4 + channel.messages.count * 4096 + (1 << 20)))
        try channel.forEachMessage { _, bytes throws(CheckpointError) in
            _ = try check(bytes.withUnsafeBytes { cproc_send_message(sender.raw, $0.baseAddress, $0.count, nil, 0, nil) }, "its queue")
        }
        guard cproc_poll(made[index]!.raw, Int16(POLLIN), 100) > 0 else {
            throw CheckpointError(
                "its queue", why: "the datagrams did not arrive over the loopback", errno: ENETUNREACH,
                advice: "A firewall on lo drops them, or the address \(state.local.address) is not this host's")
        }
    }

    private func forceBuffer(_ socket: Int32, _ option: Int32, _ bytes: Int32) throws(CheckpointError) {
        // SO_SNDBUFFORCE 32, SO_RCVBUFFORCE 33; the kernel doubles what is set.
        try check(cproc_setsockopt_int(socket, SOL_SOCKET, option == SO_SNDBUF ? 32 : 33, bytes / 2), "room for its queue")
    }

    // MARK: What comes last

    private func complete(_ index: Int) throws(CheckpointError) {
        let (channel, raw) = (session.locals[index], made[index]!.raw)
        switch channel.detail {
        case .unix(let state):
            try finishSocket(channel, raw)
            if let how: Int32 = [1: Int32(SHUT_RD), 2: Int32(SHUT_WR), 3: Int32(SHUT_RDWR)][state.shutdown], state.peer != nil {
                try check(shutdown(raw, how) == 0 ? 0 : -errno, "what was shut down")
            }
        case .udp: try finishSocket(channel, raw)
        case .pipe, .file: break
        }
        if case .file = channel.detail { return }
        try check(cproc_set_description_flags(raw, channel.flags.rawValue), "its flags")
    }

    private func finishSocket(_ channel: LocalChannel, _ raw: Int32) throws(CheckpointError) {
        setOptions(raw, channel.socketOptions)
        if channel.sendBuffer > 0 { try forceBuffer(raw, SO_SNDBUF, Int32(clamping: channel.sendBuffer)) }
        if channel.receiveBuffer > 0 { try forceBuffer(raw, SO_RCVBUF, Int32(clamping: channel.receiveBuffer)) }
    }

    /// An option that this kernel does not know was one that the source's application did without, too.
    private func setOptions(_ socket: Int32, _ options: [SocketOption]) {
        for option in options { _ = cproc_setsockopt(socket, option.level, option.name, option.value, UInt32(option.value.count)) }
    }
}
