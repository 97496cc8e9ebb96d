// The messages between restore and an acceptor: one JSON object each, ended by a newline.

import FoundationEssentials
import SCImage

/// A channel as the acceptor's table has it.
struct AcceptorChannel: Encodable {
    var name, kind, state, local, peer: String
    var receive_queue, send_queue: Int
    /// Bytes the application has written and read since the connection began, over all hosts.
    var written, read: UInt64

    init(_ channel: TCPChannel) {
        name = channel.name
        kind = "tcp"
        state = channel.state.name
        local = channel.local.description
        peer = channel.peer.description
        receive_queue = channel.receiveQueue.count
        send_queue = channel.sendQueue.count
        written = channel.bytesWritten
        read = channel.bytesRead
    }
}

/// What restore says. `offer`: these flows would come. `session`: here is one, its channels' descriptors in the order of the table, then one with the
/// application state when `state_bytes` is not 0. `go`: they are live. `cancel`: they stay where they were.
struct AcceptorRequest: Encodable {
    var type: String
    var version = 1
    var id: String?
    var flows: [[String: String]]?
    var channels: [AcceptorChannel]?
    var state_bytes: Int?
    /// With a state that a server had exported by libsc.
    var state_version: UInt32?
    /// Behind the state, in the same file: output that the server will produce again and that must not reach the client (sc_memory.h, sc_memory_repeat).
    var repeat_bytes: Int?

    /// The message's bytes, newline included.
    var line: [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return Array((try? encoder.encode(self)) ?? Data()) + [UInt8(ascii: "\n")]
    }
}

/// What the acceptor answers: `accept` or `decline` to the offer, `ready` or `decline` after the sessions.
struct AcceptorReply: Decodable {
    var type: String
    var reason: String?
    /// With `ready`: the process that has the sessions, when it is another than the one that listens.
    var pid: Int32?
    /// With `accept`: it keeps output back that its client has already.
    var repeats: Bool?

    init?(_ bytes: [UInt8]) {
        guard let reply = try? JSONDecoder().decode(AcceptorReply.self, from: Data(bytes)) else { return nil }
        self = reply
    }
}
