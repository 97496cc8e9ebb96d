// One session as this process serves it: its channels, its exports, and the answers to what the library asks.

import Glibc
import SC

/// The part of a continuation that C can name: a C function cannot be generic.
protocol Callable: AnyObject {
    func park()
    func resume()
    func gone()
    /// 0 or a negative errno.
    func arrive(_ arrival: Import) -> Int32
}

/// A session that can leave, or has come. After `end()`, or an import that was refused, every call throws ESTALE.
public final class Continuation<Session: AnyObject>: Callable {
    public let session: Session
    /// nil: it has ended, and the library may have freed it.
    var handle: OpaquePointer?
    /// Kept: the library's memory of this continuation belongs to it.
    private let participant: Participant<Session>

    init(_ session: Session, _ participant: Participant<Session>) {
        self.session = session
        self.participant = participant
    }

    /// For the library, which has it until its end.
    func retained() -> UnsafeMutableRawPointer { Unmanaged<AnyObject>.passRetained(self).toOpaque() }
    func release() { Unmanaged<AnyObject>.passUnretained(self).release() }

    /// Itself; the library does not keep what it refused.
    func kept(_ result: Int32, _ call: String) throws(SCError) -> Self {
        if result < 0 { release() }
        try SCError.check(result, call)
        return self
    }

    private func call(_ name: String, _ body: (OpaquePointer) -> Int32) throws(SCError) {
        guard let handle else { throw SCError(errno: ESTALE, call: name) }
        try SCError.check(body(handle), name)
    }

    /// The session is served by several processes, and `part` is what this one does in it ("worker"). `group`: 16 bytes, the same in all of them. Before
    /// the first `associate`. EINVAL: their number, or the part; EALREADY: it has joined, or has channels.
    public func join(_ group: [UInt8], as part: String) throws(SCError) {
        guard group.count == Int(SC_GROUP_SIZE) else { throw SCError(errno: EINVAL, call: "sc_join") }
        try call("sc_join") { sc_join($0, group, part) }
    }

    /// The connected socket, end of a pipe or file belongs to the session, as `role` ("client"). The descriptor stays the server's. The errors are
    /// sc_associate's.
    public func associate(_ descriptor: Int32, as role: String) throws(SCError) {
        try call("sc_associate") { sc_associate($0, descriptor, role) }
    }

    /// It belongs to it no longer; before it is closed. ENOENT: it did not; EBUSY: the session is parked.
    public func dissociate(_ descriptor: Int32) throws(SCError) { try call("sc_dissociate") { sc_dissociate($0, descriptor) } }

    /// The state may have so many bytes, 64 KiB to 16 MiB; who would take the session is told beforehand. EOPNOTSUPP: of sessions that outlive the process.
    public func reserve(_ bytes: Int) throws(SCError) { try call("sc_reserve") { sc_reserve($0, bytes) } }

    /// Keeps a copy of the session's state, in place of the former. EFBIG: more than 64 KiB, or than is reserved; EBUSY: it is parked.
    public func export(_ state: [UInt8]) throws(SCError) {
        try call("sc_export") { handle in state.withUnsafeBytes { sc_export(handle, $0.baseAddress, $0.count) } }
    }

    /// The session is at a safe point, its state exported, and will not be touched. ESTALE: nobody waits for it any longer; `resume` has been called.
    public func parked() throws(SCError) { try call("sc_parked") { sc_parked($0) } }

    /// It cannot be parked now and is served on. The reason is shown to who asked.
    public func refuse(_ reason: String) throws(SCError) { try call("sc_refuse") { sc_refuse($0, reason) } }

    /// It cannot move, for this reason, until nil says that it can again: who wants to move it is told without `park` being called. EINVAL: an empty reason, or
    /// one of more than 199 bytes.
    public func pin(_ reason: String?) throws(SCError) { try call("sc_pin") { sc_pin($0, reason) } }

    /// The session is over, or not this process's any longer. Before its descriptors are closed. In any state, also twice.
    public func end() {
        guard let ended = handle else { return }
        handle = nil
        sc_end(ended)
        release()
    }

    func park() { participant.callbacks.park(self) }
    func resume() { participant.callbacks.resume(self) }
    func gone() { participant.callbacks.gone(self) }

    func arrive(_ arrival: Import) -> Int32 {
        do throws(SCError) {
            try participant.callbacks.import?(self, arrival)
            return 0
        } catch {
            // The library ends it.
            handle = nil
            defer { release() }
            return -error.errno
        }
    }
}
