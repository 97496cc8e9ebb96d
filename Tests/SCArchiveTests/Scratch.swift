// A directory for one test, and sessions to archive.

import FoundationEssentials
import Glibc
import SCArchive
import SCEngine
import SCImage

/// Removed with its last reference.
final class Scratch {
    let path = "/tmp/sc-archive-\(String(UInt64.random(in: 0 ... .max), radix: 16))"

    init() { mkdir(path, 0o755) }
    deinit { try? FileManager.default.removeItem(atPath: path) }

    var archivePath: String { "\(path)/archive" }
    func archive() throws -> Archive { try Archive(archivePath, creating: true) }

    /// The files of `images/`.
    var files: [String] { (entryNames(of: "\(archivePath)/images") ?? []).sorted().map { "\(archivePath)/images/\($0)" } }

    func write(_ name: String, _ bytes: [UInt8]) -> String {
        let file = "\(path)/\(name)"
        _ = FileManager.default.createFile(atPath: file, contents: Data(bytes))
        return file
    }
}

enum Sample {
    static let inventory = {
        var inventory = Inventory()
        (inventory.host, inventory.tool, inventory.pid) = ("alpha", "sc-checkpoint 0.1.0", 812)
        (inventory.command, inventory.createdAt) = ("nginx: worker process", 1_764_000_000)
        return inventory
    }()

    /// A session from client number `client`, with these bytes in its queues.
    static func session(_ client: Int = 0, received: [UInt8] = Array("GET / HTTP/1.1\r\nHost: a\r\n\r\n".utf8), sent: [UInt8] = []) -> Session {
        var channel = TCPChannel(
            local: SocketAddress(IPAddress("198.51.100.1")!, port: 80),
            peer: SocketAddress(IPAddress("192.0.2.\(client % 250 + 1)")!, port: UInt16(40_000 + client / 250)))
        (channel.receiveQueue, channel.sendQueue, channel.rcvNxt, channel.writeSeq) = (received, sent, 1_000_000, 4_294_967_290)
        (channel.bytesRead, channel.bytesWritten, channel.sendMSS, channel.options.mssClamp) = (500, 20_000, 1448, 1460)
        (channel.window.sndWnd, channel.window.rcvWnd, channel.fd) = (64_000, 65_000, 7)
        return Session(id: .random(), channels: [channel], state: Array("state".utf8))
    }

    /// Bytes that do not compress.
    static func noise(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8.random(in: 0...255) } }

    static func image(_ sessions: [Session], _ inventory: Inventory = Sample.inventory) throws -> [UInt8] {
        var writer = try ImageWriter(MemorySink(), inventory)
        for session in sessions { try writer.write(session) }
        try writer.finish()
        return writer.sink.bytes
    }
}

/// All that a source gives.
func contents(of source: some ByteSource) throws -> [UInt8] {
    var (source, result) = (source, [UInt8]())
    var buffer = [UInt8](repeating: 0, count: 7001)
    while true {
        let count = try buffer.withUnsafeMutableBytes { try source.read(into: $0) }
        if count == 0 { return result }
        result += buffer.prefix(count)
    }
}
