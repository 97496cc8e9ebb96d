// Retention: which images go, by age, count and size, and how they go.

import Glibc
import SCEngine
import SCImage

/// What an archive may hold. Each bound is kept by itself, the oldest images go first.
package struct Retention: Equatable, Sendable {
    /// Seconds since the image was added.
    package var age: UInt64?
    package var count: Int?
    /// Bytes of the files.
    package var size: UInt64?
    /// Images with one of these tags stay, and count for nothing.
    package var keptTags: Set<String> = []

    package init() {}

    package var isEmpty: Bool { age == nil && count == nil && size == nil }

    /// Those of `entries` that have to go at time `now`, the oldest first.
    package func excess(_ entries: [ArchiveEntry], now: UInt64) -> [ArchiveEntry] {
        let oldestFirst = entries.filter { keptTags.isDisjoint(with: $0.tags) }.sorted {
            $0.addedAt != $1.addedAt ? $0.addedAt < $1.addedAt : $0.id.lexicographicallyPrecedes($1.id)
        }
        var left = oldestFirst.count
        var bytes = oldestFirst.reduce(UInt64(0)) { $0 + $1.bodyLength }
        var result: [ArchiveEntry] = []
        for entry in oldestFirst {
            let isTooOld = age.map { now > entry.addedAt && now - entry.addedAt > $0 } ?? false
            guard isTooOld || left > count ?? .max || bytes > size ?? .max else { continue }
            result.append(entry)
            left -= 1
            bytes -= entry.bodyLength
        }
        return result
    }
}

extension Archive {
    /// Removes what `retention` does not allow among the images that `filter` lets through; with `isRehearsal` only says which. What is removed is gone for
    /// good when this returns.
    package func prune(_ retention: Retention, among filter: ArchiveFilter, isRehearsal: Bool = false) throws(CheckpointError) -> [ArchiveEntry] {
        let excess = retention.excess(try list(filter).entries, now: UInt64(max(0, time(nil))))
        if isRehearsal { return excess }
        return try locked { () throws(CheckpointError) in
            Draft.sweep(self)
            var removed: [ArchiveEntry] = []
            for entry in excess {
                if unlinkat(images.raw, ImageName(entry).file, 0) == 0 {
                    removed.append(entry)
                } else if errno != ENOENT {
                    throw CheckpointError(
                        "cannot remove \(entry.name.prefix(12)) from the archive \(path)", result: Int(-errno), advice: writeAdvice(errno))
                }
            }
            if fsync(images.raw) != 0 { throw CheckpointError("cannot write to the archive \(path)", result: Int(-errno)) }
            return removed
        }
    }
}
