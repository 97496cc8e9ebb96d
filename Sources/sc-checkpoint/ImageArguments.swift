// Which image a verb is about: a file, standard input, or one of an archive.

import ArgumentParser
import Glibc
import SCArchive
import SCEngine
import SCImage

/// Where `archive:ID` is looked for, and the key for sealed images.
struct ArchiveOptions: ParsableArguments {
    @Option(
        name: .long, help: ArgumentHelp("The archive's directory; without it $SC_ARCHIVE, or the system's (for a user: his own).", valueName: "DIR"))
    var archive: String?
    @Option(name: .long, help: ArgumentHelp("The secret key for sealed images.", valueName: "FILE")) var key: String?

    var path: String { archive ?? Archive.standardPath }

    func open() throws(CheckpointError) -> Archive { try Archive(path) }

    func secretKey() throws(CheckpointError) -> SecretKey? {
        guard let key else { return nil }
        return try SecretKey.load(key)
    }

    /// All sessions of `archive:ID`, or of the file with that name (`-`: standard input).
    func load(_ name: String) throws(CheckpointError) -> LoadedImage {
        guard name.hasPrefix("archive:") else {
            let (inventory, version, sessions) = try loadImage(name)
            return LoadedImage(inventory: inventory, version: version, sessions: sessions)
        }
        let archive = try open()
        let (entry, inventory, version, sessions) = try archive.load(archive.find(String(name.dropFirst(8))), key: secretKey())
        return LoadedImage(inventory: inventory, version: version, sessions: sessions, entry: entry)
    }
}

/// An image in memory.
struct LoadedImage {
    var inventory: Inventory
    var version: UInt16
    var sessions: [Session]
    /// What the archive knows of it.
    var entry: ArchiveEntry?
}

/// Which images of an archive are meant.
struct ArchiveFilterOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("Images of this service.", valueName: "NAME")) var service: [String] = []
    @Option(name: .long, help: ArgumentHelp("Images made on this host.", valueName: "NAME")) var host: [String] = []
    @Option(name: .long, help: ArgumentHelp("Images archived for this reason: manual, migration, refused or crash.", valueName: "REASON"))
    var reason: [String] = []
    @Option(name: .long, help: ArgumentHelp("Images with this tag.", valueName: "TAG")) var tag: [String] = []
    @Option(name: .long, help: ArgumentHelp("Images of sessions with this client.", valueName: "ADDR[:PORT]")) var peer: [String] = []
    @Option(name: .long, help: ArgumentHelp("Images of this session.", valueName: "ID")) var session: String?
    @Option(name: .long, help: ArgumentHelp("Images made since then: 2026-11-25, 2026-11-25T14:30 (UTC), or 12h, 7d ago.", valueName: "TIME"))
    var since: String?
    @Option(name: .long, help: ArgumentHelp("Images made until then.", valueName: "TIME")) var until: String?

    func filter() throws -> ArchiveFilter {
        var filter = ArchiveFilter()
        (filter.services, filter.hosts, filter.tags) = (Set(service), Set(host), Set(tag))
        filter.reasons = Set(try reason.map(archiveReason))
        filter.peers = try FilterOptions.filter(peer: peer, port: []).peers
        if let session {
            guard let bytes = bytes(hexadecimal: session), bytes.count == 16 else {
                throw CheckpointError(
                    "--session \(session) is no id of a session", why: "32 hexadecimal digits are expected", errno: EINVAL, outcome: .usage)
            }
            let halves = [bytes.prefix(8), bytes.suffix(8)].map { $0.reduce(UInt64(0)) { $0 << 8 | UInt64($1) } }
            filter.session = SessionID(high: halves[0], low: halves[1])
        }
        if let since { filter.since = try time(since, "--since") }
        if let until { filter.until = try time(until, "--until") }
        return filter
    }

    private func time(_ text: String, _ option: String) throws -> UInt64 {
        guard let time = pointInTime(text) else {
            throw CheckpointError(
                "\(option) \(text) is no point in time", why: "2026-11-25, 2026-11-25T14:30:00Z or an age such as 12h or 7d is expected",
                errno: EINVAL,
                outcome: .usage)
        }
        return time
    }
}

func archiveReason(_ text: String) throws -> ArchiveReason {
    guard let reason = ArchiveReason(name: text) else {
        throw CheckpointError(
            "there is no reason \(text)", why: "manual, migration, refused or crash is expected", errno: EINVAL, outcome: .usage)
    }
    return reason
}

/// Seconds since 1970 as `2026-11-25 14:30`, UTC.
func minuteText(_ seconds: UInt64) -> String {
    let text = timeText(seconds &* 1_000_000_000)
    return String(text.prefix(16))
}

/// Bytes for a person: `812`, `4.2K`, `1.3M`.
func sizeText(_ bytes: UInt64) -> String {
    var (value, unit) = (Double(bytes), "")
    for next in ["K", "M", "G", "T"] where value >= 1024 { (value, unit) = (value / 1024, next) }
    if unit.isEmpty { return String(bytes) }
    let tenths = Int((value * 10).rounded())
    return tenths >= 1000 ? "\(tenths / 10)\(unit)" : "\(tenths / 10).\(tenths % 10)\(unit)"
}
