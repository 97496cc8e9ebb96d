// The engine's side of a terminator: starts it with a connection and an order, and learns how the handshake ended.

import CProc
import CTLS
import Glibc
import SCEngine
import SCImage
import Synchronization

/// A connection whose handshake is under way in its terminator.
package struct PendingPeer: Sendable {
    /// The engine's end, for `PeerLink`. Until the handshake has succeeded nothing comes out of it; it ends when the handshake fails.
    package let link: SharedDescriptor
    /// Readable when the outcome is known; `result()` takes it from there.
    package let outcome: SharedDescriptor
    /// The terminator's pid. It is a child of this process and reaped by the next start of one (or by whoever reaps children).
    package let pid: Int32
    private let store: PeerStore
    private let label: String

    fileprivate init(link: SharedDescriptor, outcome: SharedDescriptor, pid: Int32, store: PeerStore, label: String) {
        (self.link, self.outcome, self.pid, self.store, self.label) = (link, outcome, pid, store, label)
    }

    /// Waits for the outcome: the peer, or why it was refused. Call it once.
    package func result() throws(CheckpointError) -> Peer {
        guard case .peer(let name, let fingerprint, _) = try read() else { throw lost }
        let peer = try store.peer(named: name)
        // Trust may have been withdrawn while the handshake went on.
        guard peer.fingerprint == fingerprint else { throw lost }
        return peer
    }

    fileprivate func read() throws(CheckpointError) -> HandshakeOutcome {
        var line = [UInt8](repeating: 0, count: 4096)
        var length = 0
        while length < line.count, length == 0 || line[length - 1] != UInt8(ascii: "\n") {
            let count = line.withUnsafeMutableBytes { Glibc.read(outcome.raw, $0.baseAddress! + length, $0.count - length) }
            if count < 0, errno == EINTR { continue }
            if count <= 0 { break }
            length += count
        }
        guard let outcome = HandshakeOutcome(line: String(decoding: line.prefix(length), as: UTF8.self)) else { throw lost }
        if case .refused(let error) = outcome { throw error }
        return outcome
    }

    private var lost: CheckpointError {
        CheckpointError("the handshake with \(label) failed", why: "its TLS process ended without a word", errno: ECONNABORTED)
    }
}

/// Serves an accepted TCP connection by a terminator of its own, and does not wait for it. Throws only what is wrong on this host: no
/// usable key or certificate, a malformed peer file, no more processes.
package func acceptPeer(
    _ connection: consuming OwnedDescriptor, store: PeerStore, limits: TerminatorLimits = TerminatorLimits()
) throws(CheckpointError) -> PendingPeer {
    var endpoint = cproc_endpoint()
    let address = cproc_getpeername(connection.raw, &endpoint) == 0 ? SocketAddress(endpoint)?.description : nil
    let order = TerminatorOrder(role: .server, label: address ?? "a peer", limits: limits, trusted: try store.peers)
    return try start(order, connection, store)
}

/// Connects to a trusted peer, given by name or by the `HOST:PORT` that it is trusted at, and waits until both ends have accepted each
/// other, `timeout` milliseconds at most. The link is the engine's end, for `PeerLink`.
package func connectPeer(
    _ address: String, store: PeerStore, timeout: Int, limits: TerminatorLimits = TerminatorLimits()
) throws(CheckpointError) -> (link: SharedDescriptor, peer: Peer) {
    let peer = try store.peer(address)
    let deadline = Deadline(milliseconds: timeout)
    let connection = try connectTCP(to: peer.address, deadline)
    var limits = limits
    limits.handshakeMilliseconds = Int(deadline.remainingMilliseconds)
    let order = TerminatorOrder(role: .client, label: "\(peer.name) (\(peer.address))", limits: limits, trusted: [peer])
    let pending = try start(order, connection, store)
    return (pending.link, try pending.result())
}

/// Connects only to learn which certificate is shown at `address`, whether it is trusted or not.
package func probePeer(
    _ address: String, store: PeerStore, timeout: Int, limits: TerminatorLimits = TerminatorLimits()
) throws(CheckpointError) -> (fingerprint: Fingerprint, validUntil: Int64) {
    let deadline = Deadline(milliseconds: timeout)
    let connection = try connectTCP(to: address, deadline)
    var limits = limits
    limits.handshakeMilliseconds = Int(deadline.remainingMilliseconds)
    let pending = try start(TerminatorOrder(role: .probe, label: address, limits: limits, trusted: []), connection, store)
    guard case .peer(_, let fingerprint, let until) = try pending.read() else { preconditionFailure("a refusal is thrown") }
    return (fingerprint, until)
}

private func start(
    _ order: TerminatorOrder, _ connection: consuming OwnedDescriptor, _ store: PeerStore
) throws(CheckpointError) -> PendingPeer {
    let identity = try store.identity
    try identity.checkValidity()
    guard let key = try ConfigurationFile.open(identity.keyPath, .secret, "the private key"),
        let certificate = try ConfigurationFile.open(identity.certificatePath, .trusted, "the certificate")
    else { throw CheckpointError("cannot read this host's key", why: "it was removed", errno: ENOENT) }
    // Small messages follow each other in both directions, and a session waits for each of them.
    cproc_setsockopt_int(connection.raw, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    cproc_setsockopt_int(connection.raw, SOL_SOCKET, SO_KEEPALIVE, 1)
    let (link, engine) = try socketPair()
    let (outcome, teller) = try socketPair()
    for end in [link, engine] { cproc_setsockopt_int(end.raw, SOL_SOCKET, SO_SNDBUF, 1 << 20) }
    let passed = [
        SharedDescriptor(connection), engine, teller, SharedDescriptor(try order.file()), SharedDescriptor(key), SharedDescriptor(certificate),
    ]
    Children.reap()
    // Nothing of this process's environment may steer libssl or the run-time of the new one.
    let pid = try withExtendedLifetime(passed) { () throws(CheckpointError) in
        try spawn(
            [order.limits.program, "tls-end"], environment: [], in: nil, standard: (-1, -1, -1), passing: passed.map(\.raw), listenPID: false)
    }
    Children.add(pid)
    return PendingPeer(link: link, outcome: outcome, pid: pid, store: store, label: order.label)
}

private func socketPair() throws(CheckpointError) -> (SharedDescriptor, SharedDescriptor) {
    var ends: [Int32] = [-1, -1]
    let result = socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends)
    try check(result < 0 ? -errno : result, "cannot make a socket pair")
    return (SharedDescriptor(ends[0]), SharedDescriptor(ends[1]))
}

/// Terminators that were started and not reaped yet: those that have ended go at the next start, so there are never many.
private enum Children {
    private static let pids = Mutex<[Int32]>([])

    static func add(_ pid: Int32) { pids.withLock { $0.append(pid) } }

    static func reap() {
        pids.withLock { $0.removeAll { waitpid($0, nil, WNOHANG) != 0 } }
    }
}
