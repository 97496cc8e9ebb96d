// Continues ranged HTTP/1.1 downloads and idle keep-alive connections in another unmodified server.

import CProc
import Glibc
import SCImage

/// The position of a download is a file offset. It follows from what the kernel counts (bytes written on the connection) and from the length of the
/// response's head, which the source's own server tells when it is asked the same with HEAD. It is believed only with proof: the kernel's count of
/// bytes read must be the request's length, or the bytes in the send queue must be found in the file; and the target's server must give the same
/// bytes again for the part that the client has not acknowledged.
struct HTTPAdapter: Adapter {
    var name: String { "http" }

    // MARK: Source

    func learn(
        _ session: SelectedSession, socket: HeldSocket, known: AdapterState?, options: [String: String]
    ) throws(CheckpointError) -> AdapterState {
        let counts = Counts(socket)
        if let known, known.name == name, let download = try HTTPState(known).download, download.anchor + counts.written <= download.last {
            return known
        }
        let server = ServerAccess(
            namespace: try NetworkNamespace.of(socket: socket.raw),
            service: Flow(client: session.channel.peerAddress!, service: session.channel.localAddress!).service)
        if let target = options["target"] {
            let host = options["host"] ?? server.service.address.description
            let fields = [HTTPRequest.Field(name: "Host", value: host)]
            return try prove([HTTPRequest(target: target, fields: fields)], counts, socket, server, session, isNamed: true)
        }
        // Nothing was ever asked: the connection is as fresh as any.
        if counts.read == 0, counts.written == 0 { return HTTPState(download: nil).encoded }
        return try prove(requestCandidates(in: session.process), counts, socket, server, session, isNamed: false)
    }

    /// Bytes on the connection since its beginning, over all hosts.
    private struct Counts {
        var written, read: Int
        init(_ socket: HeldSocket) {
            let info = socket.view.tcpInfo ?? cproc_tcp_info()
            written = Int(socket.base.written &+ info.bytes_acked) + max(0, Int(cproc_siocoutq(socket.raw)))
            read = Int(socket.base.read &+ info.bytes_received) - max(0, Int(cproc_siocinq(socket.raw)))
        }
    }

    /// Chooses the candidate that the kernel's counts, and where these are not enough the content of the send queue, prove.
    private func prove(
        _ candidates: [HTTPRequest], _ counts: Counts, _ socket: HeldSocket, _ server: ServerAccess, _ session: SelectedSession, isNamed: Bool
    ) throws(CheckpointError) -> AdapterState {
        let exact = candidates.filter { $0.length == counts.read && socket.base.read == 0 }
        var proved: [HTTPState.Download] = []
        var finished = false
        for request in exact {
            guard let (head, first, last, validator) = try describe(request, server) else { continue }
            let anchor = first - head
            if anchor + counts.written == last + 1 { finished = true }
            guard anchor + counts.written >= first, anchor + counts.written <= last else { continue }
            proved.append(HTTPState.Download(request: request, anchor: anchor, first: first, last: last, validator: validator))
        }
        if proved.isEmpty, !finished {
            // A later request of a keep-alive connection: the counts include earlier ones, so only content can tell.
            let files = openFiles(of: session.process)
            if files.isEmpty, !isNamed { return HTTPState(download: nil).encoded }
            for request in candidates where isNamed || files.contains(where: { $0.path.hasSuffix(request.path) }) {
                guard let (_, first, last, validator) = try describe(request, server),
                    let file = files.first(where: { $0.path.hasSuffix(request.path) }), let anchor = try locate(session, in: file)
                else { continue }
                proved.append(HTTPState.Download(request: request, anchor: anchor, first: first, last: last, validator: validator))
            }
        }
        if proved.isEmpty, finished { return HTTPState(download: nil).encoded }
        // The same file at the same place under several spellings of the request is one answer.
        guard let first = proved.first, proved.allSatisfy({ ($0.anchor, $0.last, $0.validator) == (first.anchor, first.last, first.validator) })
        else {
            throw CheckpointError(
                "cannot tell what \(server.service) is sending to \(session.channel.peer)",
                why: proved.isEmpty ? "no request in the server's memory fits the bytes on the connection" : "several requests fit", errno: ENODATA,
                advice: "Name it: --option target=/PATH --option host=NAME")
        }
        return HTTPState(download: first).encoded
    }

    /// Asks the server for the head of the same response. nil when it is not a file response that can be continued by a range.
    private func describe(
        _ request: HTTPRequest, _ server: ServerAccess
    ) throws(CheckpointError) -> (head: Int, first: Int, last: Int, validator: String)? {
        let reply = try server.exchange(request.text(method: "HEAD")) { HTTPResponse($0) != nil }
        guard let response = HTTPResponse(reply), response.value("Transfer-Encoding") == nil, response.value("Content-Encoding") == nil,
            let length = response.contentLength, length > 0
        else { return nil }
        switch response.status {
        case 200 where response.value("Accept-Ranges") == "bytes":
            return (response.length, 0, length - 1, response.validator(size: length))
        case 206:
            guard let range = response.contentRange else { return nil }
            return (response.length, range.first, range.last, response.validator(size: range.size))
        default: return nil
        }
    }

    private func openFiles(of process: TargetProcess) -> [(fd: Int32, path: String)] {
        ((try? Prober().channels(of: process)) ?? []).filter { $0.kind == .file && $0.state == "READ" }.map { ($0.fd, $0.local) }
    }

    /// The anchor, from the place of the send queue's last bytes in the file; nil when they are nowhere or in several places.
    private func locate(
        _ session: SelectedSession, in file: (fd: Int32, path: String)
    ) throws(CheckpointError) -> Int? {
        let channel = try SessionCapture([session]).snapshot()[0]
        let key = Array(channel.sendQueue.suffix(512))
        guard key.count >= 32 else { return nil }
        let copy = try session.process.duplicate(file.fd)
        var stat = cproc_stat()
        guard cproc_fstat(copy.raw, &stat) >= 0, stat.size > 0, let map = mmap(nil, Int(stat.size), PROT_READ, MAP_PRIVATE, copy.raw, 0),
            map != MAP_FAILED
        else { return nil }
        defer { munmap(map, Int(stat.size)) }
        let size = Int(stat.size)
        let offset = Int(cproc_find(map, size, key, key.count))
        guard offset >= 0, cproc_find(map + offset + 1, size - offset - 1, key, key.count) < 0 else { return nil }
        return offset + key.count - Int(channel.bytesWritten)
    }

    func fix(_ state: AdapterState, channel: TCPChannel) throws(CheckpointError) -> AdapterState {
        guard var download = try HTTPState(state).download else {
            return state
        }
        let position = download.anchor + Int(channel.bytesWritten)
        guard position >= download.first, position <= download.last + 1 else {
            throw CheckpointError(
                "the download of \(download.request.target) has left its response meanwhile",
                why: "offset \(position) of \(download.first)-\(download.last)",
                errno: EAGAIN, advice: "Repeat")
        }
        // Everything is written: what is left lies in the send queue, and the connection is idle.
        if position == download.last + 1 { return HTTPState(download: nil).encoded }
        download.position = position
        return HTTPState(download: download).encoded
    }

    // MARK: Target

    func check(_ state: AdapterState, server: ServerAccess) throws(CheckpointError) {
        guard let download = try HTTPState(state).download else { return }
        guard let (_, first, last, validator) = try describe(download.request, server) else {
            throw CheckpointError(
                "the server at \(server.service) on \(hostName()) cannot continue \(download.request.target)",
                why: "it gives no file with byte ranges for it",
                errno: ENOENT, advice: "Put the same file there")
        }
        guard (first, last, validator) == (download.first, download.last, download.validator) else {
            throw CheckpointError(
                "the server at \(server.service) on \(hostName()) has another \(download.request.target)",
                why: "its validator is \(validator), the source's \(download.validator)", errno: ESTALE,
                advice: "Copy the file with its modification time (rsync -t, cp -p)")
        }
    }

    func align(_ state: AdapterState, channel: TCPChannel, prelude: Prelude) throws(CheckpointError) -> AlignedPrelude {
        guard let download = try HTTPState(state).download else { return AlignedPrelude(surplus: []) }
        guard let position = download.position else {
            throw CheckpointError("the image does not say how far the download is", why: "no position", errno: EBADMSG)
        }
        // The client's unacknowledged bytes are asked for again: equal bytes prove that it is the same file at the same place.
        let overlap = min(channel.sendQueue.count, position - download.first, 65536)
        let range = HTTPRequest.Field(name: "Range", value: "bytes=\(position - overlap)-\(download.last)")
        var added = [range]
        if download.request.isLast, download.request.version == "HTTP/1.1", download.request.value("Connection") == nil {
            added.append(HTTPRequest.Field(name: "Connection", value: "close"))
        }
        try prelude.write(download.request.text(method: "GET", dropping: ["range", "if-range", "if-modified-since", "if-none-match"], adding: added))
        var reply: [UInt8] = []
        let deadline = Deadline(milliseconds: 3000)
        var head: HTTPResponse?
        while reply.count < (head?.length ?? 0) + overlap || head == nil {
            guard let more = try prelude.read(deadline) else {
                throw CheckpointError("the server did not answer the range request", why: "no response after 3000 ms", errno: ETIMEDOUT)
            }
            reply += more
            head = head ?? HTTPResponse(reply)
        }
        guard let head, head.status == 206, let answer = head.contentRange, answer.first == position - overlap, answer.last == download.last else {
            throw CheckpointError(
                "the server did not answer the range request with the range", why: "status \(head?.status ?? 0)", errno: EPROTO)
        }
        let body = reply[head.length...]
        guard body.prefix(overlap).elementsEqual(channel.sendQueue.suffix(overlap)) else {
            throw CheckpointError(
                "the server's \(download.request.target) has other content",
                why: "the bytes before offset \(position) differ from those the client is being sent",
                errno: ESTALE, advice: "Copy the file again")
        }
        return AlignedPrelude(surplus: Array(body.dropFirst(overlap)))
    }
}

extension HTTPRequest {
    /// The target without its query.
    var path: String { String(target.prefix { $0 != "?" }) }
}
