// Which processes and channels make up a session: found, refused by name, chosen by the user; and all of them in one cut.

import Glibc
import SCImage
import Support
import Testing

@testable import SCEngine

/// A server of `group.py` and clients of it, all on the loopback of a lab's host.
private final class GroupServer {
    private let lab: Lab
    let child: Child
    let port: UInt16
    private(set) var clients: [SharedDescriptor] = []

    init(_ scenario: String, _ arguments: [String] = []) throws {
        let script = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/group.py"
        lab = try Lab()
        child = try lab.spawn(in: .a, ["python3", script, scenario] + arguments)
        let isListening = eventually(within: .seconds(10)) { [child] in child.stdout.hasSuffix("\n") }
        try #require(isListening, "\(child.stderr)")
        port = UInt16(child.stdout.dropLast()) ?? 0
    }

    deinit {
        child.terminate()
        lab.down()
    }

    /// Connects once more, and waits until `processes` with these names are there.
    func connect(_ processes: [String: Int]) throws {
        clients.append(SharedDescriptor(try lab.connect(from: .a, to: "127.0.0.1", port)))
        let root = try TargetProcess(pid: child.pid)
        let isThere = eventually(within: .seconds(10)) {
            let names = root.tree().map { TargetProcess.name(of: $0.pid) ?? "" }
            return processes.allSatisfy { name, count in names.count { $0 == name } == count }
        }
        try #require(isThere, "\(child.stderr)")
        usleep(100_000)
    }

    func pid(_ name: String, _ index: Int = 0) throws -> Int32 {
        let found = try TargetProcess(pid: child.pid).tree().filter { TargetProcess.name(of: $0.pid) == name }
        return found[index].pid
    }

    private func selected(_ client: Int) throws -> [SelectedSession] {
        var filter = SessionFilter()
        filter.peers = [PeerFilter(SocketView(clients[client].raw).local!.description)!]
        return try selectSessions(of: TargetProcess(pid: child.pid), filter).chosen
    }

    func group(_ client: Int = 0, _ change: (inout GroupRequest) -> Void = { _ in }) throws -> GroupCapture {
        var options = GroupOptions()
        change(&options.request)
        return try GroupCapture(TargetProcess(pid: child.pid), selected(client), options)
    }

    func snapshot(_ client: Int = 0, _ change: (inout GroupRequest) -> Void = { _ in }) throws -> Session {
        let group = try group(client, change)
        let capture = try SessionCapture(selected(client), group: group)
        return try capture.sessions(capture.snapshot(), state: [], adapter: nil, learnt: [:])[0]
    }
}

extension GroupCapture {
    fileprivate var names: Set<String> { Set(group.processes.flatMap { process in process.descriptors.map { "\(process.role).\($0.name)" } }) }
}

private func words(_ error: CheckpointError?) -> String { error?.description ?? "no error" }

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it looks into other processes"))
struct GroupTests {
    @Test func `three processes in a row are one session, in one cut`() throws {
        let server = try GroupServer("chain")
        try server.connect(["front": 1, "worker": 1, "logger": 1])
        let group = try server.group()
        #expect(
            group.names == [
                "front.tcp", "front.tcp-2", "front.unix-worker", "front.file-passwd", "worker.unix-front", "worker.pipe-to-logger",
                "worker.file-passwd", "worker.file-passwd-2", "logger.pipe-from-worker",
            ])
        #expect(Set(group.group.processesToStop.map(\.command)) == ["front", "worker", "logger"])
        #expect(group.group.leftOut.contains { $0.contains("only sends") })
        #expect(group.group.leftOut.contains { $0.contains("open for writing") })
        #expect(group.group.leftOut.contains { $0.contains("unconnected Unix socket") })

        let session = try server.snapshot()
        let deliveries = Dictionary(uniqueKeysWithValues: session.deliveries.map { ($0.name, $0.channel) })
        // A duplicate, and a description that two processes share, are one channel with several holders; a file that was opened twice is two.
        #expect(deliveries["front.tcp"] == 0 && deliveries["front.tcp-2"] == 0)
        let files = ["worker.file-passwd", "worker.file-passwd-2"].map { deliveries[$0]! }
        #expect(files.contains(deliveries["front.file-passwd"]!) && files[0] != files[1])
        func local(_ name: String) -> LocalChannel { session.locals[deliveries[name]! - 1] }
        if case .file(let file) = local("front.file-passwd").detail { #expect(file.position == 7 && file.path == Array("/etc/passwd".utf8)) }
        #expect(local("front.unix-worker").messages.map(\.length) == [8, 0, 8])
        #expect(local("worker.unix-front").messages.map(\.descriptors) == [[], [0]])
        #expect(String(decoding: local("worker.pipe-to-logger").queue, as: UTF8.self) == "a line\n")
        // It goes on.
        for name in ["front", "worker", "logger"] {
            let isStopped = try TargetProcess(pid: server.pid(name)).isStopped
            #expect(!isStopped)
        }
    }

    @Test func `of a worker that all share only the session's channels are taken`() throws {
        let server = try GroupServer("shared-worker")
        try server.connect(["worker": 1, "front": 1])
        try server.connect(["worker": 1, "front": 2])
        for client in 0..<2 {
            let group = try server.group(client)
            #expect(group.names == ["front.tcp", "front.unix-worker", "worker.unix-front"])
            #expect(group.group.members.map(\.isShared) == [false, true])
            let session = try server.snapshot(client)
            #expect(session.locals.map { String(decoding: $0.queue, as: UTF8.self) } == ["for \(client)", ""])
        }
    }

    @Test func `a pipe that another session writes to as well is refused`() throws {
        let server = try GroupServer("shared-pipe")
        try server.connect(["logger": 1, "front": 1])
        try server.connect(["logger": 1, "front": 2])
        let error = #expect(throws: CheckpointError.self) { try server.group() }
        let text = words(error)
        let pid = try server.pid("front")
        #expect(text.contains("serves another session, has it too") && text.contains("--leave \(pid):"), "\(text)")
        let fd = Int32(text.split(separator: ":").last?.prefix { $0.isNumber } ?? "") ?? -1
        #expect(try server.group(0) { $0.leave = [DescriptorName(pid: pid, fd: fd)] }.names == ["front.tcp"])
    }

    @Test func `the channels of an event loop have to be named`() throws {
        let server = try GroupServer("loop")
        try server.connect(["helper": 1])
        try server.connect(["helper": 2])
        let error = #expect(throws: CheckpointError.self) { try server.group() }
        #expect(words(error).contains("it has 1 other connection") && words(error).contains("--fd"), "\(words(error))")
        let channels = try Prober().channels(of: TargetProcess(pid: server.child.pid)).filter { $0.kind == .unix && $0.state == "ESTABLISHED" }
        #expect(channels.count == 2)
        let session = try server.snapshot(1) { $0.channels = [DescriptorName(fd: channels[1].fd)] }
        #expect(session.deliveries.map(\.name) == ["front.tcp", "front.unix-helper", "helper.unix-front"])
        #expect(session.locals.map { String(decoding: $0.queue, as: UTF8.self) } == ["", "for helper 1"])
        // It serves another session too: it is not ended with this one.
        let group = try server.group(1) { $0.channels = [DescriptorName(fd: channels[1].fd)] }
        #expect(group.group.members.first { $0.role == "front" }?.isShared == true)
        let missing = #expect(throws: CheckpointError.self) { try server.group(1) { $0.channels = [DescriptorName(fd: 999)] } }
        #expect(missing?.errno == EBADF)
    }

    @Test func `an end that leaves the session is refused by name`() throws {
        let name = "/tmp/sc-outside-\(getpid())"
        defer { unlink(name) }
        let listener = SharedDescriptor(socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0))
        #expect(bindUnix(listener.raw, name) && listen(listener.raw, 5) == 0)
        let server = try GroupServer("outside", [name])
        try server.connect(["front": 1])
        let accepted = SharedDescriptor(accept(listener.raw, nil, nil))
        let pid = try server.pid("front")
        let error = #expect(throws: CheckpointError.self) { try server.group() }
        // This process is the tool itself, which is never of a session.
        #expect(words(error).contains("of process \(pid) (front): its other end is with no process"), "\(words(error))")
        #expect(error?.errno == EXDEV)
        let fd = try #require(Prober().channels(of: TargetProcess(pid: pid)).first { $0.kind == .unix && $0.state == "ESTABLISHED" }?.fd)
        #expect(try server.group(0) { $0.leave = [DescriptorName(pid: pid, fd: fd)] }.names == ["front.tcp"])
        withExtendedLifetime(accepted) {}
    }

    @Test func `a deleted file is refused by name`() throws {
        let server = try GroupServer("deleted")
        try server.connect(["front": 1])
        let error = #expect(throws: CheckpointError.self) { try server.group() }
        #expect(words(error).contains("it is a deleted file, /tmp/sc-deleted-") && error?.errno == ENOENT, "\(words(error))")
    }

    @Test func `two connections are one session only by name`() throws {
        let server = try GroupServer("loop")
        try server.connect(["helper": 1])
        try server.connect(["helper": 2])
        var filter = SessionFilter()
        filter.ports = [server.port]
        let root = try TargetProcess(pid: server.child.pid)
        let both = try selectSessions(of: root, filter).chosen
        let error = #expect(throws: CheckpointError.self) { try GroupCapture(root, both, GroupOptions()) }
        #expect(error?.outcome == .usage)
        var options = GroupOptions()
        options.request.connections = both.map(\.channel.fd)
        let group = try GroupCapture(root, both, options)
        #expect(
            group.names == [
                "front.tcp", "front.tcp-2", "front.unix-helper", "front.unix-helper-2", "helper.unix-front", "helper-2.unix-front",
            ])
    }
}
