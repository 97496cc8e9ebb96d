// Output for a person or for a pipe: plain lines, JSON documents, progress on a terminal only.

import FoundationEssentials
import Glibc
import SCEngine

enum Terminal {
    /// Standard error is a terminal that can be drawn on.
    static let isInteractive = isatty(2) == 1

    static func write(_ text: String, to fd: Int32) { write(Array(text.utf8), to: fd) }

    static func write(_ all: [UInt8], to fd: Int32) {
        var bytes = all[...]
        while !bytes.isEmpty {
            let count = bytes.withUnsafeBytes { Glibc.write(fd, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            if count <= 0 { return }
            bytes = bytes.dropFirst(count)
        }
    }

    static func print(_ line: String) { write(line + "\n", to: 1) }

    /// Control bytes of a path or a peer's message must not reach the terminal.
    static func error(_ message: String) {
        clearProgress()
        write("sc-checkpoint: \(clean(message))\n", to: 2)
    }

    /// Without control characters.
    static func clean(_ text: String) -> String { String(text.unicodeScalars.map { $0.value < 32 || $0.value == 127 ? " " : Character($0) }) }

    static func note(_ message: String) { error(message) }

    /// One line that the next one replaces; silent in a pipe.
    static func progress(_ text: String) {
        if isInteractive { write("\r\u{1b}[K\(text)", to: 2) }
    }

    static func clearProgress() {
        if isInteractive { write("\r\u{1b}[K", to: 2) }
    }

    /// One JSON document with stable keys.
    static func json(_ value: some Encodable) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        print(String(decoding: (try? encoder.encode(value)) ?? Data(), as: UTF8.self))
    }

    /// Columns as wide as their widest entry; `right` columns are numbers.
    static func table(_ header: [String], _ rows: [[String]], right: Set<Int> = []) {
        let widths = header.indices.map { column in ([header] + rows).map { $0[column].count }.max() ?? 0 }
        for row in [header] + rows {
            let cells = row.enumerated().map { column, text in
                let padding = String(repeating: " ", count: widths[column] - text.count)
                return right.contains(column) ? padding + text : text + padding
            }
            var line = cells.joined(separator: "  ")
            while line.last == " " { line.removeLast() }
            print(line)
        }
    }
}

/// Nanoseconds as microseconds with one decimal.
func microseconds(_ nanoseconds: UInt64) -> String { "\(nanoseconds / 1000).\(nanoseconds / 100 % 10)" }
