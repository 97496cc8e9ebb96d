// The messages between restore and an acceptor: one JSON object each, ended by a newline.

import FoundationEssentials
import SCImage

/// A channel as the acceptor's table has it: one entry for each descriptor.
struct AcceptorChannel: Encodable {
    var name, kind: String
    /// TCP: the state in capitals. Others: the access, READ, WRITE or READ_WRITE.
    var state: String
    /// Addresses; a file's path is its `local`.
    var local, peer: String
    var receive_queue, send_queue: Int
    /// Bytes the application has written and read since the connection began, over all hosts.
    var written, read: UInt64
    /// The role of the process that has it, its number there, and the channel's number in the session: the same for descriptors that share one. Absent
    /// in a session whose processes are not told apart.
    var process: String?
    var fd: Int32?
    var channel: Int?

    init(_ delivery: Session.Delivery, of session: Session) {
        (name, receive_queue, send_queue, written, read) = (delivery.name, 0, 0, 0, 0)
        if let process = delivery.process {
            (self.process, fd, channel) = (session.processes[process].role, delivery.fd, delivery.channel)
        }
        if session.channels.indices.contains(delivery.channel) {
            let tcp = session.channels[delivery.channel]
            (kind, state, local, peer) = ("tcp", tcp.state.name, tcp.local.description, tcp.peer.description)
            (receive_queue, send_queue) = (tcp.receiveQueue.count, tcp.sendQueue.count)
            (written, read) = (tcp.bytesWritten, tcp.bytesRead)
            return
        }
        let other = session.locals[delivery.channel - session.channels.count]
        (kind, state, local, peer) = (other.kind, other.flags.accessName, other.localText, other.peerText)
        receive_queue = other.queue.count
    }
}

extension DescriptionFlags {
    package var accessName: String { contains(.readWrite) ? "READ_WRITE" : contains(.writeOnly) ? "WRITE" : "READ" }
}

extension LocalChannel {
    /// The own address of a UDP or Unix socket, a file's path; empty for the others.
    package var localText: String {
        switch detail {
        case .udp(let state): state.local.description
        case .unix(let state):
            state.name.first == 0 ? "@" + String(decoding: state.name.dropFirst(), as: UTF8.self) : String(decoding: state.name, as: UTF8.self)
        case .file(let state): String(decoding: state.path, as: UTF8.self)
        case .pipe: ""
        }
    }

    package var peerText: String {
        if case .udp(let state) = detail { state.peer.description } else { "" }
    }
}

/// What restore says. `offer`: these flows would come. `session`: here is one, its channels' descriptors in the order of the table, then one with the
/// application state when `state_bytes` is not 0. `go`: they are live. `cancel`: they stay where they were.
struct AcceptorRequest: Encodable {
    var type: String
    var version = 1
    var id: String?
    var flows: [[String: String]]?
    /// With an offer of a session of several processes: the names of the descriptors that would come, as they stand now.
    var names: [String]?
    var channels: [AcceptorChannel]?
    var state_bytes: Int?
    /// Whose that state is, when it is told apart: the processes in the order in which theirs follow each other. In an offer without lengths.
    var states: [State]?
    /// Of a state that a server exports by libsc.
    var state_version: UInt32?
    /// Behind the state, in the same file: output that the server will produce again and that must not reach the client (sc_memory.h, sc_memory_repeat).
    var repeat_bytes: Int?
    /// The same of a session of several processes: whose, and of which of its channels; one behind the other in the file.
    var repeats: [Repeat]?

    struct Repeat: Encodable {
        var process, name: String
        var bytes: Int
    }

    /// One process's part of the state.
    struct State: Encodable {
        var process: String
        var bytes: Int
        var version: UInt32

        init(_ process: SessionProcess, _ state: ArraySlice<UInt8>) {
            (self.process, bytes, version) = (process.role, state.count, process.stateVersion)
        }
    }

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
