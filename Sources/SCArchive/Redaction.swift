// An image without the bytes that its users sent and were sent: structure, states, lengths and addresses stay.

import SCImage

extension Session {
    /// The same session with zeros for the content of its queues, its application state and its adapter's memory.
    package var redacted: Session {
        var session = self
        session.state = Array(repeating: 0, count: state.count)
        session.adapter?.bytes = Array(repeating: 0, count: adapter?.bytes.count ?? 0)
        session.channels = channels.map(\.redacted)
        session.locals = locals.map(\.redacted)
        return session
    }
}

extension TCPChannel {
    fileprivate var redacted: TCPChannel {
        var channel = self
        channel.receiveQueue = Array(repeating: 0, count: receiveQueue.count)
        channel.sendQueue = Array(repeating: 0, count: sendQueue.count)
        return channel
    }
}

extension LocalChannel {
    fileprivate var redacted: LocalChannel {
        var channel = self
        channel.queue = Array(repeating: 0, count: queue.count)
        // A digest tells whoever has a guess of the content that it is right.
        if case .file(var file) = detail {
            file.sha256 = []
            channel.detail = .file(file)
        }
        return channel
    }
}

extension Inventory {
    /// Of the command line only the program stays: arguments may hold names and passwords.
    package var redacted: Inventory {
        var inventory = self
        inventory.command = String(command.prefix { $0 != " " })
        return inventory
    }
}
