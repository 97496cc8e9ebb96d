// The log of libsc: what it keeps, what it refuses, and how a successor repeats what its client has.

import CProc
import Glibc
import SC
import SCAgent
import SCEngine
import Testing

/// A server's side, as its callbacks see it.
private final class Server {
    var sc: OpaquePointer!
    var session: OpaquePointer?
    var fd: Int32 = -1
    var logs = true
    var calls: [String] = []

    init(_ path: String, flags: UInt32 = SC_SURVIVE) throws {
        setenv("SC_AGENT_SOCKET", path, 1)
        var callbacks = sc_callbacks_t()
        callbacks.size = MemoryLayout<sc_callbacks_t>.size
        callbacks.offer = { _, offer, user in sc_accept(offer, user, &Server.of(user).session) }
        callbacks.`import` = { c, user, content in
            let server = Server.of(user)
            server.calls.append("import")
            server.fd = content!.pointee.fds[0]
            return server.logs ? sc_log(c, server.fd, 0) : 0
        }
        callbacks.resume = { _, user in Server.of(user).calls.append("resume") }
        callbacks.gone = { c, user in
            Server.of(user).calls.append("gone")
            sc_end(c)
        }
        try #require(sc_open("test", 7, &callbacks, Unmanaged.passUnretained(self).toOpaque(), flags, &sc) == 0)
    }

    deinit { sc_close(sc) }

    static func of(_ pointer: UnsafeMutableRawPointer?) -> Server { Unmanaged<Server>.fromOpaque(pointer!).takeUnretainedValue() }

    /// A session with a connection, and the client's end of that.
    func accept() throws -> (c: OpaquePointer, fd: Int32, client: Int32) {
        var c: OpaquePointer?
        try #require(sc_create(sc, Unmanaged.passUnretained(self).toOpaque(), &c) == 0)
        let pair = try tcpPair()
        try #require(sc_associate(c, pair.server, "client") == 0)
        return (c!, pair.server, pair.client)
    }

    func dispatch(until isDone: () -> Bool) {
        let deadline = Deadline(milliseconds: 3000)
        while !isDone(), !deadline.hasPassed {
            _ = cproc_poll(sc_fd(sc), Int16(POLLIN), 50)
            _ = sc_dispatch(sc)
        }
    }
}

@Suite(.serialized) struct LogTests {
    private let path = "/tmp/libsc-log-\(getpid()).sock"

    private func say(_ client: Int32, _ text: String) { _ = send(client, text, text.utf8.count, 0) }

    private func hear(_ client: Int32) -> String {
        var buffer = [UInt8](repeating: 0, count: 65536)
        guard cproc_poll(client, Int16(POLLIN), 200) > 0 else { return "" }
        let count = recv(client, &buffer, buffer.count, 0)
        return String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)
    }

    private func read(_ session: (c: OpaquePointer, fd: Int32, client: Int32), _ count: Int = 100) -> String {
        var buffer = [UInt8](repeating: 0, count: count)
        let read = sc_read(session.c, session.fd, &buffer, count)
        return String(decoding: buffer.prefix(max(0, read)), as: UTF8.self)
    }

    @Test func `without an agent, without a log and without memory reading and writing are the plain calls`() throws {
        unlink(path)
        for flags in [0, SC_SURVIVE] {
            let server = try Server(path, flags: flags)
            let session = try server.accept()
            #expect(sc_log(session.c, session.fd, 0) == (flags == 0 ? -EINVAL : 0))
            #expect(sc_log_left(session.c) == (flags == 0 ? Int.max : Int(SC_LOG_DEFAULT)) || flags == 0)
            say(session.client, "abc")
            #expect(read(session) == "abc")
            #expect(sc_write(session.c, session.fd, "defg", 4) == 4 && hear(session.client) == "defg")
            #expect(sc_export(session.c, "state", 5) == 0)
            close(session.client)
            #expect(read(session) == "")
            sc_end(session.c)
            close(session.fd)
        }
    }

    @Test func `wrong use of the log is told and changes nothing`() throws {
        unlink(path)
        let server = try Server(path)
        let (session, other) = (try server.accept(), try server.accept())
        #expect(sc_log(session.c, session.fd, 100) == -EINVAL && sc_log(session.c, session.fd, Int(SC_LOG_MAX) + 1) == -EINVAL)
        #expect(sc_log(session.c, other.fd, 0) == -ENOENT && sc_log(session.c, -1, 0) == -ENOENT && sc_log(session.c, 1 << 20, 0) == -ENOENT)
        #expect(sc_log(session.c, session.fd, 4096) == 0 && sc_log(session.c, session.fd, 0) == -EALREADY)
        var byte: UInt8 = 0
        #expect(sc_recv(session.c, session.fd, &byte, 1, Int32(MSG_OOB)) == -EOPNOTSUPP)
        #expect(sc_send(session.c, session.fd, &byte, 1, Int32(MSG_OOB)) == -EOPNOTSUPP)
        #expect(sc_recv(session.c, session.fd, &byte, 1, Int32(MSG_DONTWAIT)) == -EAGAIN)
        #expect(sc_readv(session.c, session.fd, nil, -1) == -EINVAL && sc_writev(session.c, session.fd, nil, 100_000) == -EINVAL)
        #expect(sc_sendfile(session.c, session.fd, -1, nil, 10) == -EBADF)
        #expect(sc_read(session.c, -1, &byte, 1) == -EBADF && sc_write(session.c, 1 << 20, &byte, 1) == -EBADF)
        // All that has left no trace.
        say(session.client, "x")
        #expect(read(session) == "x" && sc_log_left(session.c) == 4095)
        #expect(sc_dissociate(session.c, session.fd) == 0)
        #expect(sc_log_left(session.c) == Int(bitPattern: UInt.max) && sc_log(session.c, session.fd, 0) == -ENOENT)
        close(session.client)
        #expect(sc_write(other.c, other.fd, "y", 1) == 1 && hear(other.client) == "y")
    }

    /// A session, and what an agent would find of it after its server's death.
    private final class Watched {
        let session: (c: OpaquePointer, fd: Int32, client: Int32)
        private let agent: FakeAgent
        private let server: Server
        private let memory: ServerMemory
        private let number: UInt64

        init(_ path: String) throws {
            (agent, server) = (try FakeAgent(path), try Server(path))
            _ = try agent.accept()
            try agent.welcome(version: 2)
            server.dispatch { [server] in sc_status(server.sc) == 1 }
            memory = ServerMemory(file: try #require(try agent.next().fds.first))
            session = try server.accept()
            number = try agent.next().bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_head.self) }.continuation
        }

        func resolve() throws(CheckpointError) -> ParkedSession {
            let counted = SocketView(session.fd).counted!
            return try memory.session(number, [.init(role: "client")]).resolve(read: counted.read, written: counted.written)
        }
    }

    @Test func `a full log is told, reading goes on, and an export makes room`() throws {
        let scene = try Watched(path)
        let session = scene.session
        func resolve() throws(CheckpointError) -> ParkedSession { try scene.resolve() }
        #expect(sc_log(session.c, session.fd, 4096) == 0)
        #expect(throws: CheckpointError.self) { try resolve() }
        #expect(sc_export(session.c, "zero", 4) == 0)
        #expect(try resolve().state == Array("zero".utf8) && resolve().repetition == nil)
        let text = String(repeating: "0123456789", count: 500)
        say(session.client, text)
        #expect(read(session, 4000).utf8.count == 4000 && sc_log_left(session.c) == 96)
        #expect(sc_write(session.c, session.fd, "answer", 6) == 6)
        #expect(try resolve().input == Array(text.utf8.prefix(4000)) && resolve().repetition?.literal == Array("answer".utf8))
        // Not more than the log takes; then without it.
        #expect(read(session, 4000).utf8.count == 96 && sc_log_left(session.c) == 0)
        #expect(read(session, 4000).utf8.count == 5000 - 4096)
        #expect(throws: CheckpointError.self) { try resolve() }
        #expect(sc_export(session.c, "one", 3) == 0 && sc_log_left(session.c) == 4096)
        #expect(try resolve().state == Array("one".utf8) && resolve().repetition == nil)
        // More output than is kept: the beginning is hashed.
        let large = [UInt8](repeating: 7, count: 100_000)
        var left = large.count
        while left > 0 {
            let count = sc_send(session.c, session.fd, large, left, Int32(MSG_DONTWAIT))
            if count == -EAGAIN { _ = hear(session.client) } else { left -= count }
        }
        let repetition = try #require(try resolve().repetition)
        #expect(repetition.hashed > 0 && Int(repetition.hashed) + repetition.literal.count == large.count)
        #expect(repetition.hash == sc_memory_hash(0, 0, large, repetition.hashed))
        // Past the log: what cannot be proved is not taken.
        say(session.client, "hidden")
        var byte: UInt8 = 0
        #expect(recv(session.fd, &byte, 1, 0) == 1)
        let error = #expect(throws: CheckpointError.self) { try resolve() }
        #expect(error?.why.contains("without the log") == true, "\(error?.description ?? "")")
        sc_end(session.c)
        #expect(throws: CheckpointError.self) { try resolve() }
        close(session.fd)
        close(session.client)
    }

    @Test func `the hash is the same for any division of the bytes, and finds changes of every kind`() {
        var generator = SystemRandomNumberGenerator()
        for length in [0, 1, 7, 8, 9, 63, 64, 65, 1000, 5000] {
            let bytes = (0..<length).map { _ in UInt8.random(in: 0...255, using: &generator) }
            let whole = sc_memory_hash(0, 0, bytes, UInt64(length))
            for _ in 0..<50 {
                var (hash, at) = (UInt64(0), 0)
                while at < length {
                    let piece = Array(bytes[at..<min(length, at + Int.random(in: 1...150))])
                    hash = sc_memory_hash(hash, UInt64(at), piece, UInt64(piece.count))
                    at += piece.count
                }
                #expect(hash == whole, "\(length) bytes")
            }
        }
        // The same change in two places, in every lane; two words changed for each other; a word moved.
        let text = (0..<1024).map { _ in UInt8.random(in: 97...122) }
        let hash = sc_memory_hash(0, 0, text, 1024)
        for lane in 0..<8 {
            for distance in stride(from: 8, to: 900, by: 8) {
                for bit in 0..<8 {
                    var other = text
                    other[lane] ^= 1 << UInt8(bit)
                    other[lane + distance] ^= 1 << UInt8(bit)
                    #expect(sc_memory_hash(0, 0, other, 1024) != hash, "bit \(bit) of bytes \(lane) and \(lane + distance)")
                }
            }
        }
        var swapped = text
        for lane in 0..<8 { swapped.swapAt(lane, lane + 512) }
        #expect(sc_memory_hash(0, 0, swapped, 1024) != hash)
        #expect(sc_memory_hash(0, 0, Array(text[1...]) + [text[0]], 1024) != hash)
    }

    @Test func `without a log a session can be taken only where it was exported`() throws {
        let scene = try Watched(path)
        let session = scene.session
        func resolve() throws(CheckpointError) -> ParkedSession { try scene.resolve() }
        say(session.client, "abc")
        #expect(read(session, 2) == "ab" && sc_export(session.c, "two", 3) == 0)
        #expect(try resolve().state == Array("two".utf8) && resolve().repetition == nil)
        #expect(read(session, 1) == "c")
        #expect(throws: CheckpointError.self) { try resolve() }
        #expect(sc_export(session.c, "three", 5) == 0 && sc_write(session.c, session.fd, "x", 1) == 1)
        #expect(throws: CheckpointError.self) { try resolve() }
        #expect(sc_export(session.c, "four", 4) == 0)
        #expect(try resolve().state == Array("four".utf8))
        close(session.client)
        close(session.fd)
    }

    /// An imported session whose former process had sent "hello, world" since its export, and its client's end.
    private func importing(_ server: Server, _ agent: FakeAgent, hashing count: Int = 0) throws -> (c: OpaquePointer, fd: Int32, client: Int32) {
        _ = try agent.accept()
        try agent.welcome(version: 2)
        #expect(sc_accept_offers(server.sc, 1) == 0)
        server.dispatch { sc_status(server.sc) == 1 }
        _ = try (agent.next(), agent.next())
        try agent.offer(1 << 63, peer: "192.0.2.7:9")
        server.dispatch { server.session != nil }
        let number = try agent.next().bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_accepted.self) }.continuation
        let text = "hello, world"
        try agent.repeat(
            number, hashed: UInt64(count), hash: sc_memory_hash(0, 0, text, UInt64(count)), literal: String(text.dropFirst(count)))
        let pair = try tcpPair()
        try agent.bring(number, state: "abc", version: 7, fd: pair.server)
        server.dispatch { !server.calls.isEmpty }
        close(pair.server)
        let answer = try agent.next()
        guard server.logs else {
            #expect(answer.type == SC_WIRE_REFUSED)
            return (server.session!, server.fd, pair.client)
        }
        #expect(answer.type == SC_WIRE_READY)
        try agent.say(SC_WIRE_RESUME, number)
        server.dispatch { server.calls == ["import", "resume"] }
        // It is told as one of this server's own from now on.
        #expect(try agent.next().type == SC_WIRE_ASSOCIATE)
        return (server.session!, server.fd, pair.client)
    }

    @Test(arguments: [0, 5, 12]) func `what the client has is compared and kept back, and what is new is sent`(hashed: Int) throws {
        let agent = try FakeAgent(path)
        let server = try Server(path)
        let session = try importing(server, agent, hashing: hashed)
        #expect(sc_write(session.c, session.fd, "hel", 3) == 3 && hear(session.client) == "")
        // An export in the middle is none to go back to, and a cooperative move has to wait.
        #expect(sc_export(session.c, "later", 5) == 0)
        try agent.park(1 << 32)
        var parts = [iovec(), iovec()]
        let (one, two) = (strdup("lo, wor")!, strdup("ld and on")!)
        (parts[0], parts[1]) = (iovec(iov_base: one, iov_len: 7), iovec(iov_base: two, iov_len: 9))
        #expect(sc_writev(session.c, session.fd, parts, 2) == 16 && hear(session.client) == " and on")
        free(one)
        free(two)
        say(session.client, "input")
        #expect(read(session) == "input")
        close(session.client)
        close(session.fd)
    }

    @Test(arguments: [0, 5, 12]) func `a difference ends the session and never reaches the client`(hashed: Int) throws {
        let agent = try FakeAgent(path)
        let server = try Server(path)
        let session = try importing(server, agent, hashing: hashed)
        #expect(sc_write(session.c, session.fd, "hello, World and on", 19) == -EILSEQ)
        var byte: UInt8 = 0
        #expect(sc_write(session.c, session.fd, "more", 4) == -EILSEQ && sc_read(session.c, session.fd, &byte, 1) == -EILSEQ)
        #expect(recv(session.client, &byte, 1, 0) == -1 && errno == ECONNRESET)
        let told = try agent.next()
        #expect(told.type == SC_WIRE_DIFFERS)
        let reason = told.bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_reason.self) }
        let text = withUnsafeBytes(of: reason.text) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        #expect(text.contains(hashed == 12 ? "the hash" : "at byte 7") && text.contains("differs"), "\(text)")
        sc_end(session.c)
        close(session.fd)
        // The server serves on.
        let other = try server.accept()
        #expect(sc_write(other.c, other.fd, "y", 1) == 1 && hear(other.client) == "y")
    }

    @Test func `a server without a log refuses a session whose output would come twice`() throws {
        let agent = try FakeAgent(path)
        let server = try Server(path)
        server.logs = false
        let session = try importing(server, agent)
        #expect(server.calls == ["import", "gone"])
        close(session.fd)
        close(session.client)
    }

    @Test func `an agent of the former version is told nothing of the memory`() throws {
        let agent = try FakeAgent(path)
        let server = try Server(path)
        _ = try agent.accept()
        try agent.welcome(version: 1)
        server.dispatch { sc_status(server.sc) == 1 }
        let session = try server.accept()
        #expect(try agent.next().type == SC_WIRE_ASSOCIATE)
        #expect(sc_log(session.c, session.fd, 0) == 0)
        close(session.fd)
        close(session.client)
    }

    @Test func `input can be read where the log has it, until it is full`() throws {
        unlink(path)
        let server = try Server(path)
        let session = try server.accept()
        var bytes: UnsafeRawPointer?
        #expect(sc_recv_in_place(session.c, session.fd, &bytes, 10, 0) == -EOPNOTSUPP)
        #expect(sc_log(session.c, session.fd, 4096) == 0)
        #expect(sc_recv_in_place(session.c, session.fd, &bytes, 10, Int32(MSG_DONTWAIT)) == -EAGAIN)
        #expect(sc_recv_in_place(session.c, session.fd, &bytes, 10, Int32(MSG_PEEK)) == -EOPNOTSUPP)
        say(session.client, String(repeating: "x", count: 4095) + "yz")
        #expect(sc_recv_in_place(session.c, session.fd, &bytes, 4000, 0) == 4000)
        let first = bytes
        #expect(sc_recv_in_place(session.c, session.fd, &bytes, 4000, 0) == 96 && bytes == first! + 4000)
        #expect(first!.load(fromByteOffset: 4095, as: UInt8.self) == UInt8(ascii: "y"))
        #expect(sc_recv_in_place(session.c, session.fd, &bytes, 1, 0) == -ENOBUFS)
        #expect(sc_export(session.c, "state", 5) == 0 && sc_recv_in_place(session.c, session.fd, &bytes, 100, 0) == 1)
        #expect(bytes!.load(as: UInt8.self) == UInt8(ascii: "z"))
        close(session.fd)
        close(session.client)
    }

    @Test func `a file is sent through the log, from its position or from a place`() throws {
        unlink(path)
        let server = try Server(path)
        let session = try server.accept()
        #expect(sc_log(session.c, session.fd, 0) == 0)
        let file = cproc_memfd("file")
        #expect(write(file, "0123456789", 10) == 10 && lseek(file, 2, SEEK_SET) == 2)
        #expect(sc_sendfile(session.c, session.fd, file, nil, 4) == 4 && lseek(file, 0, SEEK_CUR) == 6)
        var offset: off_t = 8
        #expect(sc_sendfile(session.c, session.fd, file, &offset, 100) == 2 && offset == 10 && lseek(file, 0, SEEK_CUR) == 6)
        #expect(sc_sendfile(session.c, session.fd, file, &offset, 100) == 0)
        #expect(hear(session.client) == "234589")
        for fd in [file, session.fd, session.client] { close(fd) }
    }
}
