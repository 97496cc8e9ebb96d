// Runs the few programs that the tool relies on (nft, ip, ssh, a user's script), outside of any blackout.

import CProc
import Glibc

/// How a program ended, and what it said on standard error.
package struct CommandResult: Sendable {
    package var status: Int32
    package var output: String
    package var errors: String
}

/// Runs a program in a namespace, gives it `input`, and waits for it.
package func runCommand(
    _ arguments: [String], input: String = "", in namespace: NetworkNamespace? = nil, environment: [String]? = nil, timeout: Int = 10_000
) throws(CheckpointError) -> CommandResult {
    let files = try (0..<3).map { _ throws(CheckpointError) in
        SharedDescriptor(try check(cproc_memfd("sc-checkpoint"), "cannot make a memory file"))
    }
    // The descriptors are used by number, so nothing else keeps their owners alive.
    return try withExtendedLifetime(files) { () throws(CheckpointError) in
        _ = input.withCString { pwrite(files[0].raw, $0, strlen($0), 0) }
        let pid = try spawn(
            arguments, environment: environment, in: namespace, standard: (files[0].raw, files[1].raw, files[2].raw), passing: [], listenPID: false)
        let status = try wait(for: pid, named: arguments[0], timeout: timeout)
        return CommandResult(status: status, output: contents(of: files[1].raw), errors: contents(of: files[2].raw))
    }
}

/// Runs a program that must succeed.
@discardableResult
func runChecked(_ arguments: [String], input: String = "", in namespace: NetworkNamespace) throws(CheckpointError) -> String {
    let result = try runCommand(arguments, input: input, in: namespace)
    guard result.status == 0 else {
        let line = result.errors.split(separator: "\n").first.map(String.init) ?? "exit status \(result.status)"
        throw CheckpointError(
            "\(arguments.prefix(2).joined(separator: " ")) failed", why: line,
            advice: "It needs CAP_NET_ADMIN and nf_tables (see sc-checkpoint check)")
    }
    return result.output
}

/// Starts a program (found by PATH) with `passing` as descriptors 3, 4, …
package func spawn(
    _ arguments: [String], environment: [String]?, in namespace: NetworkNamespace?, standard: (Int32, Int32, Int32), passing: [Int32],
    listenPID: Bool
) throws(CheckpointError) -> Int32 {
    let pid = withCStrings(arguments) { argv in
        withOptionalCStrings(environment) { envp in
            cproc_spawn(
                argv, envp, namespace?.raw ?? -1, standard.0, standard.1, standard.2, passing, Int32(passing.count), listenPID ? 1 : 0)
        }
    }
    return try check(pid, "cannot start \(arguments[0])", advice: "Is it installed and in PATH?")
}

/// Starts a program with one end of a stream as its standard input and output, and this process's standard error; gives the other end, and its pid.
func spawnOnStream(
    _ arguments: [String], environment: [String]?, in namespace: NetworkNamespace?
) throws(CheckpointError) -> (stream: SharedDescriptor, pid: Int32) {
    var pair: [Int32] = [-1, -1]
    guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &pair) == 0 else {
        throw CheckpointError("cannot make a socket pair", result: Int(-errno))
    }
    // The child's end is closed here, so that its end is seen.
    let (own, other) = (SharedDescriptor(pair[0]), SharedDescriptor(pair[1]))
    let pid = try withExtendedLifetime(other) { () throws(CheckpointError) in
        try spawn(arguments, environment: environment, in: namespace, standard: (other.raw, other.raw, 2), passing: [], listenPID: false)
    }
    return (own, pid)
}

/// Ends the stream of such a program, which tells it to end, and reaps it; after two seconds `signal` does.
func endChild(_ pid: Int32, onStream stream: Int32, by signal: Int32) {
    shutdown(stream, Int32(SHUT_RDWR))
    let deadline = Deadline(milliseconds: 2000)
    var status: Int32 = 0
    while waitpid(pid, &status, WNOHANG) == 0 {
        if deadline.hasPassed { kill(pid, signal) }
        pause(microseconds: 500)
    }
}

/// This program's file, by the name that ps(1) shows; when a newer one has taken its place, the file that runs.
package let ownProgram: String = {
    var buffer = [CChar](repeating: 0, count: 4096)
    let count = readlink("/proc/self/exe", &buffer, buffer.count)
    let path = String(decoding: buffer.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    var (named, running) = (stat(), stat())
    let isSame = stat(path, &named) == 0 && stat("/proc/self/exe", &running) == 0 && named.st_ino == running.st_ino && named.st_dev == running.st_dev
    return isSame ? path : "/proc/self/exe"
}()

/// A program that runs beside this one, on its standard output and error.
package struct ChildProcess {
    package let pid: Int32

    /// Starts it with `passing` as descriptors 3, 4, … Children that have ended are reaped at the next start.
    package init(_ arguments: [String], passing: [Int32]) throws(CheckpointError) {
        var status: Int32 = 0
        while waitpid(-1, &status, WNOHANG) > 0 {}
        pid = try spawn(arguments, environment: nil, in: nil, standard: (-1, 1, 2), passing: passing, listenPID: false)
    }

    /// Waits for its end: its exit status, or 128 and the signal's number.
    package func wait() -> Int32 {
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0, errno == EINTR {}
        return status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f)
    }
}

private func wait(for pid: Int32, named name: String, timeout: Int) throws(CheckpointError) -> Int32 {
    let deadline = Deadline(milliseconds: timeout)
    var status: Int32 = 0
    while waitpid(pid, &status, WNOHANG) != pid {
        if deadline.hasPassed {
            kill(pid, SIGKILL)
            waitpid(pid, &status, 0)
            throw CheckpointError("\(name) did not end", why: "no result after \(timeout) ms", errno: ETIMEDOUT)
        }
        pause(microseconds: 200)
    }
    return status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f)
}

private func contents(of file: Int32) -> String {
    var bytes = [UInt8](repeating: 0, count: max(0, Int(lseek(file, 0, SEEK_END))))
    let count = pread(file, &bytes, bytes.count, 0)
    return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
}

/// Lends an array of strings as a NULL-terminated `char *const []`.
package func withCStrings<Result>(_ strings: [String], _ body: (UnsafePointer<UnsafePointer<CChar>?>) -> Result) -> Result {
    let copies = strings.map { UnsafePointer(strdup($0)!) }
    defer { copies.forEach { free(UnsafeMutablePointer(mutating: $0)) } }
    return (copies + [nil]).withUnsafeBufferPointer { body($0.baseAddress!) }
}

private func withOptionalCStrings<Result>(
    _ strings: [String]?, _ body: (UnsafePointer<UnsafePointer<CChar>?>?) -> Result
) -> Result {
    guard let strings else { return body(nil) }
    return withCStrings(strings) { body($0) }
}

/// The environment of this process as `NAME=value` strings.
package func currentEnvironment() -> [String] {
    var result: [String] = []
    var entry = cproc_environment()
    while let text = entry?.pointee {
        result.append(String(cString: text))
        entry = entry?.advanced(by: 1)
    }
    return result
}
