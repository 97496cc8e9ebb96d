// What an archive costs: size and speed of compression and sealing, and how long a list takes.

import FoundationEssentials
import Glibc
import SCArchive
import SCEngine
import SCImage
import Support

/// Collects nothing: the time is the compressor's.
private final class Counter: ByteSink {
    var count = 0
    func write(_ bytes: UnsafeRawBufferPointer) throws(ImageError) { count += bytes.count }
}

private let inventory = {
    var inventory = Inventory()
    (inventory.host, inventory.tool, inventory.pid, inventory.command) = ("host", "sc-checkpoint \(toolVersion)", 812, "nginx")
    inventory.createdAt = UInt64(time(nil))
    return inventory
}()

private func session(_ client: Int, received: [UInt8], sent: [UInt8]) -> Session {
    var channel = TCPChannel(
        local: SocketAddress(IPAddress("198.51.100.1")!, port: 443),
        peer: SocketAddress(IPAddress(ipv4: 0xc612_0000 + UInt32(client)), port: UInt16(32_768 + client % 28_000)))
    (channel.receiveQueue, channel.sendQueue) = (received, sent)
    (channel.rcvNxt, channel.writeSeq, channel.timestamp) = (.random(in: 0 ... .max), .random(in: 0 ... .max), .random(in: 0 ... .max))
    return Session(id: .random(), channels: [channel])
}

private func image(_ sessions: [Session]) throws -> [UInt8] {
    var writer = try ImageWriter(MemorySink(), inventory)
    for session in sessions { try writer.write(session) }
    try writer.finish()
    return writer.sink.bytes
}

/// A page of text as servers send it: words of a small vocabulary between tags.
private func text(_ count: Int) -> [UInt8] {
    let words = ["<td class=\"name\">", "</td>", "session", "price", "the", "of", "customer", "order", "2026-11-25", "\n", "<tr>", "42", " ", "and"]
    var page = Array("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n".utf8)
    while page.count < count { page += Array("\(words.randomElement()!) \(Int.random(in: 0...9999))".utf8) }
    return Array(page.prefix(count))
}

/// The table of compression, and the times of an archive with `images` images.
func benchArchive() throws {
    func noise() -> [UInt8] { (0..<(1 << 20)).map { _ in UInt8.random(in: 0...255) } }
    let request = Array("GET /cart?item=812 HTTP/1.1\r\nHost: shop.example\r\nAccept: */*\r\nCookie: id=8f3a1c\r\n\r\n".utf8)
    let kinds: [(String, [UInt8])] = [
        ("10,000 idle sessions", try image((0..<10_000).map { session($0, received: [], sent: []) })),
        ("1,000 unread requests", try image((0..<1000).map { session($0, received: request, sent: []) })),
        ("32 pages of 256 KiB", try image((0..<32).map { session($0, received: [], sent: text(256 << 10)) })),
        ("8 MiB encrypted", try image((0..<8).map { session($0, received: [], sent: noise()) })),
    ]
    print("archive: Zstandard, size to what part of it, MB/s to compress and to decompress (medians of 5)")
    for (name, bytes) in kinds {
        var cells: [String] = []
        for level: Int32 in [1, 3, 9] {
            var (packing, unpacking): ([Double], [Double]) = ([], [])
            var size = 0
            for _ in 0..<5 {
                var packed = MemorySink()
                packing.append(
                    try rate(bytes.count) {
                        let counter = Counter()
                        var sink = try CompressingSink(counter, level: level)
                        try sink.write(bytes)
                        try sink.finish()
                        size = counter.count
                    })
                let collector = Collector()
                var sink = try CompressingSink(collector, level: level)
                try sink.write(bytes)
                try sink.finish()
                packed.bytes = collector.bytes
                unpacking.append(try rate(bytes.count) { try drain(DecompressingSource(MemorySource(packed.bytes))) })
            }
            cells.append("level \(level): \(text(Double(size) / Double(bytes.count) * 100, width: 6)) %\(mbps(packing))\(mbps(unpacking))")
        }
        print("  \(pad("\(name), \(bytes.count / 1024) KiB", 34))\(cells.joined(separator: "  "))")
    }
    let key = try SecretKey.make()
    let bytes = kinds[3].1
    var (sealing, opening): ([Double], [Double]) = ([], [])
    for _ in 0..<5 {
        let collector = Collector()
        sealing.append(
            try rate(bytes.count) {
                var sink = try SealingSink(collector, to: [key.publicKey])
                try sink.write(bytes)
                try sink.finish()
            })
        opening.append(try rate(bytes.count) { try drain(UnsealingSource(MemorySource(collector.bytes), key: key)) })
    }
    print("  sealing\(mbps(sealing)) MB/s, opening\(mbps(opening)) MB/s")
    try benchList(10_000, request)
}

private final class Collector: ByteSink {
    var bytes: [UInt8] = []
    func write(_ more: UnsafeRawBufferPointer) throws(ImageError) { bytes += more }
}

private func benchList(_ count: Int, _ request: [UInt8]) throws {
    func fill(_ folder: String, _ count: Int) throws -> Double {
        let archive = try Archive(folder, creating: true)
        let begun = monotonicNanoseconds()
        for client in 0..<count { _ = try archive.add([session(client, received: request, sent: [])], inventory, Archive.Details()) }
        return Double(monotonicNanoseconds() - begun) / 1e6 / Double(count)
    }
    // The disk is asked to keep each image (fsync); in memory that costs nothing, and the list reads what is in the page cache either way.
    let (disk, memory) = ("/tmp/sc-bench-archive-\(getpid())", "/dev/shm/sc-bench-archive-\(getpid())")
    defer { for folder in [disk, memory] { try? FileManager.default.removeItem(atPath: folder) } }
    print("  add \(text(try fill(disk, 200), width: 0)) ms each on disk, \(text(try fill(memory, count), width: 0)) ms in memory")
    var times: [String: [Double]] = [:]
    for _ in 0..<7 {
        for (name, arguments) in [
            ("with a filter", ["list", "--peer", "198.18.1.7"]), ("all as a table", ["list"]), ("all as JSON", ["list", "--json"]),
        ] {
            times[name, default: []].append(try seconds(["archive"] + arguments + ["--archive", memory]) * 1000)
        }
    }
    unlink("\(memory)/index")
    let rebuilding = try seconds(["archive", "list", "--peer", "198.18.1.7", "--archive", memory]) * 1000
    let verifying = try seconds(["archive", "verify", "--archive", memory]) * 1000
    let shown = times.sorted { $0.key < $1.key }.map { "\($0.key) \(text(Spread($0.value).median, width: 0)) ms" }.joined(separator: ", ")
    let filtered = Spread(times["with a filter"] ?? [0]).median
    print("  list of \(count) images: \(shown) (target 300 with a filter): \(verdict(filtered <= 300))")
    print("  the first list without an index \(text(rebuilding, width: 0)) ms, verify \(text(verifying, width: 0)) ms")
}

/// How long the tool runs; its output is discarded.
private func seconds(_ arguments: [String]) throws -> Double {
    let start = monotonicNanoseconds()
    let pid = try spawn([Lab.program("sc-checkpoint")] + arguments, environment: nil, in: nil, standard: (-1, -1, -1), passing: [], listenPID: false)
    var status: Int32 = 0
    while waitpid(pid, &status, 0) < 0, errno == EINTR {}
    guard status == 0 else { throw LabError("\(arguments) ended with \(status)") }
    return Double(monotonicNanoseconds() - start) / 1e9
}

private func drain(_ source: some ByteSource) throws {
    var source = source
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 128 << 10, alignment: 16)
    defer { buffer.deallocate() }
    while try source.read(into: buffer) > 0 {}
}

private func rate(_ bytes: Int, _ body: () throws -> Void) throws -> Double {
    let start = monotonicNanoseconds()
    try body()
    return Double(bytes) / Double(monotonicNanoseconds() - start) * 1000
}

private func mbps(_ values: [Double]) -> String {
    let value = Int(Spread(values).median)
    return String(repeating: " ", count: max(1, 6 - String(value).count)) + String(value)
}
