// What knows a server's protocol well enough to bring another server to the same position of it.

import Glibc
import SCImage

/// The two halves of an adapter. `learn` and `fix` run at the source; `check` and `align` at the target, against an unmodified server.
///
/// The target opens an ordinary connection to its server (the prelude) and drives it into the session's state; the accepted socket then becomes
/// the migrated connection. The server thereby agrees in its own language: what it would refuse to any client it refuses here, before the source is touched.
package protocol Adapter: Sendable {
    var name: String { get }

    /// While the session runs at the source: finds out what the other server will have to do. `options` are the user's `key=value`.
    func learn(_ session: SelectedSession, socket: HeldSocket, known: AdapterState?, options: [String: String]) throws(CheckpointError)
        -> AdapterState

    /// The session is captured: writes its exact position into the state, or refuses when it cannot be proved.
    func fix(_ state: AdapterState, channel: TCPChannel) throws(CheckpointError) -> AdapterState

    /// At the target, before the source is touched: would this server continue this session? `request` speaks to it on a connection of its own.
    func check(_ state: AdapterState, server: ServerAccess) throws(CheckpointError)

    /// At the target, the session is captured: drives the prelude to the position and returns what the server has written beyond it so far.
    func align(_ state: AdapterState, channel: TCPChannel, prelude: Prelude) throws(CheckpointError) -> AlignedPrelude
}

/// Where the prelude stands.
package struct AlignedPrelude: Sendable {
    /// Bytes of the stream that the server has written after the session's position.
    package var surplus: [UInt8]
    package init(surplus: [UInt8]) { self.surplus = surplus }
}

/// The adapters that are built in.
package func adapter(named name: String) throws(CheckpointError) -> any Adapter {
    switch name {
    case "http": return HTTPAdapter()
    case "raw": return RawAdapter()
    default:
        throw CheckpointError(
            "there is no adapter \(name)", why: "this version knows http and raw", errno: EINVAL, advice: "Choose one with --adapter", outcome: .usage
        )
    }
}

/// For servers that keep no state of their own for a connection: a fresh one is already in the session's state.
struct RawAdapter: Adapter {
    var name: String { "raw" }

    func learn(_ session: SelectedSession, socket: HeldSocket, known: AdapterState?, options: [String: String]) -> AdapterState {
        AdapterState(name: name, bytes: [])
    }

    func fix(_ state: AdapterState, channel: TCPChannel) -> AdapterState { state }

    func check(_ state: AdapterState, server: ServerAccess) {}

    func align(_ state: AdapterState, channel: TCPChannel, prelude: Prelude) throws(CheckpointError) -> AlignedPrelude {
        // A server that greets first (SMTP, FTP) has a state after all.
        guard try prelude.readAvailable().isEmpty else {
            throw CheckpointError(
                "the server greets its clients, so the raw adapter does not fit it", why: "a fresh connection is not in the session's state",
                errno: EPROTO,
                advice: "Use the adapter of its protocol")
        }
        return AlignedPrelude(surplus: [])
    }
}

extension SessionCapture {
    /// While the sessions run: what the adapter has to know of each, by its number in the selection; nothing without an adapter.
    package func learn(_ adapter: (any Adapter)?, options: [String: String]) throws(CheckpointError) -> [Int: AdapterState] {
        guard let adapter else { return [:] }
        var states: [Int: AdapterState] = [:]
        for index in selected.indices.reversed() {
            do throws(CheckpointError) {
                states[numbers[index]] = try adapter.learn(selected[index], socket: sockets[index], known: knownAdapter(of: index), options: options)
            } catch { try leaveOut(index, error) }
        }
        return states
    }

    /// The captured channels as sessions, one each with its exact position; or all of them as the one session of a group.
    package func sessions(
        _ channels: [TCPChannel], state: [UInt8], adapter: (any Adapter)?, learnt: [Int: AdapterState]
    ) throws(CheckpointError) -> [Session] {
        if let group { return [try groupSession(group, channels)] }
        var sessions: [Session] = []
        for index in channels.indices.reversed() {
            do throws(CheckpointError) {
                sessions.append(try session(index, channels[index], state: state, adapter: adapter, learnt: learnt[numbers[index]]))
            } catch { try leaveOut(index, error) }
        }
        return sessions.reversed()
    }

    private func session(
        _ index: Int, _ channel: TCPChannel, state: [UInt8], adapter: (any Adapter)?, learnt: AdapterState?
    ) throws(CheckpointError) -> Session {
        var position = learnt
        if let adapter, let known = position { position = try adapter.fix(known, channel: channel) }
        guard let exported = try exported(by: index) else {
            return Session(id: id(of: index), channels: [channel], state: state, adapter: position)
        }
        var channel = channel
        channel.name = exported.role
        // What the server had read since its export lies before its successor again: the queue begins earlier, and ends where it ended.
        channel.receiveQueue = exported.input + channel.receiveQueue
        channel.bytesRead &-= UInt64(exported.input.count)
        return Session(
            id: id(of: index), channels: [channel], state: state.isEmpty ? exported.state : state, adapter: position ?? AdapterState(exported))
    }
}
