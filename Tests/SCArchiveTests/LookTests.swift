// What an image looks like: protocol hints, graph, page, packets, differences.

import Glibc
import SCArchive
import SCEngine
import SCImage
import Testing

struct LookTests {
    private func hint(_ text: String, isFromClient: Bool = true) -> ProtocolHint? { ProtocolHint(Array(text.utf8), isFromClient: isFromClient) }

    @Test func `HTTP heads`() throws {
        let request = try #require(hint("POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\nhello"))
        #expect(request.name == "HTTP request")
        #expect(request.lines == ["POST /a HTTP/1.1", "Host: b", "Content-Length: 5", "(5 bytes after the head)"])
        #expect(hint("GET /a HTTP/1.1\r\nHo")?.lines.last == "(the head is not whole)")
        #expect(hint("HTTP/1.1 200 OK\r\n\r\n", isFromClient: false)?.name == "HTTP response")
        // Nothing that a terminal would obey.
        #expect(hint("GET /\u{1b}[2J HTTP/1.1\r\n\r\n")?.lines.first == "GET /\u{fffd}[2J HTTP/1.1")
        #expect(ProtocolHint([0, 1, 2, 200, 255, 3], isFromClient: true) == nil && ProtocolHint([], isFromClient: true) == nil)
    }

    @Test func `PostgreSQL messages`() throws {
        func message(_ type: Character, _ body: [UInt8]) -> [UInt8] { [type.asciiValue!, 0, 0, 0, UInt8(body.count + 4)] + body }
        func text(_ text: String) -> [UInt8] { Array(text.utf8) + [0] }
        let query = ProtocolHint(message("Q", text("SELECT 1")) + message("X", []), isFromClient: true)
        #expect(query?.name == "PostgreSQL" && query?.lines == ["Query: SELECT 1", "Terminate"])
        let startup = [0, 0, 0, 25, 0, 3, 0, 0] + text("user") + text("bob") + text("database")
        #expect(ProtocolHint(startup, isFromClient: true)?.lines == ["StartupMessage user bob database"])
        let rows = (0..<5).flatMap { _ in message("D", [0, 1, 0, 0, 0, 1, 49]) }
        let answer = ProtocolHint(
            message("T", [0, 1]) + rows + message("C", text("SELECT 5")) + message("Z", [73]) + [UInt8(ascii: "E"), 0], isFromClient: false)
        #expect(
            answer?.lines == [
                "RowDescription: 1 columns", "DataRow: 1 columns", "DataRow: 1 columns", "DataRow: 1 columns", "DataRow …",
                "CommandComplete: SELECT 5", "ReadyForQuery: idle", "ErrorResponse (not whole)", "(5 rows in all)",
            ])
    }

    @Test func `TLS records and Redis commands`() {
        let hello = [22, 3, 1, 0, 4, 1, 0, 0, 0] as [UInt8]
        #expect(
            ProtocolHint(hello + [23, 3, 3, 0, 9, 1], isFromClient: true)?.lines == [
                "Handshake ClientHello, 4 bytes", "application data, 9 bytes (not whole)",
            ])
        #expect(hint("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")?.lines == ["GET k"])
    }

    @Test func `a page holds nothing that its image could make it do`() {
        let evil = "GET /<script>alert(1)</script> HTTP/1.1\r\nX: \"'&\r\n\r\n"
        var inventory = Sample.inventory
        inventory.command = "<img src=x onerror=alert(1)>"
        var entry = ArchiveEntry(id: Array(repeating: 1, count: 32))
        (entry.note, entry.tags, entry.failure, entry.reason) = ("</p><script>", ["<b>"], "<i>no</i>", .refused)
        let page = ImagePage(
            inventory, version: 1, [Sample.session(received: Array(evil.utf8), sent: Array("HTTP/1.1 200 OK\r\n\r\n".utf8))], entry: entry
        ).html
        for word in ["<script", "<img", "<b>", "<i>"] { #expect(!page.contains(word), "\(word)") }
        #expect(page.contains("&lt;script&gt;alert(1)") && page.contains("default-src 'none'") && page.contains("Archived when it was refused"))
        for word in ["http://", "https://", "src=\"", "url("] { #expect(!page.contains(word), "\(word)") }
    }

    @Test func `pipes, sockets and files of several processes are one line each`() throws {
        var session = Sample.session()
        var (writer, reader) = (
            LocalChannel(.pipe(PipeEndState(pipe: 0, capacity: 65536))), LocalChannel(.pipe(PipeEndState(pipe: 0, capacity: 65536)))
        )
        (writer.flags, reader.queue, reader.messages) = (.writeOnly, [1, 2, 3], [QueuedMessage(length: 3)])
        var (left, right) = (LocalChannel(.unix(UnixSocketState(type: 1, peer: 4))), LocalChannel(.unix(UnixSocketState(type: 1, peer: 3))))
        (left.queue, right.queue) = ([9], [8, 8])
        (left.messages, right.messages) = ([QueuedMessage(length: 1)], [QueuedMessage(length: 2)])
        let file = LocalChannel(.file(RegularFileState(path: Array("/var/log/x".utf8), size: 10, modified: 0)))
        session.locals = [writer, reader, left, right, file]
        session.processes = [
            SessionProcess(
                role: "front", pid: 7,
                descriptors: [(3, 0), (4, 1), (5, 3)].map { SessionDescriptor(fd: $0.0, channel: $0.1, name: "d\($0.0)") }),
            SessionProcess(role: "back", descriptors: [(3, 2), (4, 4), (5, 5)].map { SessionDescriptor(fd: $0.0, channel: $0.1, name: "d\($0.0)") }),
        ]
        let links = session.links(Sample.inventory)
        #expect(links.map(\.kind) == ["tcp", "pipe", "unix", "file"])
        #expect(links[0].right == "front (7)" && links[1].left == "front (7)" && links[1].right == "back" && links[1].toRight == 3)
        #expect(links[2].left == "front (7)" && links[2].right == "back" && links[2].toLeft == 1 && links[2].toRight == 2)
        #expect(links[3].left == "back" && links[3].right == "/var/log/x" && !links[3].isRightProcess)
        let graph = imageGraph(Sample.inventory, [session])
        #expect(graph.hasPrefix("graph image {") && graph.contains("shape=box") && graph.hasSuffix("}"))
        let page = ImagePage(Sample.inventory, version: 1, [session]).html
        #expect(page.contains("/var/log/x") && page.contains("pipe · 65536 bytes long"))
    }

    @Test(.enabled(if: access("/usr/bin/chromium", X_OK) == 0, "needs chromium"))
    func `a browser shows the page`() throws {
        let scratch = Scratch()
        let session = Sample.session(received: Array("GET /shown HTTP/1.1\r\nHost: a\r\n\r\n".utf8), sent: Array("HTTP/1.1 200 OK\r\n\r\n".utf8))
        let page = scratch.write("page.html", Array(ImagePage(Sample.inventory, version: 1, [session]).html.utf8))
        let browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=\(scratch.path)/profile"]
        let tree = try runCommand(browser + ["--dump-dom", "file://\(page)"], timeout: 60_000)
        #expect(tree.output.contains("GET /shown HTTP/1.1") && tree.output.contains("<svg class=\"channels\""), "\(tree.errors)")
        let picture = "\(scratch.path)/page.png"
        _ = try runCommand(browser + ["--window-size=1100,1400", "--screenshot=\(picture)", "file://\(page)"], timeout: 60_000)
        // An empty page of this size has some five KB.
        #expect((readBytes(picture) ?? []).count > 30_000)
    }

    @Test func `numbers of packets wrap as the connection's do, and FINs are there`() throws {
        var session = Sample.session(received: Sample.noise(3000), sent: Sample.noise(5000))
        session.channels[0].state = .lastAck
        // The receive queue begins before 2^32 and ends after it.
        session.channels[0].rcvNxt = 1000
        session.channels[0].unsentLength = 1000
        let file = "/tmp/sc-look-\(UInt64.random(in: 0 ... .max)).pcapng"
        defer { unlink(file) }
        try ImageFile.write(file) { sink throws(ImageError) in
            var sink = sink
            try sink.write(PacketFile.encode(Sample.inventory, [session]))
        }
        func tshark(_ arguments: [String]) throws -> String {
            let result = try runCommand(
                ["tshark", "-n", "-r", file, "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"] + arguments, timeout: 60_000)
            #expect(result.status == 0, "\(result.errors)")
            return result.output
        }
        #expect(try tshark(["-Y", "tcp.analysis.flags || tcp.checksum.status == \"Bad\" || ip.checksum.status == \"Bad\""]).isEmpty)
        let rows = try tshark([
            "-T", "fields", "-e", "tcp.seq_raw", "-e", "tcp.ack_raw", "-e", "tcp.len", "-e", "tcp.flags.fin", "-e", "frame.comment",
        ])
        .split(separator: "\n").map { $0.split(separator: "\t", omittingEmptySubsequences: false).map(String.init) }
        // Three made up, 3000 bytes in three segments, 4000 sent, 1000 not sent.
        #expect(rows.count == 3 + 3 + 3 + 1, "\(rows)")
        #expect(rows.prefix(3).allSatisfy { $0[4].contains("made up") })
        #expect(rows[3][0] == String(UInt32(1000) &- 1 &- 3000) && rows[5][3] == "1" && rows[4][3] == "0", "\(rows)")
        #expect(rows[6][1] == "1000" && rows[9][4].contains("not sent yet") && rows[9][3] == "1" && rows[9][2] == "1000", "\(rows)")
        #expect(rows[9][0] == String(session.channels[0].writeSeq &- 1 &- 1000))
    }

    @Test func `a difference tells what was read and written, and what cannot be`() throws {
        let before = Sample.session(received: Array("question".utf8), sent: Array("old".utf8))
        var after = before
        after.channels[0].receiveQueue = Array("more".utf8)
        (after.channels[0].rcvNxt, after.channels[0].bytesRead) = (1_000_004, 508)
        after.channels[0].sendQueue = Array("ldanswer".utf8)
        (after.channels[0].writeSeq, after.channels[0].bytesWritten) = (before.channels[0].writeSeq &+ 6, 20_006)
        after.channels[0].socketOptions = [SocketOption(level: 6, name: 1, value: [1, 0, 0, 0])]
        let difference = SessionDifference(before, after)
        let connection = try #require(difference.connections.first)
        #expect((connection.received, connection.read, connection.written, connection.acknowledged) == (4, 8, 6, 1))
        #expect(connection.readContent == Array("question".utf8) && connection.writtenContent == Array("answer".utf8))
        #expect(connection.changes.contains { $0 == ("TCP_NODELAY", "default", "1") } && connection.contradiction == nil)
        #expect(SessionDifference(after, before).connections[0].contradiction == "the second image is the older one")
        after.channels[0].writeSeq &+= 1
        #expect(SessionDifference(before, after).connections[0].contradiction?.contains("another connection") == true)
    }
}
