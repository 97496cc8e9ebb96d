// The conversation of the two ends of a migration: messages over a pair of descriptors, a local socket, or the system's ssh.
//
//   source                                   target
//   offer ─────────────────────────────────> checks, asks the acceptor
//        <───────────────────────────────── answer
//   report(freeze) ────────────────────────> parks what it passes on today (only when asked: a session that returns)
//        <───────────────────────────────── report(freeze)
//   sessions, report(transfer) ────────────> rebuilds (the report names what was offered and does not come)
//        <───────────────────────────────── report(rebuild, consent)
//   report(decide) ────────────────────────> activates, delivers
//        <───────────────────────────────── report(activate)
//   report(release) ───────────────────────> forgets the move
//   failure, either way, at any time before decide: the session stays at the source
//
// A conversation may instead be one question: resolve (answered by a standing), or an inquiry (answered by a living).

import CProc
import Glibc
import SCImage

/// One end of the conversation.
package final class PeerLink {
    private let input: SharedDescriptor
    private let output: SharedDescriptor
    private var writer: WireWriter<DescriptorSink>
    private var reader: WireReader<DescriptorSource>
    private let peer: String
    private var child: Int32 = 0

    /// Says hello and waits for the peer's.
    package init(input: SharedDescriptor, output: SharedDescriptor, peer: String, timeout: Int) throws(CheckpointError) {
        self.input = input
        self.output = output
        self.peer = peer
        // Non-blocking, so that a peer that says nothing, or takes nothing, is noticed.
        for fd in [input.raw, output.raw] { _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) }
        do throws(ImageError) {
            writer = try WireWriter(DescriptorSink(output.raw, operation: "sending to \(peer)", timeout: Int32(clamping: timeout)))
            reader = try WireReader(DescriptorSource(input.raw, operation: "receiving from \(peer)", timeout: Int32(clamping: timeout)))
        } catch {
            throw Self.translate(error, peer)
        }
    }

    /// Opens a connection to an agent; set once, by the program, before anything runs. The engine knows no TLS.
    package nonisolated(unsafe) static var connectTLS: (_ peer: String, _ timeout: Int) throws(CheckpointError) -> SharedDescriptor = {
        peer, _ throws(CheckpointError) in
        throw CheckpointError("cannot reach tls://\(peer)", why: "this program has no TLS", errno: EPROTONOSUPPORT)
    }

    /// Opens the conversation with a target. `shell` is the remote shell command (`ssh`), `program` the tool's name on the target.
    package static func open(
        _ target: TargetAddress, shell: [String], program: String, timeout: Int
    ) throws(CheckpointError) -> PeerLink {
        switch target {
        case .unix(let path):
            guard let connection = connectedUnix(path, type: Int32(SOCK_STREAM.rawValue)) else {
                throw CheckpointError(
                    "cannot reach the receiver at unix:\(path)", result: Int(-errno), advice: "Start it there: sc-checkpoint receive --listen \(path)"
                )
            }
            return try PeerLink(input: connection, output: connection, peer: target.description, timeout: timeout)
        case .tls(let peer):
            let connection = try connectTLS(peer, timeout)
            return try PeerLink(input: connection, output: connection, peer: target.description, timeout: timeout)
        case .own:
            let (own, child) = try spawnOnStream([ownProgram, "receive"], environment: nil, in: nil)
            let link = try PeerLink(input: own, output: own, peer: "this host", timeout: timeout)
            link.child = child
            return link
        case .ssh(let host):
            // ssh's own messages (a refused key, an unknown host) belong on this terminal.
            let (own, child) = try spawnOnStream(shell + [host, program, "receive"], environment: nil, in: nil)
            do throws(CheckpointError) {
                let link = try PeerLink(input: own, output: own, peer: host, timeout: timeout)
                link.child = child
                return link
            } catch {
                // ssh tells by its exit status what it could not say on the stream.
                var status: Int32 = 0
                let deadline = Deadline(milliseconds: 1000)
                var ended = waitpid(child, &status, WNOHANG) == child
                while !ended, !deadline.hasPassed {
                    pause(microseconds: 1000)
                    ended = waitpid(child, &status, WNOHANG) == child
                }
                let why = ended ? "\(shell[0]) ended with status \((status >> 8) & 0xff)" : error.why
                if !ended { kill(child, SIGTERM) }
                throw CheckpointError(
                    "cannot reach \(host) by \(shell.joined(separator: " "))", why: why, errno: error.errno,
                    advice: "Try it by hand: \(shell.joined(separator: " ")) \(host) \(program) --version")
            }
        }
    }

    deinit {
        if child > 0 { endChild(child, onStream: input.raw, by: SIGTERM) }
    }

    /// How long the peer may be silent from now on, in milliseconds.
    func limitSilence(to milliseconds: Int) { reader.source.timeout = Int32(clamping: milliseconds) }

    package func send(_ message: WireMessage) throws(CheckpointError) {
        do throws(ImageError) { try writer.write(message) } catch { throw Self.translate(error, peer) }
    }

    /// The next message. A failure that the peer tells of is thrown as its own words; the end of the stream is one as well.
    package func receive() throws(CheckpointError) -> WireMessage {
        let message: WireMessage?
        do throws(ImageError) { message = try reader.next() } catch { throw Self.translate(error, peer) }
        switch message {
        case .failure(let failure):
            throw CheckpointError(
                failure.what, why: failure.why, errno: failure.errno, advice: failure.advice,
                outcome: failure.needsRecover ? .needsRecovery : .unchanged)
        case .some(let message): return message
        case nil:
            throw Self.hasEnded(peer)
        }
    }

    /// Says that a stage is done, which is also the signal to go on. `withdrawn`: the offer's flows, by number, that do not come.
    package func report(_ stage: Stage, withdrawn: [Int] = []) throws(CheckpointError) {
        var report = Report(stages: [Timing(stage: stage.rawValue, startNanoseconds: monotonicNanoseconds(), durationNanoseconds: 0)])
        report.withdrawn = withdrawn
        try send(.report(report))
    }

    /// Waits for the report that ends with `stage`.
    package func expect(_ stage: Stage) throws(CheckpointError) {
        guard case .report(let report) = try receive(), report.stages.last?.stage == stage.rawValue else {
            throw CheckpointError("\(peer) lost its place in the conversation", why: "\(stage.rawValue) was expected", errno: EPROTO)
        }
    }

    /// Breaks the connection.
    func cut() {
        for fd in [input.raw, output.raw] where shutdown(fd, Int32(SHUT_RDWR)) != 0 {
            // Not a socket: nothing more can be read or written all the same.
            let null = Glibc.open("/dev/null", O_RDWR | O_CLOEXEC)
            dup2(null, fd)
            close(null)
        }
    }

    /// Tells the peer that this end gives up.
    package func sendFailure(_ error: CheckpointError) {
        try? send(
            .failure(
                Failure(what: error.what, why: error.why, advice: error.advice, errno: error.errno, needsRecover: error.outcome == .needsRecovery)))
    }

    private static func hasEnded(_ peer: String) -> CheckpointError {
        CheckpointError(
            "\(peer) ended the conversation", why: "the connection was closed", errno: ECONNRESET,
            advice: "The session stays where it was; look into its messages")
    }

    private static func translate(_ error: ImageError, _ peer: String) -> CheckpointError {
        switch error {
        case .io(let number, _) where number == ETIMEDOUT:
            CheckpointError(
                "\(peer) does not answer", why: "no reply within the deadline", errno: ETIMEDOUT, advice: "The session stays where it was")
        // Which of the three it is depends on what the peer had read when it ended.
        case .io(let number, _) where number == ECONNRESET || number == EPIPE: hasEnded(peer)
        case .io(let number, let operation): CheckpointError("\(operation) failed", result: Int(-number), advice: "The session stays where it was")
        case .truncated: hasEnded(peer)
        default:
            CheckpointError("\(peer) does not speak this tool's protocol", why: error.description, errno: EPROTO, advice: "Is it the same version?")
        }
    }
}
