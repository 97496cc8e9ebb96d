// A TLS connection as the terminator sees it: handshake, bytes, and what went wrong in the words of the command line.

import CProc
import CTLS
import Glibc
import SCEngine

/// Owns libssl's state of one connection; the socket belongs to the caller.
final class TLSConnection {
    private let handle: OpaquePointer
    private let socket: Int32
    private let order: TerminatorOrder

    /// `socket` must be non-blocking. Key and certificate are PEM.
    init(socket: Int32, order: TerminatorOrder, key: [UInt8], certificate: [UInt8]) throws(CheckpointError) {
        var reason: Int32 = 0
        let trusted = order.trusted.flatMap(\.fingerprint.bytes)
        let made = trusted.withUnsafeBufferPointer { bytes in
            // An empty array has no address, and nil would mean that anybody is trusted.
            var nobody: UInt8 = 0
            return withUnsafePointer(to: &nobody) { none in
                ctls_new(
                    socket, order.role == .server ? 1 : 0, key, key.count, certificate, certificate.count,
                    order.role == .probe ? nil : bytes.baseAddress ?? none, order.trusted.count, &reason)
            }
        }
        guard let made else {
            throw CheckpointError("cannot use this host's key and certificate", why: "libssl refuses them (\(reason))", errno: EINVAL)
        }
        (handle, self.socket, self.order) = (made, socket, order)
    }

    deinit { ctls_free(handle) }

    /// Goes through the handshake by the deadline; the trusted peer that the other end has proved to be, or a probe's nameless one.
    func handshake(_ deadline: Deadline) throws(CheckpointError) -> HandshakeOutcome {
        while true {
            let result = ctls_handshake(handle)
            if result == 0 { break }
            let events: Int32
            switch result {
            case Int32(CTLS_WANT_READ.rawValue): events = POLLIN
            case Int32(CTLS_WANT_WRITE.rawValue): events = POLLOUT
            default: throw failure(result)
            }
            var entry = pollfd(fd: socket, events: Int16(events), revents: 0)
            let ready = poll(&entry, 1, deadline.remainingMilliseconds)
            guard ready != 0 else {
                throw CheckpointError(
                    "the handshake with \(order.label) did not end", why: "no TLS handshake within \(order.limits.handshakeMilliseconds) ms",
                    errno: ETIMEDOUT, advice: order.role == .server ? "" : "Is a sc-checkpoint agent at that address, and not overloaded?")
            }
        }
        var facts = ctls_certificate()
        guard ctls_peer_certificate(handle, &facts) == 0 else { throw failure(Int32(CTLS_NO_CERTIFICATE.rawValue)) }
        let name = order.trusted.first { $0.fingerprint == facts.digest }?.name ?? ""
        return .peer(name: name, facts.digest, validUntil: facts.not_after)
    }

    /// Bytes decrypted; 0 at the end of the stream, nil when none are there.
    func read(into buffer: UnsafeMutableRawBufferPointer) -> Int? { settle(ctls_read(handle, buffer.baseAddress, buffer.count)) }

    /// Bytes taken; 0 when the connection is broken, nil when none can be taken now: the same bytes have to be offered again.
    func write(_ bytes: UnsafeRawBufferPointer) -> Int? { settle(ctls_write(handle, bytes.baseAddress, bytes.count)) }

    /// close_notify and FIN: this direction is at its end.
    func end() {
        _ = ctls_close(handle)
        shutdown(socket, Int32(SHUT_WR))
    }

    /// At the end: lets the last words reach the peer, which a close with unread bytes would overtake with a RST.
    func linger() {
        shutdown(socket, Int32(SHUT_WR))
        let deadline = Deadline(milliseconds: 300)
        var scratch = [UInt8](repeating: 0, count: 4096)
        var left = 64 << 10
        while left > 0, !deadline.hasPassed {
            var entry = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
            guard poll(&entry, 1, deadline.remainingMilliseconds) > 0 else { return }
            let count = Glibc.read(socket, &scratch, scratch.count)
            if count <= 0 { return }
            left -= count
        }
    }

    private func settle(_ result: Int) -> Int? {
        switch result {
        case 0...: result
        case Int(CTLS_WANT_READ.rawValue), Int(CTLS_WANT_WRITE.rawValue): nil
        // An alert, a broken record or a reset: nothing more comes, which the engine takes as a failure whatever the cause.
        default: 0
        }
    }

    private func failure(_ result: Int32) -> CheckpointError {
        var facts = ctls_certificate()
        let shown = ctls_peer_certificate(handle, &facts) == 0 ? facts : nil
        let words = String(cString: ctls_reason_text(handle))
        return HandshakeFailure(reason: result, words: words, shown: shown, order: order).error
    }
}
