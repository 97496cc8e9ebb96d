// The queue of a Unix or UDP socket, message by message, without taking one out.
//
// MSG_PEEK alone shows the first message only; SO_PEEK_OFF lets one peek follow another. It is the socket's own, so it is put back.

import CProc
import Glibc
import SCImage

/// One reading of a socket whose processes stand still.
struct SocketPeek {
    private static let offsetOption: Int32 = 42  // SO_PEEK_OFF
    /// At the end of messages a peek says "empty" for ever: so many in a row are the end.
    static let emptyLimit = 64

    private let socket: Int32
    private let isStream: Bool
    /// Its end has come, or nobody has the other one: an empty message may be the end.
    private let isShut: Bool
    /// Which channel a descriptor in flight is.
    private let identify: (Int32) throws(CheckpointError) -> Int

    init(_ socket: Int32, _ detail: LocalChannel.Detail, identify: @escaping (Int32) throws(CheckpointError) -> Int) {
        (self.socket, self.identify) = (socket, identify)
        if case .unix(let state) = detail {
            (isStream, isShut) = (state.type == Int32(SOCK_STREAM.rawValue), state.shutdown & 1 != 0 || state.peer == nil)
        } else {
            (isStream, isShut) = (false, false)
        }
    }

    /// SO_PEEK_OFF as it is; -1: off.
    static func offset(of socket: Int32) -> Int32 { SocketView(socket).option(SOL_SOCKET, offsetOption) ?? -1 }
    static func setOffset(of socket: Int32, _ offset: Int32) { _ = cproc_setsockopt_int(socket, SOL_SOCKET, offsetOption, offset) }

    private func seek(_ offset: Int) throws(CheckpointError) {
        try check(cproc_setsockopt_int(socket, SOL_SOCKET, Self.offsetOption, Int32(clamping: offset)), "peeking at its queue (SO_PEEK_OFF)")
    }

    /// Appends the queue to the channel.
    func read(into channel: inout LocalChannel) throws(CheckpointError) {
        let former = Self.offset(of: socket)
        try seek(0)
        defer { Self.setOffset(of: socket, former) }
        var buffer = [UInt8](repeating: 0, count: 256 << 10)
        var empty = 0
        while empty <= Self.emptyLimit {
            var (fds, message) = ([Int32](repeating: -1, count: Int(CPROC_MAX_FDS)), cproc_message())
            let result = cproc_peek_message(socket, &buffer, buffer.count, &fds, &message)
            // An error that an earlier datagram has left behind is told once, and is not this one's.
            if result == -ECONNREFUSED { continue }
            if result == -EAGAIN { break }
            try check(result, "peeking at its queue", advice: result == -EMFILE ? "Raise the descriptor limit (ulimit -n)" : "")
            let passed = fds.prefix(Int(message.nfds)).map { SharedDescriptor($0) }
            let length = Int(message.length)
            if message.is_truncated != 0 {
                // Again, from where this message began.
                buffer = [UInt8](repeating: 0, count: length)
                try seek(channel.queue.count)
            } else if length > 0 {
                channel.messages += (0..<empty).map { _ in QueuedMessage(length: 0) }
                empty = 0
                try append(length, buffer, passed, message.senderCredentials, to: &channel)
            } else if isStream {
                break
            } else if isShut {
                empty += 1
            } else {
                channel.messages.append(QueuedMessage(length: 0, sender: message.senderCredentials))
            }
        }
    }

    private func append(
        _ length: Int, _ bytes: [UInt8], _ passed: [SharedDescriptor], _ sender: Credentials?, to channel: inout LocalChannel
    ) throws(CheckpointError) {
        // A read of a stream goes on into the message that has descriptors, so theirs may begin later than this.
        let plain = isStream && !passed.isEmpty ? try bytesBeforeDescriptors(channel.queue.count, length) : 0
        if plain > 0 { channel.append(QueuedMessage(length: plain, sender: sender), joining: true) }
        channel.queue += bytes.prefix(length)
        var message = QueuedMessage(length: length - plain, sender: sender)
        for descriptor in passed { message.descriptors.append(try identify(descriptor.raw)) }
        channel.append(message, joining: isStream)
    }

    /// Of `length` bytes of a stream from `offset` on, which a peek has given together with descriptors: how many come before the message that has them.
    private func bytesBeforeDescriptors(_ offset: Int, _ length: Int) throws(CheckpointError) -> Int {
        try seek(offset)
        let count = Int(try check(cproc_peek_before_fds(socket, UInt32(length)), "peeking at its queue"))
        try seek(offset + length)
        return count
    }
}

extension LocalChannel {
    /// Adds a message; bytes of a stream join those before them where a reader could not tell them apart.
    fileprivate mutating func append(_ message: QueuedMessage, joining: Bool) {
        if joining, message.descriptors.isEmpty, let last = messages.last, last.descriptors.isEmpty, last.sender == message.sender {
            messages[messages.count - 1].length += message.length
        } else {
            messages.append(message)
        }
    }
}

extension cproc_message {
    fileprivate var senderCredentials: Credentials? {
        has_sender == 0 ? nil : Credentials(pid: sender.pid, uid: sender.uid, gid: sender.gid)
    }
}
