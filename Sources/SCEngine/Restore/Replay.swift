// `restore --replay`: gives what a session's server had not read yet to a fresh copy of the server, in a network namespace of their own, and hears what it
// answers, or how it dies.

import CProc
import Glibc
import SCImage

/// One connection of an image, played to a new server. Nothing outside of the namespace is touched, and nothing of it is left.
package final class Replay {
    package enum End: String, Sendable {
        /// The server ended its answer with FIN.
        case closed
        /// It broke the connection off with RST.
        case reset
        /// It said nothing more for as long as was waited.
        case silent
    }

    package struct Outcome: Sendable {
        package var sent: Int
        package var answer: [UInt8]
        package var end: End
        /// How the server's first process ended by itself: an exit status, or 128 and the signal's number; nil: it did not.
        package var serverStatus: Int32?
    }

    private let channel: TCPChannel
    private let before: [UInt8]
    private let service: SocketAddress
    private let namespace: NetworkNamespace
    /// Bytes of an answer that are kept.
    private static let answerLimit = 64 << 20

    /// `before` is said first, for a server whose connection has to begin with something; `port` is where the fresh server listens, if not where the old one
    /// did.
    package init(_ channel: TCPChannel, before: [UInt8] = [], port: UInt16? = nil) throws(CheckpointError) {
        (self.channel, self.before) = (channel, before)
        let local = channel.local.onWire
        service = SocketAddress(local.address, port: port ?? local.port)
        namespace = try makeNamespace(with: [local.address, channel.peer.onWire.address])
    }

    /// Starts the server, waits until it accepts (`startup` milliseconds at most), says what the client said, and listens until the server ends the answer
    /// or is silent for `patience` milliseconds. The server's output goes to standard error.
    package func run(_ command: [String], startup: Int = 10_000, patience: Int = 1000) throws(CheckpointError) -> Outcome {
        // A Ctrl-C ends the replay, and not this process before the server.
        let signals = BlockedSignals()
        defer { signals.restore() }
        let pid = try spawn(command, environment: nil, in: namespace, standard: (-1, 2, 2), passing: [], listenPID: false)
        let server = Server(pid, namespace)
        defer { server.endAll() }
        let client = try connect(server, Deadline(milliseconds: startup), command[0])
        let input = before + channel.receiveQueue
        var outcome = Outcome(sent: 0, answer: [], end: .silent)
        try converse(client, input, patience, &outcome)
        // A crash shows in the connection before it shows in the process.
        if outcome.end != .silent {
            let deadline = Deadline(milliseconds: 300)
            while !server.hasEnded, !deadline.hasPassed { pause(microseconds: 2000) }
        }
        outcome.serverStatus = server.status
        return outcome
    }

    private func connect(_ server: Server, _ deadline: Deadline, _ name: String) throws(CheckpointError) -> Prelude {
        while true {
            do throws(CheckpointError) {
                return try Prelude(to: service, in: namespace, as: channel.peer)
            } catch {
                if server.hasEnded, let status = server.status {
                    throw CheckpointError(
                        "\(name) ended before it accepted the connection", why: status >= 128 ? "signal \(status - 128)" : "exit status \(status)",
                        errno: ECONNREFUSED, advice: "It must stay in the foreground, as nginx -g 'daemon off;' does; its output is above")
                }
                if deadline.hasPassed || isInterrupted {
                    throw CheckpointError(
                        "\(name) does not accept the connection", why: error.why, errno: error.errno,
                        advice: "Does it listen at \(service)? --port names another port")
                }
                pause(microseconds: 10_000)
            }
        }
    }

    private func converse(_ client: Prelude, _ input: [UInt8], _ patience: Int, _ outcome: inout Outcome) throws(CheckpointError) {
        var (isOpen, deadline) = (true, Deadline(milliseconds: patience))
        var buffer = [UInt8](repeating: 0, count: 65536)
        while !deadline.hasPassed, !isInterrupted {
            if isOpen, outcome.sent == input.count {
                // The client's FIN, if it had arrived.
                if channel.state.finReceived { shutdown(client.raw, Int32(SHUT_WR)) }
                isOpen = false
            }
            var entry = pollfd(fd: client.raw, events: Int16(POLLIN) | (isOpen ? Int16(POLLOUT) : 0), revents: 0)
            guard poll(&entry, 1, min(100, deadline.remainingMilliseconds)) > 0 else { continue }
            if entry.revents & Int16(POLLOUT) != 0, isOpen {
                let count = input.withUnsafeBytes { send(client.raw, $0.baseAddress! + outcome.sent, input.count - outcome.sent, Int32(MSG_NOSIGNAL)) }
                if count > 0 { (outcome.sent, deadline) = (outcome.sent + count, Deadline(milliseconds: patience)) }
            }
            guard entry.revents & Int16(POLLIN | POLLERR | POLLHUP) != 0 else { continue }
            let count = recv(client.raw, &buffer, buffer.count, 0)
            if count < 0, errno == EAGAIN || errno == EINTR { continue }
            guard count > 0, outcome.answer.count < Self.answerLimit else {
                outcome.end = count == 0 ? .closed : count < 0 ? .reset : .silent
                return
            }
            outcome.answer += buffer.prefix(count)
            deadline = Deadline(milliseconds: patience)
        }
    }

    private var isInterrupted: Bool {
        var pending = sigset_t()
        sigpending(&pending)
        return [SIGINT, SIGTERM, SIGHUP].contains { sigismember(&pending, $0) == 1 }
    }
}

/// The server of a replay, and every process that it starts: they are known by their network namespace, wherever they go.
private final class Server {
    private let pid: Int32
    private let namespace: NetworkNamespace
    private(set) var status: Int32?

    init(_ pid: Int32, _ namespace: NetworkNamespace) { (self.pid, self.namespace) = (pid, namespace) }

    /// The first process has ended; then `status` is known.
    var hasEnded: Bool {
        if status != nil { return true }
        var raw: Int32 = 0
        guard waitpid(pid, &raw, WNOHANG) == pid else { return false }
        status = raw & 0x7f == 0 ? (raw >> 8) & 0xff : 128 + (raw & 0x7f)
        return true
    }

    /// SIGTERM, and SIGKILL after a second.
    func endAll() {
        let (device, inode) = namespace.identity
        let deadline = Deadline(milliseconds: 1000)
        var signal = SIGTERM
        while true {
            _ = hasEnded
            let left = numericEntries(of: "/proc").filter { process in
                var status = stat()
                return process != getpid() && stat("/proc/\(process)/ns/net", &status) == 0 && status.st_ino == inode && status.st_dev == device
            }
            if left.isEmpty { return }
            for process in left { kill(process, signal) }
            pause(microseconds: 5000)
            if deadline.hasPassed { signal = SIGKILL }
        }
    }
}
