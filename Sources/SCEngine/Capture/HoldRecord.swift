// A session taken away from its server and not yet released or given back: what a later run of the tool has to know.

import CProc
import Glibc
import SCImage

/// `snapshot --take` leaves the socket locked, in repair mode and muted, and its processes stopped; this record, in the state directory under the
/// session's id, lets `release` and `resume` find it all again.
package struct HoldRecord: Sendable {
    package var id: SessionID
    package var pid: Int32
    package var fd: Int32
    package var inode: UInt64
    package var reuseAddress: Int32
    package var ownFilter: [UInt64]
    package var stopped: [Int32]
    package var flow: Flow
    /// Of a session of several processes: whose bytes are taken out when it is released.
    package var locals: [SourceEntry.Local] = []

    private static func path(_ id: SessionID) throws(CheckpointError) -> String { try StateDirectory.file(id.description, in: "held") }

    package func save() throws(CheckpointError) {
        let lines = [
            "pid=\(pid)", "fd=\(fd)", "inode=\(inode)", "reuse=\(reuseAddress)", "filter=\(ownFilter.map { String($0) }.joined(separator: ","))",
            "stopped=\(stopped.map { String($0) }.joined(separator: ","))", "client=\(flow.client.address) \(flow.client.port)",
            "service=\(flow.service.address) \(flow.service.port)",
            "locals=\(locals.map { "\($0.pid):\($0.fd):\($0.inode)" }.joined(separator: ","))",
        ]
        let text = lines.joined(separator: "\n") + "\n"
        let path = try Self.path(id)
        let file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard file >= 0 else { throw CheckpointError("cannot record the hold in \(path)", result: Int(-errno)) }
        defer { close(file) }
        guard write(file, text, text.utf8.count) == text.utf8.count, fsync(file) == 0 else {
            let error = errno
            unlink(path)
            throw CheckpointError("cannot record the hold in \(path)", result: Int(-error))
        }
    }

    /// The record of a session; throws when it is not held on this host.
    package static func load(_ id: SessionID) throws(CheckpointError) -> HoldRecord {
        guard let record = find(id) else {
            throw CheckpointError(
                "session \(id) is not held here", why: "there is no record of it in \(StateDirectory.path)", errno: ENOENT,
                advice: "It was released or given back already, or taken on another host")
        }
        return record
    }

    /// How many sessions are held on this host.
    package static var count: Int { (entryNames(of: "\(StateDirectory.path)/held") ?? []).count { !$0.hasPrefix(".") } }

    package static func find(_ id: SessionID) -> HoldRecord? {
        guard let text = readText("\(StateDirectory.path)/held/\(id)") else { return nil }
        var fields: [String: String] = [:]
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: "=", maxSplits: 1)
            fields[String(parts[0])] = parts.count == 2 ? String(parts[1]) : ""
        }
        func end(_ name: String) -> SocketAddress? {
            let words = (fields[name] ?? "").split(separator: " ")
            guard words.count == 2, let address = IPAddress(words[0]), let port = UInt16(words[1]) else { return nil }
            return SocketAddress(address, port: port)
        }
        guard let pid = Int32(fields["pid"] ?? ""), let fd = Int32(fields["fd"] ?? ""), let inode = UInt64(fields["inode"] ?? ""),
            let client = end("client"), let service = end("service")
        else { return nil }
        let locals = (fields["locals"] ?? "").split(separator: ",").compactMap { text -> SourceEntry.Local? in
            let parts = text.split(separator: ":")
            guard parts.count == 3, let pid = Int32(parts[0]), let fd = Int32(parts[1]), let inode = UInt64(parts[2]) else { return nil }
            return SourceEntry.Local(pid: pid, fd: fd, inode: inode)
        }
        return HoldRecord(
            id: id, pid: pid, fd: fd, inode: inode, reuseAddress: Int32(fields["reuse"] ?? "") ?? 0,
            ownFilter: (fields["filter"] ?? "").split(separator: ",").compactMap { UInt64($0) },
            stopped: (fields["stopped"] ?? "").split(separator: ",").compactMap { Int32($0) }, flow: Flow(client: client, service: service),
            locals: locals)
    }

    package func remove() {
        unlink("\(StateDirectory.path)/held/\(id)")
        for directory in ["\(StateDirectory.path)/held", StateDirectory.path] { rmdir(directory) }
    }

    /// The held socket, as it was left.
    package func socket() throws(CheckpointError) -> HeldSocket {
        let process = try TargetProcess(pid: pid)
        let descriptor = try process.duplicate(fd)
        var stat = cproc_stat()
        guard cproc_fstat(descriptor.raw, &stat) >= 0, stat.inode == inode else {
            throw CheckpointError(
                "process \(pid) (\(process.command)) no longer has the session", why: "its descriptor \(fd) is something else now", errno: ESTALE,
                advice: "The session has ended")
        }
        let socket = HeldSocket(descriptor, fd: fd)
        socket.adopt(reuseAddress: reuseAddress, ownFilter: ownFilter)
        return socket
    }

    /// Lets the processes that were stopped for this session go on.
    package func continueProcesses() {
        for pid in stopped {
            (try? TargetProcess(pid: pid))?.continueRunning()
        }
    }
}
