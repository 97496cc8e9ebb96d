// The acceptor's protocol (docs/acceptors.md) from the acceptor's side.

/// What the receiving end of a move says.
struct ReceiverMessage: Decodable {
    struct Flow: Decodable { var local, peer: String }
    struct Channel: Decodable {
        var name, kind, local, peer: String
        var process: String?
    }
    struct State: Decodable {
        var process: String
        var bytes: Int
        var version: UInt32
    }
    var type: String
    var flows: [Flow]?
    /// Of a session of several processes.
    var names: [String]?
    var channels: [Channel]?
    var state_bytes: Int?
    var states: [State]?
    var state_version: UInt32?
    var repeat_bytes: Int?
    struct Repeat: Decodable {
        var process, name: String
        var bytes: Int
    }
    var repeats: [Repeat]?

    /// All that has to be repeated, in the file's order.
    var repeated: [(process: String?, name: String, bytes: Int)] {
        let alone = repeat_bytes.map { [(process: String?.none, name: channels?.first?.name ?? "", bytes: $0)] } ?? []
        return alone + (repeats ?? []).map { (process: $0.process, name: $0.name, bytes: $0.bytes) }
    }
}

struct ReceiverReply: Encodable {
    var type: String
    var reason: String?
    var pid: Int32?
    var repeats: Bool?
}
