// Channels as JSON documents and table rows.

import SCEngine
import SCImage

/// One channel in `inspect --json` and `show --json`.
struct ChannelJSON: Encodable {
    var fd: Int32
    var kind, state, local, peer: String
    var receive_queue, send_queue: Int
    var movable: Bool
    var reason: String?
    var pid: Int32?
    var receive_queue_sha256, send_queue_sha256: String?
    /// Of an image's pipes, Unix sockets and files.
    struct Message: Encodable {
        var length: Int
        var descriptors: [Int]
    }
    var messages: [Message]?
    var connected_to, pipe, capacity: Int?
    var position, size: UInt64?

    init(_ channel: Channel, pid: Int32? = nil) {
        fd = channel.fd
        kind = channel.kind.rawValue
        state = channel.state
        local = channel.local
        peer = channel.peer
        receive_queue = channel.receiveQueue
        send_queue = channel.sendQueue
        movable = channel.isMovable
        reason = channel.reason
        self.pid = pid
    }

    init(_ channel: TCPChannel) {
        fd = channel.fd
        kind = "tcp"
        state = channel.state.name
        local = channel.local.description
        peer = channel.peer.description
        receive_queue = channel.receiveQueue.count
        send_queue = channel.sendQueue.count
        movable = true
        receive_queue_sha256 = digest(channel.receiveQueue)
        send_queue_sha256 = digest(channel.sendQueue)
    }

    private enum CodingKeys: CodingKey {
        case fd, kind, state, local, peer, receive_queue, send_queue, movable, reason, pid, receive_queue_sha256, send_queue_sha256
        case messages, connected_to, pipe, capacity, position, size
    }

    /// `reason` is always there, null for a channel that can move.
    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(fd, forKey: .fd)
        try container.encode(kind, forKey: .kind)
        try container.encode(state, forKey: .state)
        try container.encode(local, forKey: .local)
        try container.encode(peer, forKey: .peer)
        try container.encode(receive_queue, forKey: .receive_queue)
        try container.encode(send_queue, forKey: .send_queue)
        try container.encode(movable, forKey: .movable)
        try container.encode(reason, forKey: .reason)
        try container.encodeIfPresent(pid, forKey: .pid)
        try container.encodeIfPresent(receive_queue_sha256, forKey: .receive_queue_sha256)
        try container.encodeIfPresent(send_queue_sha256, forKey: .send_queue_sha256)
        try container.encodeIfPresent(messages, forKey: .messages)
        try container.encodeIfPresent(connected_to, forKey: .connected_to)
        try container.encodeIfPresent(pipe, forKey: .pipe)
        try container.encodeIfPresent(capacity, forKey: .capacity)
        try container.encodeIfPresent(position, forKey: .position)
        try container.encodeIfPresent(size, forKey: .size)
    }
}

/// SHA-256 as 64 hexadecimal digits.
func digest(_ bytes: [UInt8]) -> String {
    ((try? sha256(bytes)) ?? []).map(hexadecimal).joined()
}

/// The TCP connections, Unix sockets and so on of one process as a table.
func printChannels(_ channels: [Channel]) {
    Terminal.table(
        ["FD", "KIND", "STATE", "LOCAL", "PEER", "RECV-Q", "SEND-Q", "MOVABLE"],
        channels.map {
            [
                String($0.fd), $0.kind.rawValue, $0.state, $0.local, $0.peer, String($0.receiveQueue), String($0.sendQueue),
                $0.isMovable ? ($0.kind == .tcp ? "yes" : "yes, --with-ipc") : "no: \($0.reason ?? "")",
            ]
        }, right: [0, 5, 6])
}
