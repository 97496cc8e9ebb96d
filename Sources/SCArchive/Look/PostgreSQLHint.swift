// PostgreSQL's messages in words (protocol 3.0, "Message Formats" in its documentation).

import SCImage

enum PostgreSQLHint {
    private static let fromClient: [UInt8: String] = [
        0x51: "Query", 0x50: "Parse", 0x42: "Bind", 0x45: "Execute", 0x53: "Sync", 0x58: "Terminate", 0x44: "Describe", 0x43: "Close",
        0x46: "FunctionCall", 0x48: "Flush", 0x64: "CopyData", 0x63: "CopyDone", 0x66: "CopyFail", 0x70: "PasswordMessage",
    ]
    private static let fromServer: [UInt8: String] = [
        0x52: "Authentication", 0x53: "ParameterStatus", 0x4b: "BackendKeyData", 0x5a: "ReadyForQuery", 0x54: "RowDescription", 0x44: "DataRow",
        0x43: "CommandComplete", 0x45: "ErrorResponse", 0x4e: "NoticeResponse", 0x31: "ParseComplete", 0x32: "BindComplete", 0x33: "CloseComplete",
        0x6e: "NoData", 0x49: "EmptyQueryResponse", 0x41: "NotificationResponse", 0x74: "ParameterDescription", 0x73: "PortalSuspended",
        0x47: "CopyInResponse", 0x48: "CopyOutResponse", 0x57: "CopyBothResponse", 0x64: "CopyData", 0x63: "CopyDone", 0x76: "NegotiateProtocolVersion",
    ]

    /// Nil unless every message up to the end of the bytes, or to a last one that is not whole, has a known type and a possible length.
    static func read(_ bytes: [UInt8], _ isFromClient: Bool) -> (String, [String])? {
        if isFromClient, let startup = startup(bytes) { return ("PostgreSQL", [startup]) }
        let types = isFromClient ? fromClient : fromServer
        var (lines, start, rows) = ([String](), 0, 0)
        while start < bytes.count {
            guard let type = types[bytes[start]] else { return nil }
            guard start + 5 <= bytes.count else {
                lines.append("\(type) (not whole)")
                break
            }
            let length = bytes[(start + 1)..<(start + 5)].reduce(0) { $0 << 8 | Int($1) }
            guard length >= 4, length < 1 << 30 else { return nil }
            let end = start + 1 + length
            guard end <= bytes.count else {
                // A first message that is cut proves nothing.
                if start == 0 { return nil }
                lines.append("\(type), \(length) bytes (not whole)")
                break
            }
            if type == "DataRow" { rows += 1 }
            if type != "DataRow" || rows <= 3 {
                lines.append(type + words(type, bytes[(start + 5)..<end]))
            } else if rows == 4 {
                lines.append("DataRow …")
            }
            start = end
        }
        if rows > 3 { lines.append("(\(rows) rows in all)") }
        return ("PostgreSQL", lines)
    }

    private static func startup(_ bytes: [UInt8]) -> String? {
        guard bytes.count >= 8 else { return nil }
        let length = bytes[..<4].reduce(0) { $0 << 8 | Int($1) }
        let code = bytes[4..<8].reduce(0) { $0 << 8 | Int($1) }
        guard (8...10_000).contains(length) else { return nil }
        switch code {
        case 80_877_103: return "SSLRequest"
        case 80_877_102: return "CancelRequest"
        case 196_608: return "StartupMessage" + bytes[8..<min(length, bytes.count)].split(separator: 0).map { " " + text($0) }.joined()
        default: return nil
        }
    }

    private static func words(_ type: String, _ body: ArraySlice<UInt8>) -> String {
        switch type {
        case "Query", "CommandComplete", "CopyFail": ": " + text(body.prefix { $0 != 0 })
        case "Parse": ": " + text(body.split(separator: 0, maxSplits: 1, omittingEmptySubsequences: false).last?.prefix { $0 != 0 } ?? [])
        case "ErrorResponse", "NoticeResponse":
            ": " + body.split(separator: 0).filter { [UInt8(ascii: "S"), UInt8(ascii: "C"), UInt8(ascii: "M")].contains($0.first) }
                .map { text($0.dropFirst()) }.joined(separator: " ")
        case "ReadyForQuery":
            switch body.first {
            case UInt8(ascii: "I"): ": idle"
            case UInt8(ascii: "T"): ": in a transaction"
            case UInt8(ascii: "E"): ": in a failed transaction"
            default: ""
            }
        case "ParameterStatus": ": " + body.split(separator: 0).map(text).joined(separator: " = ")
        case "RowDescription", "DataRow": body.count < 2 ? "" : ": \(body.prefix(2).reduce(0) { $0 << 8 | Int($1) }) columns"
        case "PasswordMessage": " (\(body.count) bytes)"
        default: ""
        }
    }

    private static func text(_ bytes: some Sequence<UInt8>) -> String { String(decoding: Array(bytes), as: UTF8.self) }
}
