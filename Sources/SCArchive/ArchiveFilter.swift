// Which images of an archive are meant.

import Glibc
import SCEngine
import SCImage

/// An image has to pass every kind that is given, by any of its values.
package struct ArchiveFilter: Sendable {
    package var services: Set<String> = []
    package var hosts: Set<String> = []
    package var reasons: Set<ArchiveReason> = []
    package var tags: Set<String> = []
    package var peers: [PeerFilter] = []
    package var session: SessionID?
    /// When the image was made, or added if that is not known: seconds since 1970, both ends included.
    package var since: UInt64 = 0
    package var until: UInt64 = .max

    package init() {}

    /// A sealed image has no clients to be seen, so with `peers` it is not matched.
    package func matches(_ entry: ArchiveEntry) -> Bool {
        if !services.isEmpty, !services.contains(entry.service) { return false }
        if !hosts.isEmpty, !hosts.contains(entry.inventory.host) { return false }
        if !reasons.isEmpty, !reasons.contains(entry.reason) { return false }
        if !tags.isEmpty, tags.isDisjoint(with: entry.tags) { return false }
        guard (since...until).contains(entry.time) else { return false }
        if let session, !(0..<entry.sessionIDCount).contains(where: { entry.session($0) == session }) { return false }
        return peers.isEmpty || matchesPeer(entry)
    }

    private func matchesPeer(_ entry: ArchiveEntry) -> Bool {
        for peer in peers {
            let key = FlowKey.bytes(SocketAddress(peer.address, port: peer.port ?? 0))
            let length = peer.port == nil ? 16 : 18
            for start in stride(from: 0, to: entry.flows.count, by: FlowKey.size)
            where entry.flows[start..<start + length].elementsEqual(key[..<length]) { return true }
        }
        // What was left out may be it.
        return entry.flowsLeftOut > 0
    }
}

extension ArchiveEntry {
    /// When the image was made; when it was added, if it does not say.
    package var time: UInt64 { inventory.createdAt == 0 ? addedAt : inventory.createdAt }
}

extension Archive {
    /// The entries that a filter lets through, the oldest first, and what could not be read.
    package func list(_ filter: ArchiveFilter) throws(CheckpointError) -> (
        entries: [ArchiveEntry], unreadable: [(name: ImageName, why: CheckpointError)]
    ) {
        var entries: [ArchiveEntry] = []
        let unreadable = try forEach { if filter.matches($0) { entries.append($0) } }
        entries.sort { one, other in
            (one.time, one.addedAt) != (other.time, other.addedAt)
                ? (one.time, one.addedAt) < (other.time, other.addedAt) : one.id.lexicographicallyPrecedes(other.id)
        }
        return (entries, unreadable)
    }
}

/// A point in time as a user writes it: `2026-11-25`, `2026-11-25T14:30:00Z` (UTC), or how long ago, as in `90s`, `30m`, `12h`, `7d`, `4w`.
package func pointInTime(_ text: String, now: UInt64 = UInt64(max(0, time(nil)))) -> UInt64? {
    if let age = ageInSeconds(text) { return now > age ? now - age : 0 }
    let numbers = text.split(whereSeparator: { "-T:Z ".contains($0) }).map { Int32($0) }
    guard [3, 5, 6].contains(numbers.count), !numbers.contains(nil), text.first?.isNumber == true else { return nil }
    let values = numbers.map { $0! } + Array(repeating: 0, count: 6 - numbers.count)
    guard values[0] >= 1970, (1...12).contains(values[1]), (1...31).contains(values[2]), (0...23).contains(values[3]), (0...59).contains(values[4]),
        (0...60).contains(values[5])
    else { return nil }
    var parts = tm()
    (parts.tm_year, parts.tm_mon, parts.tm_mday) = (values[0] - 1900, values[1] - 1, values[2])
    (parts.tm_hour, parts.tm_min, parts.tm_sec) = (values[3], values[4], values[5])
    let seconds = timegm(&parts)
    return seconds < 0 ? nil : UInt64(seconds)
}

/// `90s`, `30m`, `12h`, `7d`, `4w`, `1y` in seconds.
package func ageInSeconds(_ text: String) -> UInt64? {
    let units: [Character: UInt64] = ["s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000]
    guard let unit = text.last.flatMap({ units[$0] }), let number = UInt64(text.dropLast()) else { return nil }
    let (seconds, isTooLong) = number.multipliedReportingOverflow(by: unit)
    return isTooLong ? nil : seconds
}

/// `500`, `64K`, `20M`, `10G`, `1T` in bytes, by 1024.
package func sizeInBytes(_ text: String) -> UInt64? {
    let units: [Character: UInt64] = ["K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40]
    guard let unit = text.last.flatMap({ units[$0] }) else { return UInt64(text) }
    guard let number = UInt64(text.dropLast()) else { return nil }
    let (bytes, isTooLong) = number.multipliedReportingOverflow(by: unit)
    return isTooLong ? nil : bytes
}
