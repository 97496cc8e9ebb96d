// `archive prune`: retention.

import ArgumentParser
import Glibc
import SCArchive
import SCEngine
import SCImage

struct ArchivePrune: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "prune",
        abstract: "Removes images beyond an age, a count or a size, the oldest first.",
        discussion: """
            EXAMPLE
              sc-checkpoint archive prune --max-age 30d --max-count 1000 --max-size 10G --keep-tag open
              sc-checkpoint archive prune --reason refused --max-age 2d --dry-run
            """)

    @Option(name: .long, help: ArgumentHelp("Images added longer ago go.", valueName: "AGE")) var maxAge: String?
    @Option(name: .long, help: ArgumentHelp("So many images may stay.", valueName: "N")) var maxCount: Int?
    @Option(name: .long, help: ArgumentHelp("So many bytes of files may stay.", valueName: "SIZE")) var maxSize: String?
    @Option(name: .long, help: ArgumentHelp("Images with this tag stay, and are not counted.", valueName: "TAG")) var keepTag: [String] = []
    @OptionGroup var filters: ArchiveFilterOptions
    @OptionGroup var archive: ArchiveOptions
    @Flag(name: .long, help: "Only say what would go.") var dryRun = false
    @Flag(name: .long, help: "One JSON document.") var json = false

    private struct Document: Encodable {
        var removed: [String]
        var bytes: UInt64
        var dry_run: Bool
    }

    func run() throws {
        var retention = Retention()
        retention.age = try maxAge.map { try number($0, "--max-age", "an age such as 12h or 30d", ageInSeconds) }
        retention.size = try maxSize.map { try number($0, "--max-size", "a size such as 500M or 10G", sizeInBytes) }
        (retention.count, retention.keptTags) = (maxCount, Set(keepTag))
        guard !retention.isEmpty, maxCount ?? 0 >= 0 else {
            throw CheckpointError(
                "say what may stay", why: "none of --max-age, --max-count and --max-size was given", errno: EINVAL,
                advice: "For example --max-age 30d", outcome: .usage)
        }
        let removed = try archive.open().prune(retention, among: filters.filter(), isRehearsal: dryRun)
        let bytes = removed.reduce(UInt64(0)) { $0 + $1.bodyLength }
        if json { return Terminal.json(Document(removed: removed.map(\.name), bytes: bytes, dry_run: dryRun)) }
        if dryRun { printEntries(removed) }
        Terminal.print("\(dryRun ? "would remove" : "removed") \(removed.count) image\(removed.count == 1 ? "" : "s"), \(sizeText(bytes))")
    }

    private func number(_ text: String, _ option: String, _ expected: String, _ parse: (String) -> UInt64?) throws -> UInt64 {
        if let value = parse(text) { return value }
        throw CheckpointError("\(option) \(text) is not understood", why: "\(expected) is expected", errno: EINVAL, outcome: .usage)
    }
}
