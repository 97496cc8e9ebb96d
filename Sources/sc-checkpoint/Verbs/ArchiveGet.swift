// `archive get`: an archived image as a file again.

import ArgumentParser
import SCArchive
import SCEngine

struct ArchiveGet: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "get",
        abstract: "Writes an archived image to a file, as it was before; nothing stays behind of one that is damaged.",
        discussion: "EXAMPLE\n  sc-checkpoint archive get 3fa9 -o session.sci")

    @Argument(help: "The first digits of the image's id.") var id: String
    @Option(name: [.short, .long], help: ArgumentHelp("The file; - is standard output.", valueName: "FILE")) var output: String
    @Flag(name: .long, help: "Zeros for the bytes of queues and state.") var redact = false
    @OptionGroup var archive: ArchiveOptions

    func run() throws {
        let archive = try self.archive.open()
        let name = try archive.find(id)
        try archive.extract(name, to: output, key: self.archive.secretKey(), isRedacted: redact)
        if output != "-" { Terminal.print("wrote \(name.id.prefix(12)) to \(output)") }
    }
}
