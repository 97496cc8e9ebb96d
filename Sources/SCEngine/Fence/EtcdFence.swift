// A fence in etcd: a record for each session, taken for all sessions of a move in one transaction.

import Glibc
import SCImage

/// `PREFIX/KEY` holds `{"owner":HOST,"migration":ID}`. During a move it hangs on a lease, so that a target that dies frees it; afterwards it stays without.
/// One transaction compares what `prepare` has read with what is there and writes all records, so `take` is one round trip on an open connection.
package final class EtcdFence: Fence {
    /// etcd refuses longer transactions unless told otherwise (--max-txn-ops).
    private static let longest = 128
    private let client: EtcdClient
    private let limit: Int
    private let lifetime: Int
    private let prefix: String
    private var held: [Held] = []
    private var record = FenceRecord(owner: "", migration: "")
    private var lease: String?
    private var keeper: LeaseKeeper?

    private struct Held {
        var key: String
        /// As it was before; nil: there was no record.
        var former: (value: FenceRecord, revision: String)?
    }

    /// `limit`: milliseconds for each answer. `lifetime`: seconds until the records of a target that died are free.
    package init(_ address: EtcdAddress, limit: Int = 2000, lifetime: Int = 30) throws(CheckpointError) {
        (self.limit, self.lifetime, prefix) = (limit, lifetime, address.prefix)
        client = try EtcdClient(address, limit: limit)
    }

    deinit { keeper?.stop() }

    package func prepare(_ keys: [String], owner: String, source: String) throws(CheckpointError) {
        endLease()
        record = FenceRecord(owner: owner, migration: SessionID.random().description)
        // Two targets of the same sessions meet at the first of them, and not each in the middle of the other's.
        held = Set(keys).sorted().map { Held(key: "\(prefix)/\($0)") }
        for range in chunks(Self.longest) {
            let answer = try transaction(EtcdTransaction(success: held[range].map { .read($0.key) }))
            for (index, place) in range.enumerated() {
                guard let pair = answer.found(index), let revision = pair.mod_revision else { continue }
                guard let former = FenceRecord(base64: pair.value) else {
                    throw refusal(
                        held[place].key, "it is no record of sc-checkpoint", EBADMSG, "Choose another prefix, or remove it with etcdctl del")
                }
                guard pair.lease ?? "0" == "0" else { throw busy(held[place].key, former, "another move to \(former.owner) is under way") }
                guard [source, owner].contains(former.owner) else { throw busy(held[place].key, former, "\(former.owner) has it, not \(source)") }
                held[place].former = (former, revision)
            }
        }
        lease = try client.post("lease/grant", EtcdLease(TTL: String(lifetime)), as: EtcdLease.self).ID
        guard let lease else { throw refusal(prefix, "etcd gave no lease", EPROTO, "") }
        keeper = try LeaseKeeper(lease, EtcdClient(client.address, limit: limit), every: lifetime * 1000 / 3)
    }

    package func withdraw(_ keys: [String]) {
        let gone = Set(keys.map { "\(prefix)/\($0)" })
        held.removeAll { gone.contains($0.key) }
    }

    package func take() throws(CheckpointError) {
        guard let lease else { throw refusal(prefix, "it was not prepared", EINVAL, "") }
        for range in chunks(Self.longest) {
            let chunk = held[range]
            let answer = try transaction(
                EtcdTransaction(
                    compare: chunk.map { entry in entry.former.map { .isUnchanged(entry.key, since: $0.revision) } ?? .isAbsent(entry.key) },
                    success: chunk.map { .put($0.key, record.text, lease: lease) }, failure: chunk.map { .read($0.key) }))
            if answer.succeeded != true { try requireOwn(answer, range) }
        }
    }

    /// The comparison failed. Only if every record is this very migration's it was our own request, sent again after a lost answer.
    private func requireOwn(_ answer: EtcdResult, _ range: Range<Int>) throws(CheckpointError) {
        let found = range.indices.map { FenceRecord(base64: answer.found($0 - range.lowerBound)?.value) }
        if found.allSatisfy({ $0 == record }) { return }
        for (place, now) in zip(range, found) where now != record && now != held[place].former?.value {
            throw busy(held[place].key, now ?? record, now.map { "\($0.owner) has taken it" } ?? "its record was removed meanwhile")
        }
        throw busy(held[range.lowerBound].key, record, "its record was written meanwhile")
    }

    package func settle() throws(CheckpointError) {
        for range in chunks(Self.longest) {
            let answer = try transaction(
                EtcdTransaction(compare: held[range].map { .has($0.key, record.text) }, success: held[range].map { .put($0.key, record.text) }))
            guard answer.succeeded == true else {
                throw CheckpointError(
                    "the fence was lost", why: "the records did not last until the sessions were active", errno: ESTALE,
                    advice: "Look at them: etcdctl get --prefix \(prefix)/", outcome: .needsRecovery)
            }
        }
        endLease()
    }

    package func undo() {
        // Not only what is known to be taken: an answer may have been lost on its way.
        for range in chunks(Self.longest / 2) {
            let operations = held[range].map { entry in
                EtcdOperation.when(.has(entry.key, record.text), entry.former.map { .put(entry.key, $0.value.text) } ?? .delete(entry.key))
            }
            // What cannot be undone now ends with the lease.
            _ = try? transaction(EtcdTransaction(success: operations))
        }
        endLease()
    }

    package func release(_ keys: [String], owner: String) throws(CheckpointError) {
        let names = Set(keys).sorted().map { "\(prefix)/\($0)" }
        for start in stride(from: 0, to: names.count, by: Self.longest / 2) {
            let chunk = names[start..<min(names.count, start + Self.longest / 2)]
            let answer = try transaction(EtcdTransaction(success: chunk.map { .read($0) }))
            var operations: [EtcdOperation] = []
            for (index, key) in chunk.enumerated() {
                // Somebody who has taken it since is left alone.
                guard let pair = answer.found(index), let revision = pair.mod_revision, FenceRecord(base64: pair.value)?.owner == owner else {
                    continue
                }
                operations.append(.when(.isUnchanged(key, since: revision), .delete(key)))
            }
            if !operations.isEmpty { _ = try transaction(EtcdTransaction(success: operations)) }
        }
    }

    private func endLease() {
        keeper?.stop()
        keeper = nil
        if let lease { _ = try? client.post("lease/revoke", EtcdLease(ID: lease), as: EtcdResult.self) }
        lease = nil
    }

    private func transaction(_ transaction: EtcdTransaction) throws(CheckpointError) -> EtcdResult {
        try client.post("kv/txn", transaction, as: EtcdResult.self)
    }

    private func chunks(_ length: Int) -> [Range<Int>] {
        stride(from: 0, to: held.count, by: length).map { $0..<min(held.count, $0 + length) }
    }

    private func busy(_ key: String, _ record: FenceRecord, _ why: String) -> CheckpointError {
        refusal(key, why, EBUSY, "The record is of migration \(record.migration): etcdctl get \(key)")
    }

    private func refusal(_ key: String, _ why: String, _ errno: Int32, _ advice: String) -> CheckpointError {
        CheckpointError("the fence does not give \(key) to \(record.owner)", why: why, errno: errno, advice: advice)
    }
}
