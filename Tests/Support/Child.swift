// A process that the lab started: its output in files, its end waited for with a limit, ended by its pid and nothing broader.

internal import CSupport
internal import Glibc
internal import Synchronization

/// A running (or ended) process of a lab.
public final class Child: Sendable {
    public let pid: Int32
    public let command: [String]
    /// Files that take the standard streams; they grow while the process runs.
    public let stdoutPath: String
    public let stderrPath: String
    private let input: Int32?
    private let status = Mutex<Int32?>(nil)

    /// `input` is the writing end of the child's standard input and belongs to the child from now on.
    init(pid: Int32, command: [String], stdoutPath: String, stderrPath: String, input: Int32?) {
        self.pid = pid
        self.command = command
        self.stdoutPath = stdoutPath
        self.stderrPath = stderrPath
        self.input = input
    }

    deinit {
        if let input { close(input) }
    }

    /// What the process has written so far.
    public var stdout: String { readText(stdoutPath) }
    public var stderr: String { readText(stderrPath) }

    /// The exit status, or 128 + the signal that ended it; nil while it runs.
    public func poll() -> Int32? {
        waitStatus(milliseconds: 0)
    }

    /// Waits for the end: the exit status, or 128 + the signal. Throws when the time is over; the process then still runs.
    @discardableResult
    public func wait(timeout: Duration = .seconds(20)) throws(LabError) -> Int32 {
        if let status = waitStatus(milliseconds: Int32(timeout / .milliseconds(1))) { return status }
        throw LabError("\(command.joined(separator: " ")) (\(pid)) still runs after \(timeout); stderr: \(stderr)")
    }

    private func waitStatus(milliseconds: Int32) -> Int32? {
        status.withLock { known in
            if let known { return known }
            var raw: Int32 = 0
            guard csupport_wait(pid, milliseconds, &raw) == 1 else { return nil }
            known = raw & 0x7f == 0 ? (raw >> 8) & 0xff : 128 + (raw & 0x7f)
            return known
        }
    }

    /// Sends a signal to this process, unless it has ended.
    public func signal(_ signal: Int32) {
        if poll() == nil { kill(pid, signal) }
    }

    /// Asks the process to end (also when it is stopped), and after `grace` ends it.
    @discardableResult
    public func terminate(grace: Duration = .seconds(2)) -> Int32 {
        signal(SIGTERM)
        signal(SIGCONT)
        if let status = try? wait(timeout: grace) { return status }
        signal(SIGKILL)
        return (try? wait(timeout: .seconds(5))) ?? -1
    }

    /// Writes a line to the standard input of a child that was started with `input: .pipe`.
    public func send(_ line: String) throws(LabError) {
        guard let input else { throw LabError("\(command[0]) was started without a pipe to its standard input") }
        let bytes = Array((line + "\n").utf8)
        let error = Self.write(bytes, to: input)
        guard error == 0 else { throw .errno("cannot write to \(command[0]); stderr: \(stderr)", error) }
    }

    /// An errno, or 0. A child that has ended costs EPIPE and not, by SIGPIPE, the whole run.
    private static func write(_ bytes: [UInt8], to input: Int32) -> Int32 {
        var pipe = sigset_t(), before = sigset_t(), now = timespec()
        sigemptyset(&pipe)
        sigaddset(&pipe, SIGPIPE)
        pthread_sigmask(SIG_BLOCK, &pipe, &before)
        let error = Glibc.write(input, bytes, bytes.count) == bytes.count ? 0 : errno
        if error == EPIPE { sigtimedwait(&pipe, nil, &now) }
        pthread_sigmask(SIG_SETMASK, &before, nil)
        return error
    }

    /// Sends a line and returns the next complete line that appears on the standard output after it.
    public func ask(_ line: String, timeout: Duration = .seconds(10)) throws(LabError) -> String {
        let before = lines.count
        try send(line)
        guard eventually(within: timeout, { lines.count > before }) else {
            throw LabError("\(command[0]) did not answer \"\(line)\"; stderr: \(stderr)")
        }
        return lines[before]
    }

    /// The complete lines of the standard output so far.
    public var lines: [String] {
        stdout.split(separator: "\n", omittingEmptySubsequences: false).dropLast().map(String.init)
    }

    /// Waits until the output (either stream) contains `text`; throws with the output when it does not come or the process ends first.
    public func waitForOutput(_ text: String, timeout: Duration = .seconds(10)) throws(LabError) {
        var found = false
        _ = eventually(within: timeout) {
            let ended = poll() != nil
            found = stdout.contains(text) || stderr.contains(text)
            return found || ended
        }
        if !found { throw LabError("\(command.joined(separator: " ")) never wrote \"\(text)\"; stderr: \(stderr)") }
    }
}
