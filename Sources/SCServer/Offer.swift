// A session that would come, and what comes with one.

import Glibc
import SC

/// A session that would come: the answer is `accept` or `decline`, now or soon. It still runs elsewhere, and nothing is lost by declining. An offer
/// that is dropped is declined.
public final class Offer<Session: AnyObject> {
    /// nil: it is answered, and the library may have freed it.
    private var handle: OpaquePointer?
    private let participant: Participant<Session>
    /// The ends of its connection, "IP:PORT".
    public let local, peer: String
    /// What this process would do in a session of several; empty for one of one process.
    public let part: String
    /// The most bytes of state that it can have.
    public let stateBytes: Int
    /// The form of the state, as the exporter's `stateVersion` has it; 0: not known. One that this server cannot import is declined now, at no cost.
    public let stateVersion: UInt32

    init(_ handle: OpaquePointer, _ participant: Participant<Session>) {
        (self.handle, self.participant) = (handle, participant)
        local = String(cString: sc_offer_local(handle))
        peer = String(cString: sc_offer_peer(handle))
        part = String(cString: sc_offer_part(handle))
        (stateBytes, stateVersion) = (sc_offer_state_bytes(handle), sc_offer_state_version(handle))
    }

    deinit { decline("the server gave no answer") }

    /// Yes; `import` follows with the session's state and descriptors, or `gone`. ESTALE: it has been withdrawn, or answered; ENOMEM.
    @discardableResult
    public func accept(_ session: Session) throws(SCError) -> Continuation<Session> {
        guard let offer = handle else { throw SCError(errno: ESTALE, call: "sc_accept") }
        handle = nil
        let continuation = Continuation(session, participant)
        return try continuation.kept(sc_accept(offer, continuation.retained(), &continuation.handle), "sc_accept")
    }

    /// No; who has asked is shown the reason. Nothing, when it is answered already.
    public func decline(_ reason: String) {
        guard let offer = handle else { return }
        handle = nil
        sc_decline(offer, reason)
    }
}

/// What comes with a session.
public struct Import: Sendable {
    public let state: [UInt8]
    /// The exporter's. One that is not known is refused with EPROTONOSUPPORT.
    public let stateVersion: UInt32
    /// As the exporter had associated them; close-on-exec, and blocking.
    public let channels: [(descriptor: Int32, role: String)]

    init(_ arrival: sc_import_t) {
        state = Array(UnsafeRawBufferPointer(start: arrival.state, count: arrival.length))
        stateVersion = arrival.state_version
        channels = (0..<Int(arrival.channels)).map { (arrival.fds[$0], arrival.roles[$0].map { String(cString: $0) } ?? "") }
    }
}
