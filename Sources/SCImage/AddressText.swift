// Addresses and session names as people write them.

extension IPAddress: CustomStringConvertible {
    /// `192.0.2.1`, `2001:db8::1` (RFC 5952), `::ffff:192.0.2.1`.
    package var description: String {
        if !isIPv6 { return Self.dotted(UInt32(truncatingIfNeeded: low)) }
        if isIPv4Mapped { return "::ffff:" + Self.dotted(UInt32(truncatingIfNeeded: low)) }
        let groups = [high, low].flatMap { half in [48, 32, 16, 0].map { UInt16(truncatingIfNeeded: half >> $0) } }
        let hex = groups.map { String($0, radix: 16) }
        // The first of the longest runs of at least two zero groups is written as "::".
        let runs = groups.indices.map { start in groups[start...].prefix { $0 == 0 }.count }
        guard let longest = runs.max(), longest > 1, let start = runs.firstIndex(of: longest) else {
            return hex.joined(separator: ":")
        }
        return hex[..<start].joined(separator: ":") + "::" + hex[(start + longest)...].joined(separator: ":")
    }

    private static func dotted(_ address: UInt32) -> String {
        "\(address >> 24).\(address >> 16 & 255).\(address >> 8 & 255).\(address & 255)"
    }
}

extension SocketAddress: CustomStringConvertible {
    /// `192.0.2.1:80`, `[2001:db8::1]:80`, `[fe80::1%2]:80`.
    package var description: String {
        guard address.isIPv6 else { return "\(address):\(port)" }
        return scope == 0 ? "[\(address)]:\(port)" : "[\(address)%\(scope)]:\(port)"
    }
}

extension SessionID: CustomStringConvertible {
    /// 32 hexadecimal digits.
    package var description: String {
        [high, low].map { half in
            let digits = String(half, radix: 16)
            return String(repeating: "0", count: 16 - digits.count) + digits
        }.joined()
    }
}
