// Answers `GET /metrics` over a Unix socket or loopback: one request for each connection, one connection at a time, everything bounded.

import CProc
import Glibc
import SCEngine
import SCImage

/// A very small HTTP/1.1 server on a thread of its own. A client that is slow loses its connection after `limit` milliseconds.
package final class MetricsServer {
    private static let longestRequest = 8192
    private let socket: SharedDescriptor
    private let path: String?
    private let metrics: Metrics
    private let limit: Int
    private var thread = pthread_t()
    /// The port it listens on, for an address whose port was 0.
    package private(set) var port: UInt16 = 0

    /// Listens; `start` answers. A Unix socket may be used by its owner and group.
    package init(_ address: Policy.MetricsAddress, _ metrics: Metrics, limit: Int = 2000) throws(CheckpointError) {
        (self.metrics, self.limit) = (metrics, limit)
        let place: String
        switch address {
        case .unix(let path):
            (self.path, place) = (path, path)
            socket = try Self.makeSocket(AF_UNIX)
            // A new socket file takes the mode of the socket (minus the umask), so that it is never open to all.
            fchmod(socket.raw, 0o660)
            try Self.bind(socket.raw, to: path)
        case .tcp(let endpoint):
            (path, place) = (nil, endpoint.description)
            socket = try Self.makeSocket(endpoint.address.isIPv6 ? AF_INET6 : AF_INET)
            try check(cproc_setsockopt_int(socket.raw, SOL_SOCKET, SO_REUSEADDR, 1), "cannot set up the metrics' socket")
            var own = endpoint.endpoint
            try check(cproc_bind(socket.raw, &own), "cannot serve metrics on \(place)")
            if cproc_getsockname(socket.raw, &own) == 0 { port = own.port }
        }
        guard listen(socket.raw, 16) == 0 else { throw CheckpointError("cannot serve metrics on \(place)", result: Int(-errno)) }
    }

    private static func makeSocket(_ family: Int32) throws(CheckpointError) -> SharedDescriptor {
        let raw = Glibc.socket(family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        return SharedDescriptor(try check(raw < 0 ? -errno : raw, "cannot make a socket for the metrics"))
    }

    /// Takes the place of a socket on which nobody listens any longer, and of nothing else.
    private static func bind(_ socket: Int32, to path: String) throws(CheckpointError) {
        if bindUnixReplacing(socket, path) { return }
        let error = errno
        throw CheckpointError("cannot serve metrics on \(path)", result: Int(-error), advice: error == EADDRINUSE ? "Another agent uses it" : "")
    }

    /// Answers until `stop`.
    package func start() throws(CheckpointError) {
        let result = pthread_create(
            &thread, nil,
            { context in
                Unmanaged<MetricsServer>.fromOpaque(context!).takeRetainedValue().serve()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        guard result == 0 else {
            Unmanaged.passUnretained(self).release()
            throw CheckpointError("cannot start the metrics' thread", result: Int(-result))
        }
    }

    /// Ends the thread and removes the socket's file.
    package func stop() {
        if let path { unlink(path) }
        shutdown(socket.raw, Int32(SHUT_RDWR))
        pthread_join(thread, nil)
    }

    private func serve() {
        while true {
            let raw = accept(socket.raw, nil, nil)
            if raw >= 0 {
                _ = fcntl(raw, F_SETFD, FD_CLOEXEC)
                _ = fcntl(raw, F_SETFL, O_NONBLOCK)
                answer(OwnedDescriptor(raw))
            } else if errno == EINVAL || errno == EBADF {
                return
            } else if errno != EINTR, errno != ECONNABORTED {
                // Out of descriptors or memory: others need the processor more than a retry does.
                pause(microseconds: 100_000)
            }
        }
    }

    private func answer(_ connection: consuming OwnedDescriptor) {
        let deadline = Deadline(milliseconds: limit)
        let response: String
        switch readHead(connection.raw, deadline) {
        case .head(let head): response = respond(to: head)
        case .tooLong: response = Self.page("431 Request Header Fields Too Large")
        case .tooSlow: response = Self.page("408 Request Timeout")
        case .gone: return
        }
        send(connection.raw, Array(response.utf8), deadline)
        // What the client still says is read, or the kernel would throw the answer away with it.
        shutdown(connection.raw, Int32(SHUT_WR))
        var rest = [UInt8](repeating: 0, count: 4096)
        while cproc_poll(connection.raw, Int16(POLLIN), min(200, deadline.remainingMilliseconds)) > 0, recv(connection.raw, &rest, rest.count, 0) > 0
        {}
    }

    private enum Head {
        case head(String)
        case tooLong, tooSlow, gone
    }

    /// Everything up to the empty line.
    private func readHead(_ socket: Int32, _ deadline: Deadline) -> Head {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 2048)
        let end = Array("\r\n\r\n".utf8)
        while cproc_find(bytes, bytes.count, end, end.count) < 0 {
            guard bytes.count < Self.longestRequest else { return .tooLong }
            guard cproc_poll(socket, Int16(POLLIN), deadline.remainingMilliseconds) > 0 else { return .tooSlow }
            let count = recv(socket, &chunk, chunk.count, 0)
            if count < 0, errno == EAGAIN || errno == EINTR { continue }
            guard count > 0 else { return .gone }
            bytes += chunk[..<count]
        }
        return .head(String(decoding: bytes, as: UTF8.self))
    }

    private func respond(to head: String) -> String {
        let words = head.prefix { $0 != "\r\n" && $0 != "\n" }.split(separator: " ", omittingEmptySubsequences: false)
        guard words.count == 3, words[2].hasPrefix("HTTP/1.") else { return Self.page("400 Bad Request") }
        guard words[1] == "/metrics" || words[1].hasPrefix("/metrics?") else { return Self.page("404 Not Found", "The metrics are at /metrics.\n") }
        guard words[0] == "GET" else { return Self.page("405 Method Not Allowed", fields: ["Allow: GET"]) }
        return Self.page("200 OK", metrics.text, type: "text/plain; version=0.0.4; charset=utf-8")
    }

    private static func page(_ status: String, _ body: String? = nil, type: String = "text/plain; charset=utf-8", fields: [String] = []) -> String {
        let body = body ?? status + "\n"
        let head = ["HTTP/1.1 \(status)", "Content-Type: \(type)", "Content-Length: \(body.utf8.count)", "Connection: close"] + fields
        return head.joined(separator: "\r\n") + "\r\n\r\n" + body
    }

    private func send(_ socket: Int32, _ bytes: [UInt8], _ deadline: Deadline) {
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes { Glibc.send(socket, $0.baseAddress! + done, $0.count - done, Int32(MSG_NOSIGNAL)) }
            if count > 0 {
                done += count
            } else if errno == EAGAIN {
                guard cproc_poll(socket, Int16(POLLOUT), deadline.remainingMilliseconds) > 0 else { return }
            } else if errno != EINTR {
                return
            }
        }
    }
}
