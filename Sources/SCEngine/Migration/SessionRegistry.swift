// What a moved session was before: its id, byte counts and adapter state, kept for the next move of the same socket.

import CProc
import Glibc
import SCImage

/// The kernel counts a connection's bytes from the moment its socket was made, so a restored connection starts at 0 again. This registry, one small
/// file for each restored socket in the state directory, carries the rest. An entry whose process no longer holds the socket is removed at the next use.
package enum SessionRegistry {
    package struct Entry: Equatable {
        package var id: SessionID
        package var written: UInt64
        package var read: UInt64
        package var adapter: AdapterState?
    }

    /// Remembers a session that was restored into `socket`, now held by process `pid`. A registry that cannot be written costs only the next move's
    /// knowledge, so it is no error.
    package static func add(session: Session, channel: TCPChannel, socket: Int32, pid: Int32) {
        guard let inode = inode(of: socket), let path = try? StateDirectory.file(name(of: socket), in: "sessions") else { return }
        // The new socket's counters begin at 0: bytes_acked will count the send queue once more, and the refilled receive queue is unread again.
        let base = (written: channel.bytesWritten &- UInt64(channel.sendQueue.count), read: channel.bytesRead)
        var lines = [
            "pid=\(pid)", "inode=\(inode)", "id=\(session.id.high) \(session.id.low)", "written=\(base.written)", "read=\(base.read)",
        ]
        if let adapter = session.adapter?.lasting {
            lines.append("adapter=\(adapter.name)")
            lines.append("state=\(adapter.bytes.map { hexadecimal($0) }.joined())")
        }
        let text = lines.joined(separator: "\n") + "\n"
        let fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard fd >= 0 else { return }
        _ = write(fd, text, text.utf8.count)
        close(fd)
    }

    /// What is known of a socket; nil when it was never moved.
    package static func find(_ socket: Int32) -> Entry? {
        guard let text = readText("\(StateDirectory.path)/sessions/\(name(of: socket))") else { return nil }
        let fields = parse(text)
        let id = (fields["id"] ?? "").split(separator: " ").compactMap { UInt64($0) }
        guard id.count == 2, let written = UInt64(fields["written"] ?? ""), let read = UInt64(fields["read"] ?? "") else { return nil }
        var entry = Entry(id: SessionID(high: id[0], low: id[1]), written: written, read: read)
        if let name = fields["adapter"], let bytes = bytes(hexadecimal: fields["state"] ?? "") {
            entry.adapter = AdapterState(name: name, bytes: bytes)
        }
        return entry
    }

    /// The file of this name: the session's id, and which socket of which process it was restored into.
    static func read(_ name: String) -> (id: SessionID, pid: Int32, inode: UInt64)? {
        guard name.hasPrefix("socket-"), let text = readText("\(StateDirectory.path)/sessions/\(name)") else { return nil }
        let fields = parse(text)
        let id = (fields["id"] ?? "").split(separator: " ").compactMap { UInt64($0) }
        guard id.count == 2, let pid = Int32(fields["pid"] ?? ""), let inode = UInt64(fields["inode"] ?? "") else { return nil }
        return (SessionID(high: id[0], low: id[1]), pid, inode)
    }

    /// The processes that sessions were restored into.
    static func pids() -> Set<Int32> {
        Set((entryNames(of: "\(StateDirectory.path)/sessions") ?? []).compactMap { read($0)?.pid })
    }

    package static func remove(_ socket: Int32) { unlink("\(StateDirectory.path)/sessions/\(name(of: socket))") }

    private static func name(of socket: Int32) -> String { "socket-\(SocketView(socket).cookie)" }

    private static func parse(_ text: String) -> [String: String] {
        var fields: [String: String] = [:]
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if parts.count == 2 { fields[String(parts[0])] = String(parts[1]) }
        }
        return fields
    }

    /// Removes the entries of sockets that their process no longer holds, and the directories when nothing is left.
    package static func sweep() {
        let directory = "\(StateDirectory.path)/sessions"
        guard let names = entryNames(of: directory) else { return }
        var held: [Int32: Set<String>] = [:]
        for name in names {
            guard name.hasPrefix("socket-"), let text = readText("\(directory)/\(name)") else { continue }
            let fields = parse(text)
            let pid = fields["pid"].flatMap { Int32($0) } ?? 0
            let links = held[pid] ?? socketLinks(of: pid)
            held[pid] = links
            if !links.contains("socket:[\(fields["inode"] ?? "")]") { unlink("\(directory)/\(name)") }
        }
        rmdir(directory)
        rmdir(StateDirectory.path)
    }

    private static func socketLinks(of pid: Int32) -> Set<String> {
        guard let process = try? TargetProcess(pid: pid), let numbers = try? process.descriptors() else { return [] }
        return Set(numbers.compactMap { process.link(of: $0) })
    }
}

/// Two hexadecimal digits.
package func hexadecimal(_ byte: UInt8) -> String {
    let digits = String(byte, radix: 16)
    return digits.count == 1 ? "0" + digits : digits
}

/// The bytes of an even number of hexadecimal digits; nil for anything else.
package func bytes(hexadecimal text: String) -> [UInt8]? {
    let digits = text.utf8.map { Character(UnicodeScalar($0)).hexDigitValue }
    guard digits.count.isMultiple(of: 2), !digits.contains(nil) else { return nil }
    return stride(from: 0, to: digits.count, by: 2).map { UInt8(digits[$0]! << 4 | digits[$0 + 1]!) }
}
