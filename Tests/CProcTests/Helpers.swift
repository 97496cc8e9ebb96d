// What the tests share: C pointers and strings, connections, and programs to run.

import CProc
import Glibc
import Testing

/// All suites, one test after the other: they count processes, occupy ports and change descriptors.
@Suite(.serialized) enum KernelCalls {}

let isRoot = geteuid() == 0

struct KernelError: Error, Equatable {
    let code: Int32
}

/// The value of a call that must succeed.
@discardableResult
func check<Value: BinaryInteger>(_ value: Value, sourceLocation: SourceLocation = #_sourceLocation) throws -> Value {
    if value < 0 {
        Issue.record("failed with errno \(-Int(value))", sourceLocation: sourceLocation)
        throw KernelError(code: -Int32(value))
    }
    return value
}

/// The same for calls of libc, whose cause is errno.
@discardableResult
func libc<Value: BinaryInteger>(_ value: Value, sourceLocation: SourceLocation = #_sourceLocation) throws -> Value {
    try check(value < 0 ? Value(clamping: -errno) : value, sourceLocation: sourceLocation)
}

// MARK: - Strings and pointers

/// The text in an array of C characters, which Swift sees as a tuple.
func text<Characters>(_ characters: Characters) -> String {
    withUnsafeBytes(of: characters) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
}

func text(_ characters: [CChar]) -> String {
    String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

/// A NULL-terminated array of C strings, as exec takes it.
func withCStrings<Result>(_ strings: [String], _ body: (UnsafePointer<UnsafePointer<CChar>?>) throws -> Result) rethrows -> Result {
    let copies = strings.map { strdup($0) }
    defer { for copy in copies { free(copy) } }
    return try (copies.map { UnsafePointer($0) } + [nil]).withUnsafeBufferPointer { try body($0.baseAddress!) }
}

/// Runs `body` on a thread in the namespace.
func inNetns(_ netns: Int32, _ body: () -> Int32) -> Int32 {
    withoutActuallyEscaping(body) { escapable in
        var box = escapable
        return withUnsafeMutablePointer(to: &box) {
            cproc_in_netns(netns, { $0!.assumingMemoryBound(to: (() -> Int32).self).pointee() }, $0)
        }
    }
}

/// A namespace for one test.
func withNetns(_ body: (Int32) throws -> Void) throws {
    let netns = try check(cproc_new_netns())
    defer { close(netns) }
    try body(netns)
}

// MARK: - Addresses

func endpoint(_ address: String, _ port: UInt16 = 0, scope: UInt32 = 0) -> cproc_endpoint {
    var endpoint = cproc_endpoint()
    endpoint.family = UInt16(address.contains(":") ? AF_INET6 : AF_INET)
    endpoint.port = port
    endpoint.scope = scope
    let parsed = withUnsafeMutableBytes(of: &endpoint.address) { inet_pton(Int32(endpoint.family), address, $0.baseAddress!) }
    precondition(parsed == 1, "not an address: \(address)")
    return endpoint
}

extension cproc_endpoint {
    var bytes: [UInt8] { withUnsafeBytes(of: address) { Array($0.prefix(family == UInt16(AF_INET) ? 4 : 16)) } }

    var host: String {
        var characters = [CChar](repeating: 0, count: 64)
        _ = withUnsafeBytes(of: address) { inet_ntop(Int32(family), $0.baseAddress!, &characters, 64) }
        return text(characters)
    }
}

func localEndpoint(_ fd: Int32) throws -> cproc_endpoint {
    var endpoint = cproc_endpoint()
    try check(cproc_getsockname(fd, &endpoint))
    return endpoint
}

func peerEndpoint(_ fd: Int32) throws -> cproc_endpoint {
    var endpoint = cproc_endpoint()
    try check(cproc_getpeername(fd, &endpoint))
    return endpoint
}

// MARK: - Sockets

let stream = Int32(SOCK_STREAM.rawValue)
let datagram = Int32(SOCK_DGRAM.rawValue)
let tcp = Int32(IPPROTO_TCP)
let established: UInt8 = 1
let closeWait: UInt8 = 8
let listening: UInt8 = 10

func makeSocket(_ endpoint: cproc_endpoint, type: Int32 = stream, netns: Int32 = -1) throws -> Int32 {
    try check(cproc_socket_in(netns, Int32(endpoint.family), type, 0))
}

func makeListener(_ address: String, netns: Int32 = -1) throws -> Int32 {
    var any = endpoint(address)
    let listener = try makeSocket(any, netns: netns)
    try check(cproc_bind(listener, &any))
    try libc(listen(listener, 16))
    return listener
}

/// One TCP connection on loopback.
func withConnection(
    _ address: String = "127.0.0.1", listenOn: String? = nil, netns: Int32 = -1, _ body: (_ client: Int32, _ server: Int32) throws -> Void
) throws {
    let listener = try makeListener(listenOn ?? address, netns: netns)
    defer { close(listener) }
    var target = endpoint(address, try localEndpoint(listener).port)
    let client = try makeSocket(target, netns: netns)
    defer { close(client) }
    try check(cproc_connect(client, &target))
    let server = try libc(accept(listener, nil, nil))
    defer { close(server) }
    try body(client, server)
}

func withSocketPair(type: Int32 = stream, _ body: (Int32, Int32) throws -> Void) throws {
    var ends: [Int32] = [-1, -1]
    try libc(socketpair(AF_UNIX, type, 0, &ends))
    defer { closeAll(ends) }
    try body(ends[0], ends[1])
}

func makePipe() throws -> (reading: Int32, writing: Int32) {
    var ends: [Int32] = [-1, -1]
    try libc(pipe(&ends))
    for end in ends { try libc(fcntl(end, F_SETFD, FD_CLOEXEC)) }
    return (ends[0], ends[1])
}

func closeAll(_ fds: [Int32]) {
    for fd in fds { close(fd) }
}

func write(_ fd: Int32, _ text: String) throws {
    let bytes = Array(text.utf8)
    #expect(try libc(Glibc.write(fd, bytes, bytes.count)) == bytes.count)
}

/// What is there to read within two seconds: at most `count` bytes, fewer at the end of the stream.
func read(_ fd: Int32, count: Int = 65536, timeout: Int32 = 2000) throws -> String {
    try #require(cproc_poll(fd, Int16(POLLIN), timeout) > 0, "nothing to read")
    var bytes = [UInt8](repeating: 0, count: count)
    let length = try libc(Glibc.read(fd, &bytes, count))
    return String(decoding: bytes.prefix(length), as: UTF8.self)
}

func readToEnd(_ fd: Int32) throws -> String {
    var result = ""
    while true {
        let part = try read(fd, timeout: 10000)
        if part.isEmpty { return result }
        result += part
    }
}

func tcpInfo(_ fd: Int32) throws -> cproc_tcp_info {
    var info = cproc_tcp_info()
    try check(cproc_tcp_info(fd, &info))
    return info
}

/// Tries until the condition holds, at most for two seconds.
func eventually(_ condition: () throws -> Bool) rethrows -> Bool {
    for _ in 0..<400 {
        if try condition() { return true }
        usleep(5000)
    }
    return false
}

// MARK: - Programs

struct Finished {
    let status: Int32
    let output: String
}

/// Starts a program that the caller has to end.
func start(_ arguments: [String], netns: Int32 = -1, output: Int32 = -1, passed: [Int32] = []) throws -> pid_t {
    try withCStrings(arguments) { try check(cproc_spawn($0, nil, netns, -1, output, -1, passed, Int32(passed.count), 0)) }
}

func end(_ pid: pid_t) {
    kill(pid, SIGKILL)
    waitpid(pid, nil, 0)
}

/// Runs a program to its end.
@discardableResult
func run(
    _ arguments: [String], netns: Int32 = -1, input: String = "", environment: [String]? = nil, passed: [Int32] = [],
    listenPID: Bool = false
) throws -> Finished {
    let (inputReading, inputWriting) = try makePipe()
    let (reading, writing) = try makePipe()
    defer { close(reading) }
    func spawn(_ environment: UnsafePointer<UnsafePointer<CChar>?>?) -> pid_t {
        withCStrings(arguments) {
            cproc_spawn($0, environment, netns, inputReading, writing, -1, passed, Int32(passed.count), listenPID ? 1 : 0)
        }
    }
    let pid = environment.map { withCStrings($0) { spawn($0) } } ?? spawn(nil)
    close(inputReading)
    close(writing)
    if pid > 0 && !input.isEmpty { try write(inputWriting, input) }
    close(inputWriting)
    try check(pid)
    let output = try readToEnd(reading)
    var status: Int32 = 0
    try libc(waitpid(pid, &status, 0))
    return Finished(status: status, output: output)
}

/// The state letter of a process's first thread.
func state(of pid: pid_t) throws -> Character? {
    let fd = open("/proc/\(pid)/stat", O_RDONLY | O_CLOEXEC)
    if fd < 0 { return nil }
    defer { close(fd) }
    let stat = try read(fd)
    return stat.split(separator: ")").last?.dropFirst().first
}

func names(in directory: String) throws -> [String] {
    let stream = try #require(opendir(directory))
    defer { closedir(stream) }
    var names: [String] = []
    while let entry = readdir(stream) {
        let name = text(entry.pointee.d_name)
        if !name.hasPrefix(".") { names.append(name) }
    }
    return names
}
