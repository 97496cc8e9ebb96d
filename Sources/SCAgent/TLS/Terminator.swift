// The process that stands between a peer and the engine: it ends TLS, checks every message, and can do nothing else.

import CProc
import CTLS
import Glibc
import SCEngine
import SCImage

/// The verb `tls-end`. Descriptors 3 to 8 are those of `TerminatorOrder.Descriptor`.
package enum Terminator {
    /// Runs until either end of the conversation ends. Nothing is printed: the outcome goes through its descriptor.
    package static func run() {
        guard let text = readAll(.order), let order = TerminatorOrder(text: text) else {
            return tell(.refused(CheckpointError("tls-end is no verb for people", why: "it has no order", errno: EINVAL)))
        }
        do throws(CheckpointError) {
            let deadline = Deadline(milliseconds: order.limits.handshakeMilliseconds)
            let tls = try prepare(order)
            do throws(CheckpointError) {
                tell(try tls.handshake(deadline))
            } catch {
                tell(.refused(error))
                tls.linger()
                return
            }
            guard order.role != .probe else { return }
            serve(tls, order)
            tls.linger()
        } catch {
            tell(.refused(error))
        }
    }

    /// Loads what needs files and rights, then gives both up. No byte of the peer has been read when it returns.
    private static func prepare(_ order: TerminatorOrder) throws(CheckpointError) -> TLSConnection {
        for fd in [Descriptor.connection, .engine] { _ = fcntl(fd.rawValue, F_SETFL, fcntl(fd.rawValue, F_GETFL) | O_NONBLOCK) }
        guard var key = readBytes(.key), let certificate = readBytes(.certificate) else {
            throw CheckpointError("cannot read this host's key and certificate", why: "the terminator got none", errno: EINVAL)
        }
        defer { ctls_cleanse(&key, key.count) }
        let tls = try TLSConnection(socket: Descriptor.connection.rawValue, order: order, key: key, certificate: certificate)
        try check(
            cproc_confine("sc-tls-end", Descriptor.outcome.rawValue, UInt64(order.limits.memoryBytes)), "cannot confine the TLS process",
            advice: "The kernel needs CONFIG_SECCOMP_FILTER")
        return tls
    }

    private static func serve(_ tls: TLSConnection, _ order: TerminatorOrder) {
        let pump = TLSPump(
            tls, socket: Descriptor.connection.rawValue, engine: Descriptor.engine.rawValue, idleMilliseconds: order.limits.idleMilliseconds)
        var limits = ImageLimits()
        limits.sessionBytes = min(limits.sessionBytes, max(0, order.limits.memoryBytes - TerminatorLimits.overhead))
        limits.stateBytes = min(limits.stateBytes, limits.sessionBytes)
        do throws(ImageError) {
            // The engine reads bytes that this process has written itself, from the values that it understood.
            var reader = try WireReader(PeerSource(pump: pump), limits: limits)
            var writer = try WireWriter(EngineSink(pump: pump), limits: limits)
            do throws(ImageError) {
                while let message = try reader.next() { try writer.write(message) }
            } catch {
                if let failure = failure(error, order) { try writer.write(.failure(failure)) }
                shutdown(Descriptor.engine.rawValue, Int32(SHUT_WR))
                return
            }
        } catch {
            // Before the first message the engine only learns that there is none.
            if case .io = error { return }
        }
        pump.finish()
    }

    /// What the engine should know of a message that was not passed on; nil for an end, which it sees by itself.
    private static func failure(_ error: ImageError, _ order: TerminatorOrder) -> Failure? {
        switch error {
        case .truncated, .io: nil
        default:
            Failure(
                what: "\(order.label) does not speak this tool's protocol", why: error.description, advice: "Is it the same version?", errno: EPROTO)
        }
    }

    private static func tell(_ outcome: HandshakeOutcome) {
        let line = outcome.line
        _ = write(Descriptor.outcome.rawValue, line, line.utf8.count)
        close(Descriptor.outcome.rawValue)
    }

    private typealias Descriptor = TerminatorOrder.Descriptor

    /// The whole of a small file, and closes it.
    private static func readBytes(_ descriptor: Descriptor) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        let count = read(descriptor.rawValue, &bytes, bytes.count)
        defer {
            ctls_cleanse(&bytes, bytes.count)
            close(descriptor.rawValue)
        }
        return count > 0 ? Array(bytes.prefix(count)) : nil
    }

    private static func readAll(_ descriptor: Descriptor) -> String? {
        readBytes(descriptor).map { String(decoding: $0, as: UTF8.self) }
    }
}
