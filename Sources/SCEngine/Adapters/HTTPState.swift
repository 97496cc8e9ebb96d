// What the http adapter remembers of a session, in lines that a person can read.

import Glibc
import SCImage

/// A download in progress, or an idle keep-alive connection.
struct HTTPState: Equatable {
    /// nil: idle; the next request is the client's.
    var download: Download?

    struct Download: Equatable {
        var request: HTTPRequest
        /// File offset minus bytes written on the connection: constant while this response is being sent, on every host.
        var anchor: Int
        /// First and last file offset of the response.
        var first: Int
        var last: Int
        /// ETag or Last-Modified, and the size.
        var validator: String
        /// The file offset of the next byte the server would have written; known once the session is captured.
        var position: Int?
    }

    init(download: Download?) { self.download = download }

    var encoded: AdapterState {
        guard let download else { return AdapterState(name: "http", bytes: Array("idle\n".utf8)) }
        var lines = ["download", "anchor \(download.anchor)", "first \(download.first)", "last \(download.last)", "validator \(download.validator)"]
        if let position = download.position { lines.append("position \(position)") }
        let head = download.request.text(method: "GET")
        return AdapterState(name: "http", bytes: Array((lines.joined(separator: "\n") + "\n\n").utf8) + head)
    }

    init(_ state: AdapterState) throws(CheckpointError) {
        let malformed = CheckpointError("the image's http state cannot be read", why: "it is malformed", errno: EBADMSG)
        if state.bytes == Array("idle\n".utf8) {
            download = nil
            return
        }
        guard let end = state.bytes.indices.dropLast().first(where: { state.bytes[$0] == 10 && state.bytes[$0 + 1] == 10 }),
            let request = HTTPRequest(head: state.bytes[(end + 2)...])
        else { throw malformed }
        var values: [String: String] = [:]
        for line in String(decoding: state.bytes[..<end], as: UTF8.self).split(separator: "\n").dropFirst() {
            let parts = line.split(separator: " ", maxSplits: 1)
            values[String(parts[0])] = parts.count == 2 ? String(parts[1]) : ""
        }
        guard let anchor = Int(values["anchor"] ?? ""), let first = Int(values["first"] ?? ""), let last = Int(values["last"] ?? ""),
            first >= 0, last >= first, let validator = values["validator"]
        else { throw malformed }
        download = Download(
            request: request, anchor: anchor, first: first, last: last, validator: validator, position: values["position"].flatMap { Int($0) })
    }
}
