// What a session's local channels and processes must be like, checked alike before they are written and after they are read.

extension Session {
    /// Checks the local channels and processes by themselves and against each other.
    func validateLocals(_ check: inout Check, _ limits: ImageLimits) throws(ImageError) {
        try check.budget("channels of a session", channels.count + locals.count, limits.channels)
        try check.budget("processes of a session", processes.count, limits.channels)
        try check.that(locals.isEmpty || !processes.isEmpty, "local channels without a process")
        for (index, channel) in locals.enumerated() {
            try channel.validate(&check)
            for message in channel.messages { try that(message.descriptors, areChannels: check) }
            guard case .unix(let socket) = channel.detail, let peer = socket.peer else { continue }
            try that([peer], areChannels: check)
            guard peer >= channels.count, case .unix(let other) = locals[peer - channels.count].detail else {
                throw .malformed(what: "a Unix socket connected to channel \(peer) is not possible", offset: check.offset)
            }
            try check.that(other.peer == channels.count + index && other.type == socket.type, "Unix socket connected one way")
        }
        try validateProcesses(&check, limits)
    }

    private func validateProcesses(_ check: inout Check, _ limits: ImageLimits) throws(ImageError) {
        var roles: Set<String> = []
        var count = 0
        for process in processes {
            try check.name("role", process.role, FormatBounds.role)
            try check.that(!process.role.utf8.contains(UInt8(ascii: ".")), "role \(process.role.debugDescription)")
            try check.that(roles.insert(process.role).inserted, "second process with the role \(process.role.debugDescription)")
            var names: Set<String> = []
            for descriptor in process.descriptors {
                try check.name("descriptor name", descriptor.name, FormatBounds.descriptorName)
                try check.that(names.insert(descriptor.name).inserted, "second descriptor \(descriptor.name.debugDescription) of a process")
                try check.that(descriptor.fd >= 0, "descriptor \(descriptor.fd)")
                try that([descriptor.channel], areChannels: check)
            }
            count += process.descriptors.count
        }
        let lengths = processes.map(\.stateLength)
        try check.that(lengths.allSatisfy { (0...FormatBounds.queue).contains($0) }, "state of a process")
        try check.that(lengths.allSatisfy { $0 == 0 } || lengths.reduce(0, +) == state.count, "states of processes that are not the session's")
        // One SCM_RIGHTS message hands them over.
        try check.budget("descriptors of a session", count, limits.channels)
        guard !processes.isEmpty else { return }
        let held = Set(processes.flatMap(\.descriptors).map(\.channel))
        for index in channels.indices { try check.that(held.contains(index), "TCP connection that no process holds") }
    }

    private func that(_ indexes: [Int], areChannels check: Check) throws(ImageError) {
        for index in indexes { try check.that((0..<channels.count + locals.count).contains(index), "channel \(index)") }
    }
}

extension LocalChannel {
    fileprivate func validate(_ check: inout Check) throws(ImageError) {
        try check.that(flags.isSubset(of: .known) && !flags.isSuperset(of: [.writeOnly, .readWrite]), "flags 0\(String(flags.rawValue, radix: 8))")
        try check.budget("local queue", queue.count, FormatBounds.queue)
        try check.that(messages.allSatisfy { (0...FormatBounds.queue).contains($0.length) }, "length of a message")
        try check.that(messages.reduce(0) { $0 + $1.length } == queue.count, "queue of another length than its messages")
        try check.options(socketOptions)
        switch detail {
        case .unix(let socket):
            try check.that([1, 2, 5].contains(socket.type), "Unix socket of type \(socket.type)")
            try check.that(socket.shutdown < 4, "shutdown \(socket.shutdown)")
            try check.budget("name of a Unix socket", socket.name.count, FormatBounds.socketName)
        case .pipe(let end):
            try check.that((0...Int(UInt32.max)).contains(end.pipe), "pipe \(end.pipe)")
            try check.that((1...FormatBounds.queue).contains(end.capacity), "pipe of \(end.capacity) bytes")
            try check.that(messages.allSatisfy { $0.descriptors.isEmpty && $0.sender == nil }, "descriptor in a pipe")
        case .udp(let socket):
            try check.end("local", socket.local, socket.local.address.isIPv6)
            try check.end("peer", socket.peer, socket.local.address.isIPv6)
            try check.that(messages.allSatisfy { $0.descriptors.isEmpty && $0.sender == nil }, "descriptor in a UDP queue")
        case .file(let file):
            try check.that(file.path.first == UInt8(ascii: "/") && !file.path.contains(0), "path of a file")
            try check.budget("path of a file", file.path.count, FormatBounds.path)
            try check.that(file.sha256.isEmpty || file.sha256.count == 32, "SHA-256 of \(file.sha256.count) bytes")
            try check.that(file.position <= UInt64(Int64.max) && file.size <= UInt64(Int64.max), "position or size of a file")
            try check.that(messages.isEmpty, "queue of a file")
        }
    }
}

extension Offer {
    /// The session of several processes that is on offer, without queues and state; nil when each flow is a session.
    package var layout: Session? {
        guard !processes.isEmpty else { return nil }
        return Session(id: migration, channels: flows.map { TCPChannel(local: $0.local, peer: $0.peer) }, locals: locals, processes: processes)
    }

    /// Checks the local channels, which come without queues, and the processes, against the flows.
    func validateLocals(at offset: UInt64?) throws(ImageError) {
        var check = Check(offset: offset)
        try check.that(locals.allSatisfy { $0.messages.isEmpty && $0.queue.isEmpty }, "queue in an offer")
        try check.that(locals.isEmpty || !processes.isEmpty, "local channels without a process")
        try layout?.validateLocals(&check, ImageLimits())
    }
}
