// The echo server of ../echo in Swift. Both export the same form of state, so a session can go from one to the other.

import Glibc
import SCServer

/// One client's conversation. The state is in whole lines, but for the one that is not complete yet.
final class Session {
    var descriptor: Int32
    var continuation: Continuation<Session>?
    private var lines: UInt64 = 0, bytes: UInt64 = 0
    private var line: [UInt8] = []

    static let stateVersion: UInt32 = 1
    private static let longestLine = 4096

    init(_ descriptor: Int32) { self.descriptor = descriptor }

    /// `lines`, `bytes`, the length of the incomplete line, the line; as this machine writes numbers.
    var state: [UInt8] {
        var state: [UInt8] = []
        withUnsafeBytes(of: lines) { state += $0 }
        withUnsafeBytes(of: bytes) { state += $0 }
        withUnsafeBytes(of: UInt32(line.count)) { state += $0 }
        return state + line
    }

    /// EPROTONOSUPPORT: another program's state; EINVAL: it makes no sense.
    func take(_ arrival: Import) throws(SCError) {
        guard arrival.stateVersion == Self.stateVersion else { throw SCError(errno: EPROTONOSUPPORT, call: "import") }
        guard arrival.state.count >= 20, arrival.state.count <= 20 + Self.longestLine, arrival.channels.count == 1 else {
            throw SCError(errno: EINVAL, call: "import")
        }
        arrival.state.withUnsafeBytes {
            lines = $0.loadUnaligned(as: UInt64.self)
            bytes = $0.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
        }
        line = Array(arrival.state[20...])
        descriptor = arrival.channels[0].descriptor
    }

    /// Reads what is there and answers each whole line. False: the conversation is over.
    func serve() -> Bool {
        var buffer = [UInt8](repeating: 0, count: Self.longestLine)
        let count = recv(descriptor, &buffer, buffer.count, Int32(MSG_DONTWAIT))
        if count < 0 { return errno == EAGAIN || errno == EINTR }
        guard count > 0 else { return false }
        bytes += UInt64(count)
        line += buffer.prefix(count)
        while let end = line.firstIndex(of: UInt8(ascii: "\n")) {
            lines += 1
            let answer = Array("LINE \(lines): ".utf8) + line[..<end] + [UInt8(ascii: "\n")]
            // Replies are small and the client reads them, so the socket takes them; one that does not is dropped.
            guard send(descriptor, answer, answer.count, Int32(MSG_NOSIGNAL)) == answer.count else { return false }
            line.removeSubrange(...end)
        }
        return line.count < Self.longestLine
    }
}

/// One loop over poll(2); a session is in it while its descriptor is watched.
final class Server {
    private var watched: [Int32: Session] = [:]
    private let listener: Int32
    private var participant: Participant<Session>!

    init(_ address: String, _ port: UInt16) throws {
        var (end, on) = (sockaddr_in(), Int32(1))
        end.sin_family = sa_family_t(AF_INET)
        end.sin_port = port.bigEndian
        listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
        // The service's address is at home on one host at a time.
        setsockopt(listener, Int32(IPPROTO_IP), IP_FREEBIND, &on, socklen_t(MemoryLayout<Int32>.size))
        let isBound =
            inet_pton(AF_INET, address, &end.sin_addr) == 1
            && withUnsafePointer(to: &end) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(listener, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) } == 0
            }
        guard isBound, listen(listener, 128) == 0 else { throw SCError(errno: errno, call: "listen") }

        // What the library asks of us. It is called between two steps of the loop, so a session is always at a safe point here.
        participant = try Participant(
            "echo", stateVersion: Session.stateVersion,
            Callbacks(
                park: { [unowned self] continuation in
                    watched[continuation.session.descriptor] = nil
                    // ESTALE: whoever asked waits no longer, and `resume` has been called.
                    try? continuation.export(continuation.session.state)
                    try? continuation.parked()
                },
                resume: { [unowned self] in watched[$0.session.descriptor] = $0.session },
                gone: { continuation in
                    continuation.end()
                    if continuation.session.descriptor >= 0 { close(continuation.session.descriptor) }
                    continuation.session.continuation = nil
                },
                offer: { offer in
                    guard [0, Session.stateVersion].contains(offer.stateVersion) else {
                        return offer.decline("its state has a form that this server does not know")
                    }
                    let session = Session(-1)
                    session.continuation = try? offer.accept(session)
                },
                import: { continuation, arrival throws(SCError) in try continuation.session.take(arrival) }))
        try participant.acceptOffers(true)
    }

    private func acceptClient() {
        let descriptor = accept(listener, nil, nil)
        guard descriptor >= 0 else { return }
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        var on: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
        let session = Session(descriptor)
        session.continuation = try? participant.create(session)
        try? session.continuation?.associate(descriptor, as: "client")
        watched[descriptor] = session
    }

    private func end(_ session: Session) {
        watched[session.descriptor] = nil
        session.continuation?.end()
        session.continuation = nil
        close(session.descriptor)
    }

    func run() throws {
        var told = AgentStatus.absent
        while true {
            var polled = ([listener, participant.descriptor] + watched.keys).map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            guard poll(&polled, nfds_t(polled.count), -1) > 0 else { continue }
            if polled[0].revents != 0 { acceptClient() }
            for one in polled.dropFirst(2) where one.revents != 0 {
                if let session = watched[one.fd], !session.serve() { end(session) }
            }
            // Last, because it changes what is watched.
            if polled[1].revents != 0 { try participant.dispatch() }
            if participant.status != told {
                told = participant.status
                print("agent", told == .connected ? "1" : "\(told)")
                fflush(nil)
            }
        }
    }
}

@main
enum EchoSwift {
    static func main() throws {
        let arguments = CommandLine.arguments
        guard arguments.count == 3, let port = UInt16(arguments[2]) else {
            print("usage: echo-swift ADDRESS PORT")
            exit(2)
        }
        let server = try Server(arguments[1], port)
        print("serving")
        fflush(nil)
        try server.run()
    }
}
