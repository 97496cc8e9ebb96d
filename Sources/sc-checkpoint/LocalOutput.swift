// Pipes, Unix and UDP sockets, files and processes of an image, for `show`.

import Glibc
import SCArchive
import SCEngine
import SCImage

extension ChannelJSON {
    init(_ channel: LocalChannel, number: Int, of session: Session) {
        fd = session.deliveries.first { $0.channel == number }?.fd ?? -1
        kind = channel.kind
        state = channel.flags.accessName
        local = channel.localText
        peer = channel.peerText
        receive_queue = channel.queue.count
        send_queue = 0
        movable = true
        receive_queue_sha256 = digest(channel.queue)
        send_queue_sha256 = digest([])
        messages = channel.messages.map { Message(length: $0.length, descriptors: $0.descriptors) }
        if case .unix(let socket) = channel.detail { connected_to = socket.peer }
        if case .pipe(let end) = channel.detail { (pipe, capacity) = (end.pipe, end.capacity) }
        if case .file(let file) = channel.detail { (position, size) = (file.position, file.size) }
    }
}

/// A process in `show --json`.
struct ProcessJSON: Encodable {
    struct Descriptor: Encodable {
        var name: String
        var fd: Int32
        var channel: Int
    }
    var role: String
    var pid: Int32
    var descriptors: [Descriptor]

    init(_ process: SessionProcess) {
        (role, pid) = (process.role, process.pid)
        descriptors = process.descriptors.map { Descriptor(name: $0.name, fd: $0.fd, channel: $0.channel) }
    }
}

extension LocalChannel {
    /// Some lines that say what it is; `first` is the number of the session's first channel in the image.
    func describe(_ number: Int, first: Int) {
        let flags = [
            flags.accessName, flags.contains(.nonBlocking) ? "O_NONBLOCK" : nil, flags.contains(.append) ? "O_APPEND" : nil,
            flags.contains(.direct) ? "O_DIRECT" : nil,
        ].compactMap { $0 }.joined(separator: " ")
        switch detail {
        case .unix(let socket):
            let type = [1: "stream", 2: "datagram", 5: "seqpacket"][socket.type] ?? "?"
            let other = socket.peer.map { "connected to channel \(first + $0)" } ?? "its other end is closed"
            let shut = [1: ", reading shut down", 2: ", writing shut down", 3: ", shut down"][socket.shutdown] ?? ""
            Terminal.print("  channel \(number): unix \(type) \(flags), \(other)\(shut)")
            if let peer = socket.peerCredentials { Terminal.print("    SO_PEERCRED pid \(peer.pid), uid \(peer.uid), gid \(peer.gid)") }
        case .pipe(let end): Terminal.print("  channel \(number): pipe \(end.pipe) \(flags), \(end.capacity) bytes long")
        case .udp(let socket): Terminal.print("  channel \(number): udp \(flags) \(socket.local) <- \(socket.peer)")
        case .file(let file):
            Terminal.print("  channel \(number): file \(flags) \(Terminal.clean(localText)) at \(file.position) of \(file.size) bytes")
            Terminal.print(
                file.sha256.isEmpty ? "    changed at \(file.modified) ns since 1970" : "    SHA-256 \(file.sha256.map(hexadecimal).joined())")
        }
        if !messages.isEmpty {
            let passed = messages.flatMap(\.descriptors)
            let words = passed.isEmpty ? "" : ", with the descriptors of channels \(passed.map { String(first + $0) }.joined(separator: ", "))"
            Terminal.print("    queue \(queue.count) bytes in \(messages.count) message\(messages.count == 1 ? "" : "s")\(words)")
        }
        for option in socketOptions { Terminal.print("    option \(SocketOptionList.label(option)) = \(optionText(option))") }
    }
}

/// Which process has which channel under which name.
func describe(_ process: SessionProcess, first: Int) {
    Terminal.print("  process \(process.role) (\(process.pid))")
    for descriptor in process.descriptors {
        Terminal.print("    \(process.role).\(descriptor.name): fd \(descriptor.fd), channel \(first + descriptor.channel)")
    }
}
