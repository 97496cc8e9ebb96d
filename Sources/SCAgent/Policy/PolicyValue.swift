// A JSON5 document as a tree whose every node knows its place, so that a mistake is told with the key that has it.

import FoundationEssentials
import Glibc
import SCEngine

/// One value of the document.
indirect enum PolicyTree: Decodable {
    case null
    case flag(Bool)
    case number(Double)
    case text(String)
    case list([PolicyTree])
    case object([String: PolicyTree])

    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        // Only another type is tried next; a value that is broken in itself is told as such.
        func value<Value: Decodable>(_ type: Value.Type) throws -> Value? {
            do { return try container.decode(type) } catch DecodingError.typeMismatch { return nil }
        }
        if container.decodeNil() {
            self = .null
        } else if let value = try value(Bool.self) {
            self = .flag(value)
        } else if let value = try value(Double.self) {
            self = .number(value)
        } else if let value = try value(String.self) {
            self = .text(value)
        } else if let value = try value([PolicyTree].self) {
            self = .list(value)
        } else {
            self = .object(try container.decode([String: PolicyTree].self))
        }
    }

    var kind: String {
        switch self {
        case .null: "null"
        case .flag(let value): String(value)
        case .number(let value): value == value.rounded() && abs(value) < 1e15 ? String(Int(value)) : String(value)
        case .text(let value): "\"\(value)\""
        case .list: "a list"
        case .object: "an object"
        }
    }
}

/// A value and its path, `services.www.ports[0]`.
struct PolicyNode {
    let tree: PolicyTree
    /// Empty at the top.
    let path: String

    /// Parses a document.
    init(_ bytes: [UInt8]) throws(CheckpointError) {
        let decoder = JSONDecoder()
        decoder.allowsJSON5 = true
        do {
            tree = try decoder.decode(PolicyTree.self, from: Data(bytes))
        } catch DecodingError.dataCorrupted(let context) where !context.codingPath.isEmpty {
            let place = context.codingPath.reduce("") { path, key in
                key.intValue.map { "\(path)[\($0)]" } ?? (path.isEmpty ? key.stringValue : "\(path).\(key.stringValue)")
            }
            throw Self.mistake("\(place) cannot be read: \(context.debugDescription)")
        } catch {
            // The decoder does not say where on Linux.
            throw Self.mistake("it is no JSON5", advice: "Check its brackets, commas and quotes")
        }
        path = ""
    }

    private init(_ tree: PolicyTree, _ path: String) { (self.tree, self.path) = (tree, path) }

    static func mistake(_ why: String, advice: String = "Correct it; sc-checkpoint has not used any of it") -> CheckpointError {
        CheckpointError("the policy cannot be used", why: why, errno: EINVAL, advice: advice)
    }

    /// What is here is not what was expected.
    func mistake(_ expected: String) -> CheckpointError {
        Self.mistake("\(path.isEmpty ? "the document" : path) is \(tree.kind), and \(expected) is expected")
    }

    /// The members of an object that has no other keys than these.
    func object(_ known: [String]) throws(CheckpointError) -> [String: PolicyNode] {
        let members = try object()
        for key in members.keys.sorted() where !known.contains(key) {
            let place = path.isEmpty ? key : "\(path).\(key)"
            let nearest = nearestWord(to: key, among: known)
            throw Self.mistake(
                "there is no key \(place)", advice: nearest.map { "Did you mean \($0)?" } ?? "Known here: \(known.joined(separator: ", "))")
        }
        return members
    }

    /// The members of an object whose keys are names.
    func object() throws(CheckpointError) -> [String: PolicyNode] {
        guard case .object(let members) = tree else { throw mistake("an object") }
        return Dictionary(uniqueKeysWithValues: members.map { ($0, PolicyNode($1, path.isEmpty ? $0 : "\(path).\($0)")) })
    }

    func list() throws(CheckpointError) -> [PolicyNode] {
        guard case .list(let elements) = tree else { throw mistake("a list") }
        return elements.enumerated().map { PolicyNode($1, "\(path)[\($0)]") }
    }

    /// A text that is not empty and has no NUL, which would end it early in the kernel.
    func text(_ expected: String = "a text") throws(CheckpointError) -> String {
        guard case .text(let value) = tree, !value.isEmpty, !value.utf8.contains(0) else { throw mistake(expected) }
        return value
    }

    func texts(_ expected: String = "a text") throws(CheckpointError) -> [String] {
        try list().map { element throws(CheckpointError) in try element.text(expected) }
    }

    func number(in range: ClosedRange<Int>, _ what: String = "a number") throws(CheckpointError) -> Int {
        guard case .number(let value) = tree, let number = Int(exactly: value), range.contains(number) else {
            throw mistake("\(what) from \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }
}

/// The word that differs least from a mistyped one; nil when none is close.
func nearestWord(to word: String, among known: [String]) -> String? {
    let best = known.map { ($0, editDistance(Array(word.utf8), Array($0.utf8))) }.min { $0.1 < $1.1 }
    guard let best, best.1 <= max(2, word.utf8.count / 3) else { return nil }
    return best.0
}

/// Insertions, removals and replacements between two words.
private func editDistance(_ one: [UInt8], _ other: [UInt8]) -> Int {
    var row = Array(0...other.count)
    for (index, byte) in one.enumerated() {
        var diagonal = row[0]
        row[0] = index + 1
        for (column, second) in other.enumerated() {
            let replaced = diagonal + (byte == second ? 0 : 1)
            diagonal = row[column + 1]
            row[column + 1] = min(replaced, diagonal + 1, row[column] + 1)
        }
    }
    return row[other.count]
}
