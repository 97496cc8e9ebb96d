// A process's part in a service, for servers in Swift: libsc with its own words (sc.h has the recipe of calls).

import Glibc
import SC

/// What a server does when it is asked. All of it is called by `Participant.dispatch`, on its thread, between two steps of the server's loop.
public struct Callbacks<Session: AnyObject> {
    /// Bring the session to a safe point, take its descriptors out of the event loop, `export`, `parked()`: now, or within a second.
    public var park: (Continuation<Session>) -> Void
    /// Serve it: it stays, or it has come. Input that waits is to be looked for.
    public var resume: (Continuation<Session>) -> Void
    /// It is served elsewhere, or does not come: `end()`, close its descriptors, forget it.
    public var gone: (Continuation<Session>) -> Void
    /// A session would come. Without it none do.
    public var offer: ((Offer<Session>) -> Void)?
    /// It is here, still silent: build the session from its state and its descriptors, which are the server's from now on. An error refuses it; the
    /// library then closes the descriptors and the continuation has ended.
    public var `import`: ((Continuation<Session>, Import) throws(SCError) -> Void)?

    public init(
        park: @escaping (Continuation<Session>) -> Void, resume: @escaping (Continuation<Session>) -> Void,
        gone: @escaping (Continuation<Session>) -> Void, offer: ((Offer<Session>) -> Void)? = nil,
        import: ((Continuation<Session>, Import) throws(SCError) -> Void)? = nil
    ) {
        (self.park, self.resume, self.gone, self.offer, self.import) = (park, resume, gone, offer, `import`)
    }
}

/// What the agent says of this process.
public enum AgentStatus: Equatable, Sendable {
    case connected
    /// None runs, or it does not answer yet. Every call does its book-keeping and nothing else.
    case absent
    case refused(reason: String)
}

/// This process as one of a service's servers. It and its continuations belong to one thread at a time; nothing here blocks.
///
/// One for each process that serves, made after `fork`. It lives at least as long as its continuations.
public final class Participant<Session: AnyObject> {
    let callbacks: Callbacks<Session>
    private let part: Part

    /// `stateVersion` names the form of the state that this server exports. Succeeds without an agent.
    /// EINVAL: the name (letters, digits, '.', '-', '_').
    public init(_ service: String, stateVersion: UInt32, _ callbacks: Callbacks<Session>) throws(SCError) {
        self.callbacks = callbacks
        part = Part()
        part.didOffer = { [unowned self] offer in
            guard let answer = self.callbacks.offer else { return sc_decline(offer, "this server takes no sessions") }
            answer(Offer(offer, self))
        }
        var hooks = Part.hooks(takesSessions: callbacks.offer != nil && callbacks.import != nil)
        try SCError.check(
            sc_open(service, stateVersion, &hooks, Unmanaged.passUnretained(part).toOpaque(), 0, &part.handle), "sc_open")
    }

    /// The one descriptor to wait for (readable). It stays the same; do not read or close it.
    public var descriptor: Int32 { sc_fd(part.handle) }

    /// Does what is due without blocking, callbacks included. Returns how many of them it called.
    @discardableResult
    public func dispatch() throws(SCError) -> Int { Int(try SCError.check(sc_dispatch(part.handle), "sc_dispatch")) }

    public var status: AgentStatus {
        switch sc_status(part.handle) {
        case 1...: .connected
        case 0: .absent
        default: .refused(reason: String(cString: sc_reason(part.handle)))
        }
    }

    /// Sessions may come or, as in the beginning, not. EINVAL: there are no callbacks for them.
    public func acceptOffers(_ accept: Bool) throws(SCError) { try SCError.check(sc_accept_offers(part.handle, accept ? 1 : 0), "sc_accept_offers") }

    /// A continuation for one session. Both are kept until `end()`. ENOMEM.
    public func create(_ session: Session) throws(SCError) -> Continuation<Session> {
        let continuation = Continuation(session, self)
        return try continuation.kept(sc_create(part.handle, continuation.retained(), &continuation.handle), "sc_create")
    }
}

private func callable(_ session: UnsafeMutableRawPointer?) -> any Callable {
    // What `retained` gave to the library.
    Unmanaged<AnyObject>.fromOpaque(session!).takeUnretainedValue() as! any Callable
}

/// What C calls, without the type of the server's sessions: a C function cannot be generic.
final class Part {
    var handle: OpaquePointer?
    var didOffer: (OpaquePointer) -> Void = { sc_decline($0, "") }

    deinit { sc_close(handle) }

    static func hooks(takesSessions: Bool) -> sc_callbacks_t {
        var hooks = sc_callbacks_t()
        hooks.size = MemoryLayout<sc_callbacks_t>.size
        hooks.park = { _, session in callable(session).park() }
        hooks.resume = { _, session in callable(session).resume() }
        hooks.gone = { _, session in callable(session).gone() }
        guard takesSessions else { return hooks }
        hooks.offer = { _, offer, user in
            guard let offer, let user else { return }
            Unmanaged<Part>.fromOpaque(user).takeUnretainedValue().didOffer(offer)
        }
        hooks.import = { _, session, arrival in
            guard let arrival else { return -EINVAL }
            return callable(session).arrive(Import(arrival.pointee))
        }
        return hooks
    }
}
