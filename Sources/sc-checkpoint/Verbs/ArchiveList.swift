// `archive list`: what the archive has.

import ArgumentParser
import SCArchive
import SCEngine
import SCImage

struct ArchiveList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Lists the images of the archive, the oldest first.",
        discussion: """
            An image has to match every option that is given, by any of its values. The clients of a sealed image are sealed as well, so --peer leaves it out.

            EXAMPLE
              sc-checkpoint archive list --reason refused --reason migration --since 7d
              sc-checkpoint archive list --peer 192.0.2.7 --json
            """)

    @OptionGroup var filters: ArchiveFilterOptions
    @OptionGroup var archive: ArchiveOptions
    @Flag(name: .long, help: "One JSON document.") var json = false

    private struct Document: Encodable {
        var archive: String
        var images: [ArchiveEntryJSON]
        var unreadable: [String]
    }

    func run() throws {
        let filter = try filters.filter()
        let (entries, unreadable) = try archive.open().list(filter)
        if json {
            Terminal.json(
                Document(archive: archive.path, images: entries.map(ArchiveEntryJSON.init), unreadable: unreadable.map(\.why.description)))
        } else {
            printEntries(entries)
        }
        tellUnreadable(unreadable)
    }
}
