// A program that switches the path, here or on a router: one line for each verb, one line for each answer.
//
//   target 10.77.0.12            (only to a router; may be repeated)
//   flow CLIENT CPORT SERVICE SPORT
//   (an empty line)              a router answers it, once its rules are loaded
//   freeze  ->  ok  or  error TEXT
//   steer   ->  ok
//   release ->  ok
//   rollback -> ok               at any time before steer, instead
//   end of stream

import CProc
import Glibc
import SCImage

/// The asking end. The program ends when the stream does.
final class LineLink {
    private let descriptor: SharedDescriptor
    private let name: String
    private let timeout: Int
    private var child: Int32 = 0
    private var buffer: [UInt8] = []
    private var isSilent = false

    /// Starts a program (found by PATH) with the stream as its standard input and output; what it says on standard error goes to this one's.
    /// `timeout` is in milliseconds, for each answer.
    init(
        starting arguments: [String], named name: String, in namespace: NetworkNamespace?, environment: [String]?, timeout: Int
    ) throws(CheckpointError) {
        (self.name, self.timeout) = (name, timeout)
        (descriptor, child) = try spawnOnStream(arguments, environment: environment, in: namespace)
    }

    /// Connects to a program that listens on a Unix socket.
    init(path: String, named name: String, timeout: Int) throws(CheckpointError) {
        guard let connection = connectedUnix(path, type: Int32(SOCK_STREAM.rawValue)) else {
            throw CheckpointError(
                "cannot reach \(name)", result: Int(-errno), advice: "Start it there: sc-checkpoint steer-router --listen \(path)")
        }
        descriptor = connection
        (self.name, self.timeout) = (name, timeout)
    }

    /// The end of the stream tells the program to end; one that does not is ended.
    deinit {
        if child > 0 { endChild(child, onStream: descriptor.raw, by: SIGKILL) }
    }

    /// Sends lines that are not answered.
    func send(_ lines: [String]) throws(CheckpointError) {
        let bytes = Array(lines.map { $0 + "\n" }.joined().utf8)
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes { Glibc.send(descriptor.raw, $0.baseAddress! + sent, $0.count - sent, Int32(MSG_NOSIGNAL)) }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw ended("it takes nothing any longer") }
            sent += count
        }
    }

    /// Sends a verb (or the empty line) and waits for `ok`.
    func ask(_ verb: String) throws(CheckpointError) {
        try send([verb])
        // One answer is missing already; what comes next would be taken for the answer to this.
        guard !isSilent else { throw ended("it did not answer before") }
        isSilent = true
        let answer = try line()
        isSilent = false
        if answer == "ok" { return }
        let text = answer.hasPrefix("error ") ? String(answer.dropFirst(6)) : "it answered \"\(answer)\""
        throw CheckpointError(
            "\(name) refused \"\(verb.isEmpty ? "prepare" : verb)\"", why: text, errno: ECANCELED, advice: "Look into its messages, above or there")
    }

    private func line() throws(CheckpointError) -> String {
        let deadline = Deadline(milliseconds: timeout)
        while true {
            if let end = buffer.firstIndex(of: 10) {
                let line = String(decoding: buffer[..<end], as: UTF8.self)
                buffer.removeSubrange(...end)
                return line
            }
            guard buffer.count < 4096 else { throw ended("its answer has no end") }
            var waiting = pollfd(fd: descriptor.raw, events: Int16(POLLIN), revents: 0)
            let ready = poll(&waiting, 1, deadline.remainingMilliseconds)
            if ready < 0 && errno == EINTR { continue }
            guard ready > 0 else {
                throw CheckpointError("\(name) does not answer", why: "no line within \(timeout) ms", errno: ETIMEDOUT, advice: "Is it stuck?")
            }
            var part = [UInt8](repeating: 0, count: 512)
            let count = read(descriptor.raw, &part, part.count)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw ended("it ended the conversation") }
            buffer += part[..<count]
        }
    }

    private func ended(_ why: String) -> CheckpointError {
        CheckpointError("\(name) is gone", why: why, errno: EPIPE, advice: "It has to read verbs until the end of its standard input")
    }
}

extension Flow {
    /// The flow as the conversation names it.
    var line: String { "flow \(client.address) \(client.port) \(service.address) \(service.port)" }

    /// nil for anything but a well-formed line.
    init?(line: some StringProtocol) {
        let words = line.split(separator: " ")
        guard words.count == 5, words[0] == "flow", let client = IPAddress(words[1]), let clientPort = UInt16(words[2]),
            let service = IPAddress(words[3]), let servicePort = UInt16(words[4]), client.isIPv6 == service.isIPv6
        else { return nil }
        self.init(client: SocketAddress(client, port: clientPort), service: SocketAddress(service, port: servicePort))
    }
}
