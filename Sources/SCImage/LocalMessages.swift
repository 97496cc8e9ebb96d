// Processes and local channels between Swift values and their messages; the queues are records of their own.

internal import CSCImage

extension FrameWriter {
    mutating func writeMessage(_ process: SessionProcess, _ arena: inout RecordArena) throws(ImageError) {
        arena.reset()
        var message = try unsafe arena.message(process)
        try unsafe write(.process, length: sc__image__process__get_packed_size(&message)) {
            unsafe sc__image__process__pack(&message, $0)
        }
    }

    /// Writes a channel's record, without its queue.
    mutating func writeMessage(_ channel: LocalChannel, _ arena: inout RecordArena) throws(ImageError) {
        arena.reset()
        var message = try unsafe arena.message(channel)
        try unsafe write(.localChannel, length: sc__image__local_channel__get_packed_size(&message)) {
            unsafe sc__image__local_channel__pack(&message, $0)
        }
    }
}

/// LocalChannel.kind.
private enum LocalKind: UInt32 { case unix = 1, pipe, udp, file }

extension RecordArena {
    @unsafe mutating func message(_ process: SessionProcess) throws(ImageError) -> Sc__Image__Process {
        var message = unsafe Sc__Image__Process()
        unsafe sc__image__process__init(&message)
        unsafe message.role = try lend(process.role)
        unsafe (message.has_pid, message.pid) = (present(process.pid != 0), process.pid)
        unsafe (message.has_state_length, message.state_length) = (present(process.stateLength != 0), UInt64(process.stateLength))
        unsafe (message.has_state_version, message.state_version) = (present(process.stateVersion != 0), process.stateVersion)
        let (values, pointers) = try unsafe messages(Sc__Image__ProcessDescriptor.self, process.descriptors.count)
        for (index, descriptor) in process.descriptors.enumerated() {
            unsafe sc__image__process_descriptor__init(values + index)
            unsafe (values[index].fd, values[index].channel) = (UInt32(descriptor.fd), UInt32(descriptor.channel))
            unsafe values[index].name = try lend(descriptor.name)
        }
        unsafe (message.n_descriptors, message.descriptors) = (process.descriptors.count, pointers)
        return unsafe message
    }

    @unsafe mutating func message(_ channel: LocalChannel) throws(ImageError) -> Sc__Image__LocalChannel {
        var message = unsafe Sc__Image__LocalChannel()
        unsafe sc__image__local_channel__init(&message)
        unsafe (message.has_flags, message.flags) = (present(channel.flags != []), channel.flags.rawValue)
        unsafe (message.has_send_buffer, message.send_buffer) = (present(channel.sendBuffer != 0), channel.sendBuffer)
        unsafe (message.has_receive_buffer, message.receive_buffer) = (present(channel.receiveBuffer != 0), channel.receiveBuffer)
        unsafe (message.n_options, message.options) = try (channel.socketOptions.count, lend(channel.socketOptions))
        unsafe (message.n_queue, message.queue) = try (channel.messages.count, lend(channel.messages))
        switch channel.detail {
        case .unix(let state):
            let unix = try unsafe allocate(Sc__Image__UnixSocket.self, 1)
            unsafe sc__image__unix_socket__init(unix)
            unsafe unix.pointee.type = UInt32(state.type)
            if let peer = state.peer { unsafe (unix.pointee.has_peer, unix.pointee.peer) = (1, Int32(peer)) }
            unsafe (unix.pointee.has_shutdown, unix.pointee.shutdown) = (present(state.shutdown != 0), UInt32(state.shutdown))
            if !state.name.isEmpty { unsafe (unix.pointee.has_name, unix.pointee.name) = try (1, lend(state.name)) }
            if let peer = state.peerCredentials { unsafe unix.pointee.peer_credentials = try lend(peer) }
            unsafe (message.kind, message.unix_socket) = (LocalKind.unix.rawValue, unix)
        case .pipe(let state):
            let pipe = try unsafe allocate(Sc__Image__PipeEnd.self, 1)
            unsafe sc__image__pipe_end__init(pipe)
            unsafe (pipe.pointee.pipe, pipe.pointee.capacity) = (UInt32(state.pipe), UInt32(state.capacity))
            unsafe (message.kind, message.pipe_end) = (LocalKind.pipe.rawValue, pipe)
        case .udp(let state):
            let udp = try unsafe allocate(Sc__Image__UDPSocket.self, 1)
            unsafe sc__image__udpsocket__init(udp)
            unsafe (udp.pointee.local, udp.pointee.peer) = try (lend(state.local), lend(state.peer))
            unsafe (udp.pointee.has_local_scope, udp.pointee.local_scope) = (present(state.local.scope != 0), state.local.scope)
            unsafe (udp.pointee.has_peer_scope, udp.pointee.peer_scope) = (present(state.peer.scope != 0), state.peer.scope)
            unsafe (message.kind, message.udp_socket) = (LocalKind.udp.rawValue, udp)
        case .file(let state):
            let file = try unsafe allocate(Sc__Image__RegularFile.self, 1)
            unsafe sc__image__regular_file__init(file)
            unsafe (file.pointee.path, file.pointee.size, file.pointee.modified_ns) = try (lend(state.path), state.size, state.modified)
            unsafe (file.pointee.has_position, file.pointee.position) = (present(state.position != 0), state.position)
            if !state.sha256.isEmpty { unsafe (file.pointee.has_sha256, file.pointee.sha256) = try (1, lend(state.sha256)) }
            unsafe (message.kind, message.regular_file) = (LocalKind.file.rawValue, file)
        }
        return unsafe message
    }

    @unsafe private mutating func lend(_ who: Credentials) throws(ImageError) -> UnsafeMutablePointer<Sc__Image__Sender> {
        let sender = try unsafe allocate(Sc__Image__Sender.self, 1)
        unsafe sc__image__sender__init(sender)
        unsafe (sender.pointee.pid, sender.pointee.uid, sender.pointee.gid) = (who.pid, who.uid, who.gid)
        return unsafe sender
    }

    @unsafe private mutating func lend(
        _ queue: [QueuedMessage]
    ) throws(ImageError) -> UnsafeMutablePointer<UnsafeMutablePointer<Sc__Image__QueuedMessage>?> {
        let (values, pointers) = try unsafe messages(Sc__Image__QueuedMessage.self, queue.count)
        for (index, message) in queue.enumerated() {
            unsafe sc__image__queued_message__init(values + index)
            unsafe values[index].length = UInt32(message.length)
            if !message.descriptors.isEmpty {
                let numbers = try unsafe allocate(UInt32.self, message.descriptors.count)
                for (place, number) in message.descriptors.enumerated() { unsafe (numbers + place).initialize(to: UInt32(number)) }
                unsafe (values[index].n_descriptors, values[index].descriptors) = (message.descriptors.count, numbers)
            }
            if let sender = message.sender { unsafe values[index].sender = try lend(sender) }
        }
        return unsafe pointers
    }

    @unsafe mutating func process(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(ImageError) -> SessionProcess {
        try unsafe SessionProcess(unpack(bytes, "Process", at: offset, by: sc__image__process__unpack).pointee, at: offset)
    }

    /// The channel with an empty queue of the length that its messages add up to.
    @unsafe mutating func localChannel(
        _ bytes: UnsafeRawBufferPointer, at offset: UInt64
    ) throws(ImageError) -> (channel: LocalChannel, queueLength: Int) {
        let channel = try unsafe LocalChannel(
            unpack(bytes, "LocalChannel", at: offset, by: sc__image__local_channel__unpack).pointee, at: offset)
        // Each is below 2^32 and there are less than 2^20 in the arena.
        let total = channel.messages.reduce(0) { $0 + $1.length }
        return (channel, try length(UInt64(total), "local queue", FormatBounds.queue, offset))
    }
}

extension SessionProcess {
    @unsafe init(_ message: Sc__Image__Process, at offset: UInt64) throws(ImageError) {
        self.init(role: try unsafe message.role.text("role", at: offset), pid: unsafe message.pid)
        guard let length = unsafe Int(exactly: message.state_length) else {
            throw .malformed(what: "a state of \(unsafe message.state_length) bytes", offset: offset)
        }
        (stateLength, stateVersion) = (length, unsafe message.state_version)
        for index in 0..<(unsafe message.n_descriptors) {
            guard let descriptor = unsafe message.descriptors[index]?.pointee else { continue }
            guard let fd = unsafe Int32(exactly: descriptor.fd) else {
                throw .malformed(what: "descriptor \(unsafe descriptor.fd)", offset: offset)
            }
            descriptors.append(
                SessionDescriptor(fd: fd, channel: unsafe Int(descriptor.channel), name: try unsafe descriptor.name.text("name", at: offset)))
        }
    }
}

extension LocalChannel {
    @unsafe init(_ message: Sc__Image__LocalChannel, at offset: UInt64) throws(ImageError) {
        let parts = unsafe [message.unix_socket != nil, message.pipe_end != nil, message.udp_socket != nil, message.regular_file != nil]
        guard let kind = unsafe LocalKind(rawValue: message.kind) else {
            throw .malformed(what: "a local channel of unknown kind \(unsafe message.kind)", offset: offset)
        }
        guard parts.count(where: \.self) == 1 else { throw .malformed(what: "a local channel of several kinds", offset: offset) }
        if kind == .unix, let unix = unsafe message.unix_socket {
            try unsafe self.init(.unix(UnixSocketState(unix.pointee, at: offset)))
        } else if kind == .pipe, let pipe = unsafe message.pipe_end {
            unsafe self.init(.pipe(PipeEndState(pipe: Int(pipe.pointee.pipe), capacity: Int(pipe.pointee.capacity))))
        } else if kind == .udp, let udp = unsafe message.udp_socket?.pointee {
            self.init(
                .udp(
                    UDPSocketState(
                        local: try unsafe udp.local.socketAddress("local", scope: udp.local_scope, at: offset),
                        peer: try unsafe udp.peer.socketAddress("peer", scope: udp.peer_scope, at: offset))))
        } else if kind == .file, let file = unsafe message.regular_file?.pointee {
            var state = unsafe RegularFileState(path: file.path.array, size: file.size, modified: file.modified_ns)
            unsafe state.position = file.position
            unsafe state.sha256 = file.sha256.array
            self.init(.file(state))
        } else {
            throw .malformed(what: "a local channel without what belongs to its kind", offset: offset)
        }
        flags = unsafe DescriptionFlags(rawValue: message.flags)
        unsafe (sendBuffer, receiveBuffer) = (message.send_buffer, message.receive_buffer)
        socketOptions = try unsafe SCImage.socketOptions(message.options, message.n_options, at: offset)
        for index in 0..<(unsafe message.n_queue) {
            guard let queued = unsafe message.queue[index]?.pointee else { continue }
            messages.append(
                unsafe QueuedMessage(
                    length: Int(queued.length),
                    descriptors: UnsafeBufferPointer(start: queued.descriptors, count: queued.n_descriptors).map { Int($0) },
                    sender: queued.sender.map { unsafe Credentials($0.pointee) }))
        }
    }
}

extension UnixSocketState {
    @unsafe fileprivate init(_ message: Sc__Image__UnixSocket, at offset: UInt64) throws(ImageError) {
        guard let type = unsafe Int32(exactly: message.type), let shutdown = unsafe UInt8(exactly: message.shutdown) else {
            throw .malformed(what: "a Unix socket of type \(unsafe message.type)", offset: offset)
        }
        self.init(type: type, peer: unsafe message.peer == -1 ? nil : Int(message.peer))
        self.shutdown = shutdown
        unsafe name = message.name.array
        unsafe peerCredentials = message.peer_credentials.map { unsafe Credentials($0.pointee) }
    }
}

extension Credentials {
    @unsafe fileprivate init(_ message: Sc__Image__Sender) { unsafe self.init(pid: message.pid, uid: message.uid, gid: message.gid) }
}
