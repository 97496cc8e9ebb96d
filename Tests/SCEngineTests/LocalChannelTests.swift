// Each kind of local channel is read without being disturbed and made again: content, boundaries, flags, ends, what travels in a queue.

import CProc
import Glibc
import SCImage
import Support
import Testing

@testable import SCEngine

/// Descriptors of this very process, captured as if it were a session's.
private struct Subject {
    let group: SessionGroup
    let capture: LocalCapture
    let digests = FileDigests()

    init(_ descriptors: [Int32], digest: Bool = false) throws {
        let process = try TargetProcess(pid: getpid())
        let unix = try UnixSockets(in: .current()).byInode
        var ends: [SessionGroup.End] = []
        for fd in descriptors {
            let channel = try Prober().channel(fd, of: process)
            var end = SessionGroup.End(kind: channel.kind, holders: [(0, fd)], inode: channel.inode)
            end.isWriter = channel.state != "READ"
            end.isReader = channel.state != "WRITE"
            ends.append(end)
        }
        for (index, end) in ends.enumerated() where end.kind == .unix {
            let peer = unix[end.inode]?.peer ?? 0
            ends[index].peer = peer == 0 ? nil : ends.firstIndex { $0.kind == .unix && $0.inode == peer }
        }
        var member = SessionGroup.Member(process: process, role: "test")
        member.descriptors = descriptors.enumerated().map { SessionDescriptor(fd: $1, channel: $0, name: "d\($0)") }
        var group = SessionGroup(connections: [], members: [member], ends: ends)
        group.unix = unix
        self.group = group
        if digest { for fd in descriptors { _ = try digests.digest(of: fd) } }
        capture = try LocalCapture(group, connections: [], baselines: LocalBaselines(in: .current()), digests: digests)
    }

    /// The session as it comes out of an image.
    func session() throws -> Session {
        let session = Session(
            id: .random(), channels: [], locals: try capture.capture(), processes: group.processes)
        var writer = try ImageWriter(MemorySink(), Inventory())
        try writer.write(session)
        try writer.finish()
        var reader = try ImageReader(MemorySource(writer.sink.bytes))
        #expect(try reader.next() == session)
        return session
    }

    func restored(in namespace: NetworkNamespace? = nil) throws -> RestoredLocals {
        try RestoredLocals(session(), connections: [], in: namespace ?? .current())
    }
}

private func pipe(capacity: Int32 = 65536) throws -> (reader: SharedDescriptor, writer: SharedDescriptor) {
    var ends: [Int32] = [-1, -1]
    try check(cproc_pipe_of(&ends, capacity), "a pipe")
    return (SharedDescriptor(ends[0]), SharedDescriptor(ends[1]))
}

private func pair(_ type: __socket_type) throws -> (SharedDescriptor, SharedDescriptor) {
    var ends: [Int32] = [-1, -1]
    try check(cproc_unix_pair(Int32(type.rawValue), .max, .max, &ends), "a pair")
    return (SharedDescriptor(ends[0]), SharedDescriptor(ends[1]))
}

private func say(_ fd: Int32, _ bytes: [UInt8]) { #expect(write(fd, bytes, bytes.count) == bytes.count) }
private func say(_ fd: Int32, _ text: String) { say(fd, Array(text.utf8)) }

/// One read or message; nil when nothing waits, "" at the end or for an empty message.
private func hear(_ fd: Int32, _ count: Int = 1 << 21) -> [UInt8]? {
    if cproc_poll(fd, Int16(POLLIN), 0) <= 0 { return nil }
    var buffer = [UInt8](repeating: 0, count: count)
    let length = read(fd, &buffer, count)
    return length < 0 ? nil : Array(buffer[..<length])
}

private func text(_ fd: Int32) -> String? { hear(fd).map { String(decoding: $0, as: UTF8.self) } }

/// All messages that wait.
private func texts(_ fd: Int32) -> [String] {
    var result: [String] = []
    while let next = text(fd), result.count < 100 { result.append(next) }
    return result
}

private func noise(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8.random(in: 0...255) } }

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: buffers are forced, users are changed"))
struct LocalChannelTests {
    // MARK: Pipes

    @Test(arguments: [65536, 1 << 20]) func `a full pipe comes back byte by byte and stays as it was`(capacity: Int) throws {
        let pipe = try pipe(capacity: Int32(capacity))
        let content = noise(capacity)
        say(pipe.writer.raw, content)
        _ = fcntl(pipe.writer.raw, F_SETFL, O_NONBLOCK)
        let restored = try Subject([pipe.reader.raw, pipe.writer.raw]).restored()
        let (reader, writer) = (restored.descriptors[0], restored.descriptors[1])
        #expect(cproc_pipe_capacity(reader) == capacity)
        #expect(fcntl(writer, F_GETFL) & (O_NONBLOCK | O_ACCMODE) == O_NONBLOCK | O_WRONLY)
        #expect(fcntl(reader, F_GETFL) & (O_NONBLOCK | O_ACCMODE) == O_RDONLY)
        // It is full, as the source's is.
        #expect(write(writer, "x", 1) == -1 && errno == EAGAIN)
        #expect(hear(reader) == content)
        say(writer, "more")
        #expect(text(reader) == "more")
        #expect(hear(pipe.reader.raw) == content)
    }

    @Test func `packets of a pipe stay packets`() throws {
        let pipe = try pipe()
        #expect(cproc_set_description_flags(pipe.writer.raw, DescriptionFlags.direct.rawValue) == 0)
        let packets = ["one", "and two", "3"]
        for packet in packets { say(pipe.writer.raw, packet) }
        let subject = try Subject([pipe.reader.raw, pipe.writer.raw])
        #expect(try subject.capture.capture()[0].messages.map(\.length) == [3, 7, 1])
        let restored = try subject.restored()
        #expect(texts(restored.descriptors[0]) == packets)
        say(restored.descriptors[1], "x")
        say(restored.descriptors[1], "y")
        #expect(texts(restored.descriptors[0]) == ["x", "y"])
        #expect(texts(pipe.reader.raw) == packets)
    }

    @Test func `a pipe without a writer ends after its bytes, one without a reader breaks`() throws {
        var (pipe, other) = (try pipe(), try pipe())
        say(pipe.writer.raw, "last words")
        pipe.writer = SharedDescriptor(dup(2))
        other.reader = SharedDescriptor(dup(2))
        let restored = try Subject([pipe.reader.raw, other.writer.raw]).restored()
        #expect(text(restored.descriptors[0]) == "last words")
        #expect(text(restored.descriptors[0]) == "")
        signal(SIGPIPE, SIG_IGN)
        #expect(write(restored.descriptors[1], "x", 1) == -1 && errno == EPIPE)
    }

    @Test func `several descriptions of one pipe are one pipe again`() throws {
        let pipe = try pipe()
        say(pipe.writer.raw, "shared")
        let both = SharedDescriptor(open("/proc/self/fd/\(pipe.reader.raw)", O_RDWR | O_CLOEXEC))
        let again = SharedDescriptor(open("/proc/self/fd/\(pipe.writer.raw)", O_WRONLY | O_CLOEXEC | O_NONBLOCK))
        let restored = try Subject([pipe.reader.raw, pipe.writer.raw, both.raw, again.raw]).restored()
        #expect(restored.descriptors.map { fcntl($0, F_GETFL) & O_ACCMODE } == [O_RDONLY, O_WRONLY, O_RDWR, O_WRONLY])
        #expect(restored.descriptors.map { fcntl($0, F_GETFL) & O_NONBLOCK != 0 } == [false, false, false, true])
        for fd in restored.descriptors.dropFirst() { say(fd, "+") }
        #expect(text(restored.descriptors[0]) == "shared+++")
    }

    // MARK: Unix sockets

    @Test(arguments: [SOCK_SEQPACKET, SOCK_DGRAM]) func `messages keep their boundaries both ways`(type: __socket_type) throws {
        let (a, b) = try pair(type)
        let big = String(repeating: "0123456789", count: 15000)
        let toB = ["first", "", "third", big, ""]
        for message in toB { #expect(send(a.raw, message, message.utf8.count, 0) == message.utf8.count) }
        say(b.raw, "back")
        let restored = try Subject([a.raw, b.raw]).restored()
        #expect(texts(restored.descriptors[1]) == toB)
        #expect(texts(restored.descriptors[0]) == ["back"])
        say(restored.descriptors[0], "alive")
        #expect(texts(restored.descriptors[1]) == ["alive"])
        // Not consumed at the source.
        #expect(texts(b.raw) == toB)
        #expect(texts(a.raw) == ["back"])
    }

    @Test func `a stream that takes no more comes back whole`() throws {
        let (a, b) = try pair(SOCK_STREAM)
        _ = fcntl(a.raw, F_SETFL, O_NONBLOCK)
        var sent: [UInt8] = []
        while true {
            let chunk = noise(Int.random(in: 1...9000))
            let count = write(a.raw, chunk, chunk.count)
            if count < 0 { break }
            sent += chunk.prefix(count)
        }
        #expect(sent.count > 50_000)
        let restored = try Subject([a.raw, b.raw]).restored()
        #expect(fcntl(restored.descriptors[0], F_GETFL) & O_NONBLOCK != 0)
        var heard: [UInt8] = []
        while let part = hear(restored.descriptors[1], 4096) { heard += part }
        #expect(heard == sent)
        say(restored.descriptors[0], "again")
        #expect(text(restored.descriptors[1]) == "again")
        var kept: [UInt8] = []
        while let part = hear(b.raw, 4096) { kept += part }
        #expect(kept == sent)
    }

    @Test(arguments: [SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM]) func `descriptors travel in a queue`(type: __socket_type) throws {
        let (a, b) = try pair(type)
        let pipe = try pipe()
        say(a.raw, "before")
        #expect(cproc_send_message(a.raw, "with", 4, [pipe.writer.raw, a.raw], 2, nil) == 4)
        say(a.raw, "after")
        let restored = try Subject([a.raw, b.raw, pipe.reader.raw, pipe.writer.raw]).restored()
        for (receiver, reader) in [(restored.descriptors[1], restored.descriptors[2]), (b.raw, pipe.reader.raw)] {
            var fds = [Int32](repeating: -1, count: 4)
            var (bytes, count) = ([UInt8](repeating: 0, count: 100), Int32(4))
            #expect(cproc_recv_fds(receiver, &bytes, 6, &fds, &count) == 6 && count == 0)
            count = 4
            #expect(cproc_recv_fds(receiver, &bytes, 4, &fds, &count) == 4 && count == 2)
            // The writing end of this pipe, and the other end of this pair.
            say(fds[0], "through the pipe")
            #expect(text(reader) == "through the pipe")
            #expect(text(receiver) == "after")
            say(fds[1], "through the socket")
            #expect(text(receiver) == "through the socket")
            for fd in fds.prefix(2) { close(fd) }
        }
    }

    @Test func `a descriptor in a queue that is no channel of the session is refused`() throws {
        let (a, b) = try pair(SOCK_STREAM)
        let stranger = try pipe()
        #expect(cproc_send_message(a.raw, "x", 1, [stranger.reader.raw], 1, nil) == 1)
        let error = #expect(throws: CheckpointError.self) { try Subject([a.raw, b.raw]).session() }
        #expect(error?.description.contains("a descriptor travels in its queue: pipe:[") == true, "\(error!)")
        // And is still there.
        var (fds, count, byte) = ([Int32](repeating: -1, count: 1), Int32(1), UInt8(0))
        #expect(cproc_recv_fds(b.raw, &byte, 1, &fds, &count) == 1 && count == 1)
        close(fds[0])
    }

    @Test(arguments: [SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM]) func `what was shut down stays so`(type: __socket_type) throws {
        let (a, b) = try pair(type)
        say(a.raw, "last")
        #expect(shutdown(a.raw, Int32(SHUT_WR)) == 0)
        say(b.raw, "still")
        let subject = try Subject([a.raw, b.raw])
        let restored = try subject.restored()
        let (newA, newB) = (restored.descriptors[0], restored.descriptors[1])
        #expect(text(newB) == "last")
        if type != SOCK_DGRAM { #expect(text(newB) == "") }
        #expect(text(newA) == "still")
        signal(SIGPIPE, SIG_IGN)
        #expect(write(newA, "x", 1) == -1 && errno == EPIPE)
        say(newB, "more")
        #expect(text(newA) == "more")
    }

    @Test(arguments: [SOCK_STREAM, SOCK_SEQPACKET]) func `an end whose other end is closed has its bytes and then the end`(type: __socket_type) throws
    {
        var (a, b) = try pair(type)
        say(a.raw, "left behind")
        a = SharedDescriptor(dup(2))
        let restored = try Subject([b.raw]).restored()
        for fd in [restored.descriptors[0], b.raw] {
            #expect(text(fd) == "left behind")
            #expect(text(fd) == "")
            signal(SIGPIPE, SIG_IGN)
            #expect(write(fd, "x", 1) == -1 && errno == EPIPE)
        }
        b = SharedDescriptor(dup(2))
    }

    @Test func `credentials and options come along`() throws {
        var ends: [Int32] = [-1, -1]
        #expect(cproc_unix_pair(Int32(SOCK_SEQPACKET.rawValue), 33, 34, &ends) == 0)
        let (a, b) = (SharedDescriptor(ends[0]), SharedDescriptor(ends[1]))
        #expect(cproc_setsockopt_int(b.raw, SOL_SOCKET, 16, 1) == 0)  // SO_PASSCRED
        #expect(cproc_setsockopt_int(a.raw, SOL_SOCKET, SO_SNDBUF, 40_000) == 0)
        #expect(cproc_setsockopt_int(b.raw, SOL_SOCKET, 42, 3) == 0)  // SO_PEEK_OFF
        var sender = cproc_sender(pid: getpid(), uid: 33, gid: 34)
        #expect(cproc_send_message(a.raw, "as www-data", 11, nil, 0, &sender) == 11)
        let restored = try Subject([a.raw, b.raw]).restored()
        for (one, other) in [(a.raw, b.raw), (restored.descriptors[0], restored.descriptors[1])] {
            #expect(SocketView(one).option(SOL_SOCKET, SO_SNDBUF) == 80_000)
            #expect(SocketView(other).option(SOL_SOCKET, 16) == 1)
            #expect(SocketView(other).option(SOL_SOCKET, 42) == 3)
            var (pid, uid, gid): (Int32, UInt32, UInt32) = (0, 0, 0)
            #expect(cproc_peer_credentials(one, &pid, &uid, &gid) == 0 && (uid, gid) == (33, 34))
            var fds = [Int32](repeating: -1, count: 253)
            var (message, bytes) = (cproc_message(), [UInt8](repeating: 0, count: 100))
            #expect(cproc_setsockopt_int(other, SOL_SOCKET, 42, 0) == 0)
            #expect(cproc_peek_message(other, &bytes, 100, &fds, &message) == 0 && message.length == 11)
            #expect(message.has_sender == 1 && (message.sender.uid, message.sender.gid) == (33, 34))
        }
    }

    // MARK: UDP sockets and files

    @Test(arguments: [AF_INET, AF_INET6]) func `a connected UDP socket has its datagrams`(family: Int32) throws {
        let loopback = family == AF_INET ? "127.0.0.1" : "::1"
        func bound(_ namespace: NetworkNamespace) throws -> (SharedDescriptor, SocketAddress) {
            let socket = SharedDescriptor(try namespace.socket(family: family, type: Int32(SOCK_DGRAM.rawValue)))
            var address = SocketAddress(IPAddress(loopback)!, port: 0).endpoint
            #expect(cproc_bind(socket.raw, &address) == 0)
            let own = SocketView(socket.raw).local!
            return (socket, own)
        }
        let (client, clientAddress) = try bound(.current())
        let (server, serverAddress) = try bound(.current())
        var (toServer, toClient) = (serverAddress.endpoint, clientAddress.endpoint)
        #expect(cproc_connect(client.raw, &toServer) == 0 && cproc_connect(server.raw, &toClient) == 0)
        let messages = ["first", "", String(repeating: "long", count: 10_000), "last"]
        for message in messages { #expect(send(client.raw, message, message.utf8.count, 0) == message.utf8.count) }
        #expect(cproc_setsockopt_int(server.raw, family == AF_INET ? 0 : 41, family == AF_INET ? 2 : 16, 33) == 0)  // IP_TTL
        let elsewhere = try NetworkNamespace.make()
        let restored = try Subject([server.raw]).restored(in: elsewhere)
        let socket = restored.descriptors[0]
        #expect(SocketView(socket).local == serverAddress && SocketView(socket).peer == clientAddress)
        #expect(SocketView(socket).option(family == AF_INET ? 0 : 41, family == AF_INET ? 2 : 16) == 33)
        #expect(texts(socket) == messages)
        #expect(texts(server.raw) == messages)
    }

    @Test func `a file has its position and flags, and has to be the same`() throws {
        let path = "/tmp/sc-local-\(getpid())"
        defer { unlink(path) }
        try writeFile(path, "0123456789")
        let file = SharedDescriptor(open(path, O_RDWR | O_APPEND | O_CLOEXEC))
        #expect(lseek(file.raw, 4, SEEK_SET) == 4)
        let restored = try Subject([file.raw]).restored()
        #expect(lseek(restored.descriptors[0], 0, SEEK_CUR) == 4)
        #expect(fcntl(restored.descriptors[0], F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK) == O_RDWR | O_APPEND)
        #expect(text(restored.descriptors[0]) == "456789")
        #expect(text(file.raw) == "456789")

        let byTime = try Subject([file.raw]).session()
        let byContent = try Subject([file.raw], digest: true).session()
        func refusal(_ session: Session) -> String? {
            do { _ = try RestoredLocals(session, connections: [], in: .current()) } catch { return "\(error)" }
            return nil
        }
        try writeFile(path, "0123456789")
        #expect(refusal(byTime)?.contains("it was changed at another time") == true)
        #expect(refusal(byContent) == nil)
        try writeFile(path, "012345678X")
        #expect(refusal(byContent)?.contains("its SHA-256 is another one") == true)
        try writeFile(path, "longer than before")
        #expect(refusal(byContent)?.contains("it has 18 bytes, not 10") == true)
        unlink(path)
        #expect(refusal(byTime)?.contains("cannot open \(path)") == true)
        mkfifo(path, 0o600)
        #expect(refusal(byTime)?.contains("it is no regular file") == true)
    }

    // MARK: Facts

    @Test func `a second capture sees what the first saw`() throws {
        let (a, b) = try pair(SOCK_STREAM)
        let pipe = try pipe()
        say(a.raw, "bytes")
        #expect(cproc_send_message(a.raw, "x", 1, [pipe.reader.raw], 1, nil) == 1)
        say(pipe.writer.raw, "in the pipe")
        let subject = try Subject([a.raw, b.raw, pipe.reader.raw, pipe.writer.raw])
        #expect(try subject.capture.capture() == subject.capture.capture())
        #expect(SocketView(b.raw).option(SOL_SOCKET, 42) == -1)
    }

    /// A peek passes over an empty message that was looked at before, so a second capture would lose it.
    @Test(arguments: [SOCK_SEQPACKET, SOCK_DGRAM]) func `an empty message that was looked at before is noticed`(type: __socket_type) throws {
        let (a, b) = try pair(type)
        for message in ["x", "", "y", "", ""] { #expect(send(a.raw, message, message.utf8.count, 0) == message.utf8.count) }
        let subject = try Subject([a.raw, b.raw])
        #expect(try subject.capture.capture()[1].messages.map(\.length) == [1, 0, 1, 0, 0])
        let error = #expect(throws: CheckpointError.self) { try subject.capture.capture() }
        #expect(error?.what.contains("3 empty messages in its queue") == true, "\(String(describing: error))")
        // They are still there, for a receiver that takes them; afterwards all is well.
        #expect(texts(b.raw) == ["x", "", "y", "", ""])
        say(a.raw, "z")
        for _ in 0..<2 { #expect(try subject.capture.capture()[1].messages.map(\.length) == [1]) }
    }

    @Test func `what lives elsewhere is taken out`() throws {
        let (a, b) = try pair(SOCK_SEQPACKET)
        let (c, d) = try pair(SOCK_STREAM)
        let pipe = try pipe()
        for message in ["x", "", "", "y"] { #expect(send(a.raw, message, message.utf8.count, 0) == message.utf8.count) }
        say(c.raw, noise(150_000))
        say(pipe.writer.raw, noise(60_000))
        try Subject([a.raw, b.raw, c.raw, d.raw, pipe.reader.raw, pipe.writer.raw]).capture.empty()
        for fd in [b.raw, d.raw, pipe.reader.raw] { #expect(cproc_poll(fd, Int16(POLLIN), 0) == 0) }
        say(a.raw, "next")
        #expect(text(b.raw) == "next")
    }
}
