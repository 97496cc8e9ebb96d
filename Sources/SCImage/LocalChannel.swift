// What joins the processes of a session on one host, as values: processes, open file descriptions, and who holds which.

/// One process of a session of several.
package struct SessionProcess: Equatable, Sendable {
    /// What the receiver knows it by, as in `front`.
    package var role: String
    /// Its number on the source; for people only.
    package var pid: Int32
    /// Its descriptors that belong to the session.
    package var descriptors: [SessionDescriptor]
    /// Bytes of the session's state that are its own (`Session.states`), and the form that they have, known to the server's kind.
    package var stateLength = 0
    package var stateVersion: UInt32 = 0

    package init(role: String, pid: Int32 = 0, descriptors: [SessionDescriptor] = []) {
        (self.role, self.pid, self.descriptors) = (role, pid, descriptors)
    }
}

/// A descriptor of a process of a session.
package struct SessionDescriptor: Equatable, Sendable {
    /// Its number in the source process.
    package var fd: Int32
    /// Index into the session's channels: TCP connections first, then local channels.
    package var channel: Int
    /// The part of its name after the role.
    package var name: String

    package init(fd: Int32, channel: Int, name: String) { (self.fd, self.channel, self.name) = (fd, channel, name) }
}

/// One open file description that is no TCP connection, and what waits in it.
package struct LocalChannel: Equatable, Sendable {
    package enum Detail: Equatable, Sendable {
        case unix(UnixSocketState)
        case pipe(PipeEndState)
        case udp(UDPSocketState)
        case file(RegularFileState)
    }

    package var detail: Detail
    package var flags: DescriptionFlags = []
    /// The messages' bytes one after the other; `messages` says where each ends. See `images/local.proto` for what a message is.
    package var queue: [UInt8] = []
    package var messages: [QueuedMessage] = []
    /// SO_SNDBUF and SO_RCVBUF as the kernel reports them.
    package var sendBuffer: UInt32 = 0
    package var receiveBuffer: UInt32 = 0
    /// Socket options whose value differs from that of a fresh socket on the source.
    package var socketOptions: [SocketOption] = []

    package init(_ detail: Detail) { self.detail = detail }

    /// `unix`, `pipe`, `udp` or `file`.
    package var kind: String {
        switch detail {
        case .unix: "unix"
        case .pipe: "pipe"
        case .udp: "udp"
        case .file: "file"
        }
    }

    /// The messages one by one, in their order.
    package func forEachMessage<Failure: Error>(_ body: (QueuedMessage, ArraySlice<UInt8>) throws(Failure) -> Void) throws(Failure) {
        var start = 0
        for message in messages {
            try body(message, queue[start..<start + message.length])
            start += message.length
        }
    }
}

/// Access mode and status flags of an open file description, by the numbers of x86 whatever the machine.
package struct DescriptionFlags: OptionSet, Hashable, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }

    package static let writeOnly = DescriptionFlags(rawValue: 0o1)
    package static let readWrite = DescriptionFlags(rawValue: 0o2)
    package static let append = DescriptionFlags(rawValue: 0o2000)
    package static let nonBlocking = DescriptionFlags(rawValue: 0o4000)
    package static let dataSync = DescriptionFlags(rawValue: 0o10000)
    package static let async = DescriptionFlags(rawValue: 0o20000)
    /// Of a pipe: packet mode (pipe(2)).
    package static let direct = DescriptionFlags(rawValue: 0o40000)
    package static let largeFile = DescriptionFlags(rawValue: 0o100000)
    package static let noAccessTime = DescriptionFlags(rawValue: 0o1000000)
    /// O_SYNC less O_DSYNC.
    package static let fileSync = DescriptionFlags(rawValue: 0o4000000)

    static let known: DescriptionFlags = [
        .writeOnly, .readWrite, .append, .nonBlocking, .dataSync, .async, .direct, .largeFile, .noAccessTime, .fileSync,
    ]

    package var isReadable: Bool { !contains(.writeOnly) }
    package var isWritable: Bool { contains(.writeOnly) || contains(.readWrite) }
}

/// One message of a queue.
package struct QueuedMessage: Equatable, Sendable {
    package var length: Int
    /// Channels whose descriptors travel with it, by index like `SessionDescriptor.channel`.
    package var descriptors: [Int] = []
    /// Who sent it; known of sockets with SO_PASSCRED.
    package var sender: Credentials?

    package init(length: Int, descriptors: [Int] = [], sender: Credentials? = nil) {
        (self.length, self.descriptors, self.sender) = (length, descriptors, sender)
    }
}

/// struct ucred, by the numbers of the source.
package struct Credentials: Equatable, Sendable {
    package var pid: Int32
    package var uid, gid: UInt32
    package init(pid: Int32, uid: UInt32, gid: UInt32) { (self.pid, self.uid, self.gid) = (pid, uid, gid) }
}

/// A connected Unix socket; its queue is what waits to be read from it.
package struct UnixSocketState: Equatable, Sendable {
    /// By the kernel's number: SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_SEQPACKET 5.
    package var type: Int32
    /// The other end, an index like `SessionDescriptor.channel`; nil when nobody has it any longer.
    package var peer: Int?
    /// RCV_SHUTDOWN 1 and SEND_SHUTDOWN 2.
    package var shutdown: UInt8 = 0
    /// The address that it is bound to, for people only; an abstract one begins with a NUL.
    package var name: [UInt8] = []
    /// SO_PEERCRED.
    package var peerCredentials: Credentials?

    package init(type: Int32, peer: Int? = nil) { (self.type, self.peer) = (type, peer) }
}

/// One end of an anonymous pipe. The queue is with the first end of its pipe.
package struct PipeEndState: Equatable, Sendable {
    /// Ends of the same pipe have the same number.
    package var pipe: Int
    /// F_GETPIPE_SZ.
    package var capacity: Int
    package init(pipe: Int, capacity: Int) { (self.pipe, self.capacity) = (pipe, capacity) }
}

/// A connected UDP socket.
package struct UDPSocketState: Equatable, Sendable {
    package var local, peer: SocketAddress
    package init(local: SocketAddress, peer: SocketAddress) { (self.local, self.peer) = (local, peer) }
}

/// An open regular file, and what a file must be like to be taken for it.
package struct RegularFileState: Equatable, Sendable {
    /// Absolute, in the source's root.
    package var path: [UInt8]
    package var position: UInt64 = 0
    package var size: UInt64
    /// Nanoseconds since 1970.
    package var modified: Int64
    /// Of the content; empty when it was not computed.
    package var sha256: [UInt8] = []

    package init(path: [UInt8], size: UInt64, modified: Int64) { (self.path, self.size, self.modified) = (path, size, modified) }
}

extension Session {
    /// A descriptor that the receiver gets.
    package struct Delivery: Equatable, Sendable {
        /// Index like `SessionDescriptor.channel`.
        package var channel: Int
        /// Name for LISTEN_FDNAMES, as in `front.tcp`.
        package var name: String
        /// Index of the process that holds it; nil in a session whose processes are not told apart.
        package var process: Int?
        /// Its number there; -1 stands for none.
        package var fd: Int32
    }

    /// The states of the processes, in their order; nil when the state is told apart by nothing, and the session's as a whole.
    package var states: [ArraySlice<UInt8>]? {
        guard processes.contains(where: { $0.stateLength > 0 || $0.stateVersion > 0 }) else { return nil }
        var start = 0
        return processes.map { process in
            defer { start += process.stateLength }
            return state[start..<start + process.stateLength]
        }
    }

    /// The descriptors that the receiver gets, in the order in which it gets them: those of each process, or else one for each TCP connection.
    package var deliveries: [Delivery] {
        guard !processes.isEmpty else {
            return channels.enumerated().map { Delivery(channel: $0, name: $1.name, process: nil, fd: $1.fd) }
        }
        return processes.enumerated().flatMap { index, process in
            process.descriptors.map { Delivery(channel: $0.channel, name: "\(process.role).\($0.name)", process: index, fd: $0.fd) }
        }
    }
}
