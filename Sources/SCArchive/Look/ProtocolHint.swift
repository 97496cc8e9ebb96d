// What the bytes of a queue look like, for a person: HTTP, PostgreSQL, TLS, Redis, or text. A guess, and told as one.

import Glibc
import SCEngine
import SCImage

/// The protocol that some bytes begin with, and their messages in words.
package struct ProtocolHint: Equatable, Sendable {
    /// `HTTP request`, `PostgreSQL`, `TLS`, …
    package var name: String
    /// One line a message or header field, without control characters, at most `lineCapacity`.
    package var lines: [String]

    package static let lineCapacity = 40

    /// `isFromClient` tells requests from answers. Nil: nothing is known of the bytes, which may begin in the middle of something.
    package init?(_ bytes: [UInt8], isFromClient: Bool) {
        let readers: [([UInt8], Bool) -> (String, [String])?] = [Self.http, Self.tls, PostgreSQLHint.read, Self.redis, Self.text]
        for read in readers {
            guard !bytes.isEmpty, let (name, lines) = read(bytes, isFromClient) else { continue }
            self.name = name
            let rest = lines.count > Self.lineCapacity ? ["… \(lines.count - Self.lineCapacity) more"] : []
            self.lines = lines.prefix(Self.lineCapacity).map { Self.visible($0) } + rest
            return
        }
        return nil
    }

    /// At most 200 characters, none of which a terminal would obey.
    static func visible(_ text: String) -> String {
        let scalars = text.unicodeScalars.prefix(200).map { ($0.value < 32 || (127..<160).contains($0.value)) ? Unicode.Scalar(0xfffd)! : $0 }
        return String(String.UnicodeScalarView(scalars)) + (text.unicodeScalars.count > 200 ? "…" : "")
    }

    private static let methods: Set<String> = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "SOURCE"]

    private static func http(_ bytes: [UInt8], _ isFromClient: Bool) -> (String, [String])? {
        let first = String(decoding: bytes.prefix(2048).prefix { $0 != 10 }, as: UTF8.self)
        let words = first.split(separator: " ")
        let isAnswer = first.hasPrefix("HTTP/1.")
        let isRequest = words.count >= 2 && methods.contains(String(words[0])) && (words.count < 3 || words[2].hasPrefix("HTTP/") || words[2].hasPrefix("ICE/"))
        guard isAnswer || isRequest else { return nil }
        let length = HTTPResponse.headLength(bytes)
        let head = String(decoding: bytes.prefix(length ?? min(bytes.count, 16 << 10)), as: UTF8.self)
        var lines = head.split(whereSeparator: { $0 == "\r\n" || $0 == "\n" }).map(String.init)
        if let length {
            lines.append(bytes.count > length ? "(\(bytes.count - length) bytes after the head)" : "(the head is whole, and nothing follows)")
        } else {
            lines.append("(the head is not whole)")
        }
        return (isAnswer ? "HTTP response" : "HTTP request", lines)
    }

    private static func tls(_ bytes: [UInt8], _ isFromClient: Bool) -> (String, [String])? {
        let types: [UInt8: String] = [20: "ChangeCipherSpec", 21: "Alert", 22: "Handshake", 23: "application data"]
        let handshakes: [UInt8: String] = [1: "ClientHello", 2: "ServerHello", 4: "NewSessionTicket", 11: "Certificate"]
        var (lines, start) = ([String](), 0)
        while start + 5 <= bytes.count {
            guard let type = types[bytes[start]], bytes[start + 1] == 3, bytes[start + 2] <= 4 else { return start == 0 ? nil : ("TLS", lines) }
            let length = Int(bytes[start + 3]) << 8 | Int(bytes[start + 4])
            guard length > 0, length <= 16_640 else { return start == 0 ? nil : ("TLS", lines) }
            let message = bytes[start] == 22 && start + 5 < bytes.count ? handshakes[bytes[start + 5]].map { " \($0)" } ?? "" : ""
            let isCut = start + 5 + length > bytes.count
            lines.append("\(type)\(message), \(length) bytes\(isCut ? " (not whole)" : "")")
            start += 5 + length
        }
        return lines.isEmpty ? nil : ("TLS", lines)
    }

    private static func redis(_ bytes: [UInt8], _ isFromClient: Bool) -> (String, [String])? {
        guard isFromClient, bytes[0] == UInt8(ascii: "*"), bytes.count >= 4 else { return nil }
        let parts = String(decoding: bytes.prefix(4096), as: UTF8.self).split(separator: "\r\n", omittingEmptySubsequences: false)
        guard parts.count > 2, Int(parts[0].dropFirst()) != nil, parts[1].hasPrefix("$") else { return nil }
        var (lines, index) = ([String](), 0)
        while index < parts.count, parts[index].hasPrefix("*"), let count = Int(parts[index].dropFirst()), (1...64).contains(count) {
            let words = stride(from: index + 2, to: min(index + 2 + 2 * count, parts.count), by: 2).map { String(parts[$0]) }
            lines.append(words.joined(separator: " "))
            index += 1 + 2 * count
        }
        return ("Redis", lines)
    }

    private static func text(_ bytes: [UInt8], _ isFromClient: Bool) -> (String, [String])? {
        let sample = bytes.prefix(4096)
        guard sample.allSatisfy({ (32..<127).contains($0) || [9, 10, 13].contains($0) || $0 >= 0x80 }),
            String(validating: sample.count < bytes.count ? sample.dropLast(4) : sample, as: UTF8.self) != nil
        else { return nil }
        return ("text", String(decoding: sample, as: UTF8.self).split(whereSeparator: \.isNewline).prefix(8).map(String.init))
    }
}
