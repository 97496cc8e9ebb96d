// `archive show`: one image of the archive for a person.

import ArgumentParser
import SCArchive
import SCEngine
import SCImage

struct ArchiveShow: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Shows an archived image, as show does with a file.",
        discussion: """
            EXAMPLE
              sc-checkpoint archive show 3fa9 --data
              sc-checkpoint archive show 3fa9 --html image.html
            """)

    @Argument(help: "The first digits of the image's id.") var id: String
    @OptionGroup var look: LookOptions
    @OptionGroup var archive: ArchiveOptions

    func run() throws { try look.show(archive.load("archive:\(id)")) }
}
