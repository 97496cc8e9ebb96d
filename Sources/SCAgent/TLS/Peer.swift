// A host that is trusted, and the fingerprint by which it is known.

import SCEngine

/// SHA-256 of a certificate's DER form, written `sha256:` and 64 hexadecimal digits.
package struct Fingerprint: Hashable, Sendable, CustomStringConvertible {
    package static let size = 32
    package let bytes: [UInt8]

    package init(bytes: [UInt8]) {
        precondition(bytes.count == Self.size)
        self.bytes = bytes
    }

    /// Reads `sha256:…`; upper case, and colons between the digits as OpenSSL prints them, are fine.
    package init?(_ text: some StringProtocol) {
        let lower = text.lowercased()
        guard lower.hasPrefix("sha256:") else { return nil }
        guard let bytes = SCEngine.bytes(hexadecimal: lower.dropFirst(7).filter { $0 != ":" }), bytes.count == Self.size else { return nil }
        self.bytes = bytes
    }

    package var description: String { "sha256:" + bytes.map { hexadecimal($0) }.joined() }
}

/// One file of `peers/`.
package struct Peer: Hashable, Sendable {
    package var name: String
    /// `HOST:PORT` of its agent, IPv6 in brackets.
    package var address: String
    package var fingerprint: Fingerprint
    /// When its certificate ends, in seconds since 1970, if it was seen when it was trusted.
    package var validUntil: Int64?

    package init(name: String, address: String, fingerprint: Fingerprint, validUntil: Int64? = nil) {
        (self.name, self.address, self.fingerprint, self.validUntil) = (name, address, fingerprint, validUntil)
    }

    /// A name is a file name as well: 1 to 64 letters, digits, dots, hyphens and underscores, with a letter or digit first.
    package static func isName(_ text: String) -> Bool {
        guard let first = text.utf8.first, text.utf8.count <= 64, isPlain(first) else { return false }
        return text.utf8.allSatisfy { isPlain($0) || [UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_")].contains($0) }
    }

    private static func isPlain(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
        default: false
        }
    }
}

/// `HOST:PORT` in its two parts.
package struct HostPort: Hashable, Sendable, CustomStringConvertible {
    package var host: String
    package var port: UInt16

    /// nil when the port is missing, or an IPv6 address has no brackets.
    package init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]), port > 0 else { return nil }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            return nil
        }
        guard !host.isEmpty, host.utf8.count <= 253, host.utf8.allSatisfy({ $0 > 32 && $0 < 127 && $0 != UInt8(ascii: "/") }) else { return nil }
        (self.host, self.port) = (String(host), port)
    }

    package var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
