// Running commands on the machines of a lab.

internal import CSupport
internal import Glibc

/// What a finished command gave back.
public struct Output: Sendable {
    /// The exit status, or 128 + the signal that ended it.
    public let status: Int32
    public let stdoutBytes: [UInt8]
    public let stderr: String
    public var stdout: String { String(decoding: stdoutBytes, as: UTF8.self) }
}

extension Lab {
    /// Where a spawned process reads its standard input from.
    public enum Input: Sendable {
        case nothing
        case text(String)
        case bytes([UInt8])
        /// A pipe that `Child.send` writes to.
        case pipe
    }

    /// Runs a command to its end and returns its output; throws when it does not end in time (it is then killed).
    /// A nil host is the caller's own namespace.
    public func run(
        in host: Host?, _ command: [String], stdin: Input = .nothing, environment: [String: String] = [:],
        timeout: Duration = .seconds(20)
    ) throws(LabError) -> Output {
        let child = try spawn(in: host, command, stdin: stdin, environment: environment)
        defer { forget(child) }
        do {
            let status = try child.wait(timeout: timeout)
            return Output(status: status, stdoutBytes: readBytes(child.stdoutPath), stderr: child.stderr)
        } catch {
            child.terminate(grace: .milliseconds(100))
            throw error
        }
    }

    /// Runs a command that has to succeed and returns its standard output.
    @discardableResult
    public func check(
        in host: Host?, _ command: [String], stdin: Input = .nothing, environment: [String: String] = [:],
        timeout: Duration = .seconds(20)
    ) throws(LabError) -> String {
        let output = try run(in: host, command, stdin: stdin, environment: environment, timeout: timeout)
        guard output.status == 0 else {
            throw LabError("\(command.joined(separator: " ")) on \(host?.rawValue ?? "-") gave \(output.status): \(output.stderr)")
        }
        return output.stdout
    }

    /// Starts a command that goes on running; it is killed with the lab at the latest.
    /// `passing` are borrowed descriptors that it gets as 3, 4, … with `LISTEN_FDS`.
    public func spawn(
        in host: Host?, _ command: [String], stdin: Input = .nothing, environment: [String: String] = [:], passing: [Int32] = []
    ) throws(LabError) -> Child {
        let number = state.withLock { state in
            state.counter += 1
            return state.isUp ? state.counter : nil
        }
        guard let number else { throw LabError("the lab \(prefix) is down") }
        let base = "\(folder)/\(number)-\(command[0].split(separator: "/").last ?? "command")"
        let out = open(base + ".out", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0o600)
        let err = open(base + ".err", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0o600)
        defer {
            close(out)
            close(err)
        }
        guard out >= 0, err >= 0 else { throw .errno("cannot make \(base).out", errno) }
        let (input, pipe) = try openInput(stdin, base)
        defer { if let input { close(input) } }
        let pid: pid_t
        do {
            pid = try launch(
                Launch(
                    command: command, namespace: host.map(handle), environment: environment, standardInput: input,
                    standardOutput: out, standardError: err, passing: passing))
        } catch {
            if let pipe { close(pipe) }
            throw error
        }
        let child = Child(pid: pid, command: command, stdoutPath: base + ".out", stderrPath: base + ".err", input: pipe)
        state.withLock { $0.children.append(child) }
        return child
    }

    /// The reading end for the child, and for a pipe the writing end.
    private func openInput(_ input: Input, _ base: String) throws(LabError) -> (Int32?, Int32?) {
        let bytes: [UInt8]
        switch input {
        case .nothing:
            return (nil, nil)
        case .pipe:
            var ends: [Int32] = [-1, -1]
            let result = csupport_pipe(&ends)
            guard result == 0 else { throw .errno("cannot make a pipe", result) }
            return (ends[0], ends[1])
        case .text(let text):
            bytes = Array(text.utf8)
        case .bytes(let given):
            bytes = given
        }
        try writeFile(base + ".in", bytes)
        return (open(base + ".in", O_RDONLY | O_CLOEXEC), nil)
    }

    /// Drops an ended child and its files.
    private func forget(_ child: Child) {
        state.withLock { state in state.children.removeAll { $0 === child } }
        unlink(child.stdoutPath)
        unlink(child.stderrPath)
        unlink(child.stdoutPath.dropLast(4) + ".in")
    }

    /// The path of a program that this package builds, next to the running test program.
    public static func program(_ name: String) -> String {
        var buffer = [UInt8](repeating: 0, count: 4096)
        let length = readlink("/proc/self/exe", &buffer, buffer.count)
        let own = String(decoding: buffer[..<max(0, length)], as: UTF8.self)
        return own.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/" + name
    }
}

private func unlink(_ path: some StringProtocol) {
    _ = Glibc.unlink(String(path))
}
