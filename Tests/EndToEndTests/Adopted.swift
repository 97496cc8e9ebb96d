// An sc-hold that a receiver started: it has no terminal, so the test speaks to it through files.

import Glibc
import Support
import Testing

/// The hand-over to an sc-hold on whichever host receives, and the conversation with it afterwards. One value serves one process.
final class Adopted {
    private let world: TwoHosts
    private let commands, answers: String

    init(_ world: TwoHosts, _ name: String) {
        self.world = world
        commands = "\(world.lab.folder)/\(name)-commands"
        answers = "\(world.lab.folder)/\(name)-answers"
    }

    /// `--exec -- …`: the shell keeps the descriptors 3, 4, … and the variables, and opens the command pipe for both directions, so that it
    /// neither waits for a writer nor sees an end.
    func arguments(_ options: String = "") throws -> [String] {
        try #require(mkfifo(commands, 0o600) == 0)
        return ["--exec", "--", "sh", "-c", "exec \(Lab.program("sc-hold")) adopt \(options) <>\(commands) >>\(answers) 2>>\(answers)-errors"]
    }

    private var lines: [Substring] { readText(answers).split(separator: "\n") }

    /// Gives it one command and returns its answer.
    @discardableResult
    func ask(_ line: String, timeout: Duration = .seconds(20)) throws -> Held {
        let before = lines.count
        let fd = open(commands, O_WRONLY | O_CLOEXEC)
        defer { close(fd) }
        let bytes = Array((line + "\n").utf8)
        try #require(write(fd, bytes, bytes.count) == bytes.count)
        try #require(eventually(within: timeout) { self.lines.count > before }, "no answer to \(line): \(readText(answers + "-errors"))")
        return try Held(String(lines[before]))
    }

    /// Its pid on the host that received it.
    func pid(on host: Lab.Host) throws -> Int32 {
        var found: Int32?
        _ = eventually(within: .seconds(10)) {
            found = Lab.processes(in: world.lab.namespace(host)).first { pid in
                readText("/proc/\(pid)/comm").hasPrefix("sc-hold")
                    && Set(["0"].map { Self.link("/proc/\(pid)/fd/\($0)") }).contains(commands)
            }
            return found != nil
        }
        return try #require(found, "nobody reads \(commands) on \(host.rawValue)")
    }

    private static func link(_ path: String) -> String {
        var buffer = [UInt8](repeating: 0, count: 4096)
        let count = buffer.withUnsafeMutableBytes { readlink(path, $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count) }
        return String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)
    }
}

extension Child {
    /// Reads what the peer filled in until its end, however long the pauses are.
    func drainToEnd(_ index: Int) throws -> (received: UInt64, isExact: Bool, hasEnded: Bool) {
        var received: UInt64 = 0
        for _ in 0..<50 {
            let answer = try Held(ask("drain \(index)", timeout: .seconds(30)))
            received += answer.received ?? 0
            if answer.mismatch != -1 || answer.error != "" { return (received, false, false) }
            if answer.eof == true { return (received, true, true) }
        }
        return (received, true, false)
    }
}
