// The messages of etcd's JSON gateway (v3): 64-bit numbers are texts, keys and values base64.

import FoundationEssentials

struct EtcdTransaction: Encodable {
    var compare: [EtcdCompare] = []
    var success: [EtcdOperation] = []
    var failure: [EtcdOperation] = []
}

struct EtcdCompare: Encodable {
    var key: String
    var target: String
    var result = "EQUAL"
    var create_revision, mod_revision, value: String?

    /// Nobody has made the key.
    static func isAbsent(_ key: String) -> EtcdCompare { EtcdCompare(key: base64(key), target: "CREATE", create_revision: "0") }
    /// Nobody has touched it since.
    static func isUnchanged(_ key: String, since revision: String) -> EtcdCompare {
        EtcdCompare(key: base64(key), target: "MOD", mod_revision: revision)
    }
    static func has(_ key: String, _ value: String) -> EtcdCompare { EtcdCompare(key: base64(key), target: "VALUE", value: base64(value)) }
}

struct EtcdOperation: Encodable {
    struct Key: Encodable { var key: String }
    struct Put: Encodable {
        var key, value: String
        var lease: String?
    }
    var request_range: Key?
    var request_put: Put?
    var request_delete_range: Key?
    var request_txn: EtcdTransaction?

    static func read(_ key: String) -> EtcdOperation { EtcdOperation(request_range: Key(key: base64(key))) }
    static func put(_ key: String, _ value: String, lease: String? = nil) -> EtcdOperation {
        EtcdOperation(request_put: Put(key: base64(key), value: base64(value), lease: lease))
    }
    static func delete(_ key: String) -> EtcdOperation { EtcdOperation(request_delete_range: Key(key: base64(key))) }
    /// This only under that condition, whatever becomes of the others.
    static func when(_ condition: EtcdCompare, _ operation: EtcdOperation) -> EtcdOperation {
        EtcdOperation(request_txn: EtcdTransaction(compare: [condition], success: [operation]))
    }
}

struct EtcdResult: Decodable {
    struct Pair: Decodable {
        var key, value: String?
        var mod_revision: String?
        var lease: String?
    }
    struct Response: Decodable { var response_range: Range? }
    struct Range: Decodable { var kvs: [Pair]? }
    var succeeded: Bool?
    var responses: [Response]?

    /// What the read at this place found; nil: no such key.
    func found(_ index: Int) -> Pair? {
        guard let responses, responses.indices.contains(index) else { return nil }
        return responses[index].response_range?.kvs?.first
    }
}

struct EtcdLease: Codable {
    var ID: String?
    var TTL: String?
}

/// The gateway gives a stream's messages this frame.
struct EtcdKeptAlive: Decodable { var result: EtcdLease? }

/// A session's record: who has it, by which migration.
struct FenceRecord: Codable, Equatable {
    var owner: String
    var migration: String

    var text: String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return (try? encoder.encode(self)).map { String(decoding: $0, as: UTF8.self) } ?? ""
    }

    init(owner: String, migration: String) { (self.owner, self.migration) = (owner, migration) }

    init?(base64 text: String?) {
        guard let data = Data(base64Encoded: text ?? ""), let record = try? JSONDecoder().decode(Self.self, from: data) else { return nil }
        self = record
    }
}

private func base64(_ text: String) -> String { Data(text.utf8).base64EncodedString() }
