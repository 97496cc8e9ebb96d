// Random local channels and processes, as a session of several processes has them.

@testable import SCImage

extension Seeded {
    /// Gives the session a pair of Unix sockets, a pipe, and perhaps other channels, and processes that hold them and its connections.
    mutating func addLocals(to session: inout Session, queues: Int) {
        let first = session.channels.count
        for end in 0..<2 {
            var socket = UnixSocketState(type: [1, 2, 5][below(3)], peer: first + 1 - end)
            if end == 1, case .unix(let other) = session.locals[0].detail { socket.type = other.type }
            socket.shutdown = UInt8(below(4))
            if chance(3) { socket.name = bytes(below(109)) }
            if chance(2) { socket.peerCredentials = credentials() }
            session.locals.append(local(.unix(socket)))
            fill(&session.locals[end], queues, channels: first + 2)
        }
        for _ in 0..<2 { session.locals.append(local(.pipe(PipeEndState(pipe: 7, capacity: 4096 << below(4))))) }
        session.locals[3].flags.insert(.writeOnly)
        fill(&session.locals[2], queues, channels: 0)
        if chance(2) { session.locals.append(local(.unix(UnixSocketState(type: 1)))) }
        if chance(2) {
            let isIPv6 = chance(2)
            session.locals.append(local(.udp(UDPSocketState(local: end(isIPv6: isIPv6), peer: end(isIPv6: isIPv6)))))
            fill(&session.locals[session.locals.count - 1], queues, channels: 0)
        }
        if chance(2) {
            var file = RegularFileState(path: Array("/srv/\(name(200))".utf8), size: next() >> 1, modified: Int64(bitPattern: next()))
            file.position = next() >> 1
            if chance(2) { file.sha256 = bytes(32) }
            session.locals.append(local(.file(file)))
        }
        for index in 0..<1 + below(3) {
            var process = SessionProcess(role: "worker-\(index)", pid: Int32(below(1 << 22)))
            for channel in 0..<first + session.locals.count where index == 0 || chance(2) {
                process.descriptors.append(SessionDescriptor(fd: Int32(3 + channel), channel: channel, name: "\(channel) \(name(100))"))
            }
            session.processes.append(process)
        }
    }

    private mutating func local(_ detail: LocalChannel.Detail) -> LocalChannel {
        var channel = LocalChannel(detail)
        if chance(2) { channel.flags = [.nonBlocking, .append] }
        (channel.sendBuffer, channel.receiveBuffer) = (number(UInt32.self), number(UInt32.self))
        if chance(3) { channel.socketOptions = [SocketOption(level: 1, name: 16, value: [1, 0, 0, 0])] }
        return channel
    }

    /// `channels`: how many there are whose descriptors may travel in a message; 0: none may.
    private mutating func fill(_ channel: inout LocalChannel, _ queues: Int, channels: Int) {
        for _ in 0..<below(4) {
            var message = QueuedMessage(length: chance(4) ? 0 : below(queues))
            if channels > 0, chance(3) { message.descriptors = [below(channels), below(channels)] }
            if channels > 0, chance(3) { message.sender = credentials() }
            channel.messages.append(message)
            channel.queue += bytes(message.length)
        }
    }

    private mutating func credentials() -> Credentials {
        Credentials(pid: Int32(below(1 << 22)), uid: number(UInt32.self), gid: number(UInt32.self))
    }
}
