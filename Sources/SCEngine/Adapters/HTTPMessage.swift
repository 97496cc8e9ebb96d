// The little of HTTP/1.1 (RFC 9112) that the adapter has to speak: request heads and response heads.

/// A request as the client sent it.
struct HTTPRequest: Hashable, Sendable {
    var target: String
    var version: String
    var fields: [Field]
    /// Bytes from the method to the empty line.
    var length: Int

    struct Field: Hashable, Sendable {
        var name: String
        var value: String
    }

    func value(_ name: String) -> String? {
        fields.first { $0.name.lowercased() == name.lowercased() }?.value
    }

    /// The server closes the connection after this request's response.
    var isLast: Bool {
        let connection = value("Connection")?.lowercased() ?? ""
        return version == "HTTP/1.0" ? !connection.contains("keep-alive") : connection.contains("close")
    }

    /// The `first-last` of a single byte range; nil without a Range, and `unsupported` for several or a suffix.
    var range: (first: Int, last: Int?)? {
        guard let text = value("Range"), text.hasPrefix("bytes=") else { return nil }
        let parts = text.dropFirst(6).split(separator: "-", omittingEmptySubsequences: false)
        guard parts.count == 2, let first = Int(parts[0]) else { return nil }
        return (first, Int(parts[1]))
    }

    /// The request's text with another method, without the fields whose names are `dropped`, and with `added`.
    func text(method: String, dropping dropped: Set<String> = [], adding added: [Field] = []) -> [UInt8] {
        let kept = fields.filter { !dropped.contains($0.name.lowercased()) } + added
        let lines = kept.map { "\($0.name): \($0.value)\r\n" }.joined()
        return Array("\(method) \(target) \(version)\r\n\(lines)\r\n".utf8)
    }

    /// Parses a request head at the beginning of `bytes`. Servers that keep the head in place overwrite separators with NUL (nginx ends each name and
    /// value so), so NUL stands for a colon and for a carriage return as well.
    init?(head bytes: some Collection<UInt8>) {
        var lines: [[UInt8]] = []
        var line: [UInt8] = []
        var length = 0
        var isWhole = false
        for byte in bytes {
            length += 1
            if byte == UInt8(ascii: "\n") {
                while let last = line.last, last == 0 || last == UInt8(ascii: "\r") { line.removeLast() }
                isWhole = line.isEmpty
                if isWhole { break }
                lines.append(line)
                line = []
            } else {
                guard byte == 0 || byte == 9 || byte == 13 || byte >= 32, line.count < 8192 else { return nil }
                line.append(byte)
            }
        }
        guard isWhole, let first = lines.first else { return nil }
        let words = String(decoding: first, as: UTF8.self).split(separator: " ")
        guard words.count == 3, words[0] == "GET", words[1].hasPrefix("/"), words[2].hasPrefix("HTTP/1.") else { return nil }
        target = String(words[1])
        version = String(words[2].prefix(8))
        fields = []
        for line in lines.dropFirst() {
            guard let colon = line.firstIndex(where: { $0 == UInt8(ascii: ":") || $0 == 0 }) else { return nil }
            let value = line[(colon + 1)...].drop { $0 == UInt8(ascii: " ") || $0 == 0 }
            let name = String(decoding: line[..<colon], as: UTF8.self)
            guard !name.isEmpty, name.utf8.allSatisfy({ $0 > 32 && $0 < 127 }) else { return nil }
            fields.append(Field(name: name, value: String(decoding: value, as: UTF8.self)))
        }
        self.length = length
    }

    init(target: String, version: String = "HTTP/1.1", fields: [Field]) {
        (self.target, self.version, self.fields) = (target, version, fields)
        length = 0
        length = text(method: "GET").count
    }
}

/// A response's status line and fields.
package struct HTTPResponse: Sendable {
    var status: Int
    var fields: [HTTPRequest.Field]
    /// Bytes of the head, with its empty line.
    var length: Int

    func value(_ name: String) -> String? { fields.first { $0.name.lowercased() == name.lowercased() }?.value }

    var contentLength: Int? { value("Content-Length").flatMap { Int($0) } }

    /// What identifies the file: ETag, or Last-Modified with the size.
    func validator(size: Int) -> String { "\(value("ETag") ?? value("Last-Modified") ?? "") \(size)" }

    /// first, last and size of `Content-Range: bytes first-last/size`.
    var contentRange: (first: Int, last: Int, size: Int)? {
        guard let text = value("Content-Range"), text.hasPrefix("bytes ") else { return nil }
        let numbers = text.dropFirst(6).split { $0 == "-" || $0 == "/" }.compactMap { Int($0) }
        return numbers.count == 3 ? (numbers[0], numbers[1], numbers[2]) : nil
    }

    /// Parses a response head at the beginning of `bytes`; nil when its empty line is not there yet.
    init?(_ bytes: [UInt8]) {
        guard let end = Self.headLength(bytes) else { return nil }
        let lines = String(decoding: bytes[..<end], as: UTF8.self).split(separator: "\r\n", omittingEmptySubsequences: true)
        let words = (lines.first ?? "").split(separator: " ", maxSplits: 2)
        guard words.count >= 2, words[0].hasPrefix("HTTP/1."), let status = Int(words[1]) else { return nil }
        self.status = status
        fields = lines.dropFirst().compactMap { line in
            guard let colon = line.firstIndex(of: ":") else { return nil }
            let value = line[line.index(after: colon)...].drop { $0 == " " }
            return HTTPRequest.Field(name: String(line[..<colon]), value: String(value))
        }
        length = end
    }

    /// Bytes of a message's head with its empty line; nil when that is not there.
    package static func headLength(_ bytes: [UInt8]) -> Int? {
        guard bytes.count >= 4 else { return nil }
        for index in 3..<bytes.count where bytes[index] == 10 && bytes[index - 1] == 13 && bytes[index - 2] == 10 && bytes[index - 3] == 13 {
            return index + 1
        }
        return nil
    }
}
