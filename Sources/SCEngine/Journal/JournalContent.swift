// Journals as text: lines with checksums, and what they say.

import FoundationEssentials
import Glibc
import SCImage

extension Journal {
    /// A journal's content, without its lock: for looking only.
    package struct Content {
        package var migration: MigrationID
        package var role: JournalRole
        package var lines: [JournalLine]
        fileprivate var entry: ArraySlice<UInt8>
        var length: Int

        /// The first line, as what it was written from.
        package func entry<Entry: Decodable>(as type: Entry.Type) throws(CheckpointError) -> Entry {
            do { return try JSONDecoder().decode(type, from: Data(entry)) } catch {
                throw CheckpointError("the journal \(migration).\(role.rawValue) is damaged", why: "its first line cannot be read", errno: EBADMSG)
            }
        }

        /// Written since this host was started: what it names may still be there.
        package var isOfThisBoot: Bool {
            struct Head: Decodable { var writer: JournalWriter }
            return (try? JSONDecoder().decode(Head.self, from: Data(entry)))?.writer.isOfThisBoot ?? false
        }

        /// How a move stands at this end, for those who only look.
        package enum Standing: Sendable {
            /// A living process is at it.
            case underWay
            case lost, active
            /// Only the other end can tell, or a keeper is at it.
            case inDoubt
            /// Nothing was decided: the sessions are to be given back.
            case undecided
        }

        package var standing: Standing {
            if Journal.isBusy(migration, role) { return .underWay }
            if has(.lost) { return .lost }
            if has(.active) { return .active }
            return has(.decided) || has(.activating) ? .inDoubt : .undecided
        }

        package func has(_ state: JournalState) -> Bool { lines.contains { $0.state == state } }
        /// What the lines `withdrawn` name under this key.
        package func withdrawn(_ key: String) -> Set<UInt64> {
            Set(lines.filter { $0.state == .withdrawn }.flatMap { ($0.details[key] ?? "").split(separator: " ") }.compactMap { UInt64($0) })
        }
        package func details(_ state: JournalState) -> [String: String] { lines.last { $0.state == state }?.details ?? [:] }
    }

    static func line(_ value: some Encodable) throws(CheckpointError) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        guard let data = try? encoder.encode(value) else {
            throw CheckpointError("cannot write the journal", why: "its entry has no text form", errno: EINVAL)
        }
        let json = Array(data)
        return Array("\(hexadecimal(crc32c(json))) ".utf8) + json + [UInt8(ascii: "\n")]
    }

    private static func hexadecimal(_ crc: UInt32) -> String {
        let digits = String(crc, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }

    static func parse(_ bytes: [UInt8], _ migration: MigrationID, _ role: JournalRole) -> Content? {
        var content: Content?
        var rest = bytes[...]
        while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
            let line = rest[..<end]
            let json = line.dropFirst(9)
            guard line.count > 9, String(decoding: line.prefix(9), as: UTF8.self) == hexadecimal(crc32c(Array(json))) + " " else { break }
            rest = rest[(end + 1)...]
            if content == nil {
                content = Content(migration: migration, role: role, lines: [], entry: json, length: rest.startIndex)
            } else {
                guard let line = try? JSONDecoder().decode(JournalLine.self, from: Data(json)) else { break }
                content?.lines.append(line)
                content?.length = rest.startIndex
            }
        }
        return content
    }
}
