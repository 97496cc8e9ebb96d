// Two hosts that could trust each other: their configuration directories, a listening socket, and strangers who connect to it.

import Glibc
import SCAgent
import SCEngine
import SCImage
import Support

/// A configuration directory that ends with the test.
final class Host {
    let store: PeerStore
    var directory: String { store.directory }

    init() throws {
        var template = Array("/tmp/sc-agent-tests-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw CheckpointError("mkdtemp", result: Int(-errno)) }
        store = try PeerStore(directory: String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self))
    }

    deinit {
        for file in listFolder("\(directory)/peers") { unlink("\(directory)/peers/\(file)") }
        rmdir("\(directory)/peers")
        for file in listFolder(directory) { unlink("\(directory)/\(file)") }
        rmdir(directory)
    }

    func trust(_ name: String, _ other: Host, at port: UInt16 = 1) throws {
        try store.trust(Peer(name: name, address: "127.0.0.1:\(port)", fingerprint: other.store.identity.fingerprint))
    }
}

/// A socket that listens on a loopback port of its own.
final class Door {
    let port: UInt16
    private let listener: SharedDescriptor

    init() throws {
        listener = SharedDescriptor(try check(socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0), "socket"))
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let fd = listener.raw
        let bound = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.bind(fd, $0, length) == 0 && Glibc.listen(fd, 8) == 0 && getsockname(fd, $0, &length) == 0
            }
        }
        guard bound else { throw CheckpointError("bind", result: Int(-errno)) }
        port = UInt16(bigEndian: address.sin_port)
    }

    func accept() throws -> OwnedDescriptor {
        OwnedDescriptor(try check(accept4(listener.raw), "accept"))
    }

    private func accept4(_ fd: Int32) -> Int32 {
        let connection = Glibc.accept(fd, nil, nil)
        if connection >= 0 { _ = fcntl(connection, F_SETFD, FD_CLOEXEC) }
        return connection
    }
}

/// The terminator is the tool that was built beside the tests.
func testLimits() -> TerminatorLimits {
    var limits = TerminatorLimits()
    limits.program = Lab.program("sc-checkpoint")
    return limits
}

/// Runs `body` on a thread of its own while the caller goes on.
final class Background<Value: Sendable>: @unchecked Sendable {
    private var thread = pthread_t()
    private let body: @Sendable () throws -> Value
    private var outcome: Result<Value, any Error>?

    init(_ body: @escaping @Sendable () throws -> Value) {
        self.body = body
        pthread_create(
            &thread, nil,
            { context in
                Unmanaged<AnyRunner>.fromOpaque(context!).takeRetainedValue().run()
                return nil
            }, Unmanaged<AnyRunner>.passRetained(AnyRunner { self.outcome = Result(catching: body) }).toOpaque())
    }

    func value() throws -> Value {
        pthread_join(thread, nil)
        return try outcome!.get()
    }
}

private final class AnyRunner {
    let run: () -> Void
    init(_ run: @escaping () -> Void) { self.run = run }
}

/// A client and a server that have accepted each other, each with its engine's end.
struct Joined {
    let a = try! Host()
    let b = try! Host()
    let client: SharedDescriptor
    let server: PendingPeer

    init(_ limits: TerminatorLimits = testLimits()) throws {
        let door = try Door()
        try a.trust("b", b, at: door.port)
        try b.trust("a", a)
        let store = a.store
        let dialling = Background { try connectPeer("b", store: store, timeout: 5000, limits: limits).link }
        server = try acceptPeer(door.accept(), store: b.store, limits: limits)
        guard try server.result().name == "a" else { throw LabError("the server sees another peer") }
        client = try dialling.value()
    }
}

/// A program with its output in memory files.
final class Program {
    let pid: Int32
    private let input: SharedDescriptor
    private let streams: [SharedDescriptor]

    init(_ command: [String], input text: [UInt8]? = nil) throws {
        var ends: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
            throw CheckpointError("socketpair", result: Int(-errno))
        }
        input = SharedDescriptor(ends[1])
        let reading = SharedDescriptor(ends[0])
        var template = Array("/tmp/sc-agent-output-XXXXXX".utf8CString)
        let output = SharedDescriptor(mkstemp(&template))
        unlink(template)
        streams = [output, reading]
        pid = try spawn(
            command, environment: nil, in: nil, standard: (reading.raw, output.raw, output.raw), passing: [], listenPID: false)
        if let text { _ = write(input.raw, text, text.count) }
    }

    var output: String {
        var bytes = [UInt8](repeating: 0, count: 1 << 16)
        let count = pread(streams[0].raw, &bytes, bytes.count, 0)
        return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    }

    deinit {
        kill(pid, SIGKILL)
        waitpid(pid, nil, 0)
    }
}

/// A peer with another implementation's hands: what it is given goes through TLS as it is.
func openssl(_ host: Host, port: UInt16, _ options: [String] = ["-tls1_3"], sending bytes: [UInt8]? = nil) throws -> Program {
    _ = try host.store.identity
    return try Program(
        [
            "openssl", "s_client", "-connect", "127.0.0.1:\(port)", "-cert", "\(host.directory)/cert.pem", "-key", "\(host.directory)/key.pem",
            "-quiet",
        ]
            + options, input: bytes)
}

/// The bytes that a wire of these messages has.
func wire(_ messages: [WireMessage]) throws -> [UInt8] {
    var writer = try WireWriter(MemorySink())
    for message in messages { try writer.write(message) }
    return writer.sink.bytes
}

func report(_ number: UInt64) -> WireMessage {
    .report(Report(stages: [Timing(stage: "test", startNanoseconds: number, durationNanoseconds: 0)]))
}

/// Everything that comes until the end.
func drain(_ fd: Int32) -> [UInt8] {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65536)
    while true {
        var entry = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
        guard poll(&entry, 1, 10_000) > 0 else { return bytes }
        let count = read(fd, &chunk, chunk.count)
        if count <= 0 { return bytes }
        bytes += chunk.prefix(count)
    }
}
