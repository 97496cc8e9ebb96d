// `archive add`: puts images into the archive.

import ArgumentParser
import Glibc
import SCArchive
import SCEngine
import SCImage

struct ArchiveAdd: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "add",
        abstract: "Adds images to the archive; makes the archive if there is none.",
        discussion: """
            An image is checked to its end before it is kept. The same image is kept once.

            EXAMPLE
              sc-checkpoint archive add session.sci --note "hangs after login" --tag bug-812
              sc-checkpoint archive add session.sci --seal-to /etc/sc-checkpoint/archive.pub
            """)

    @Argument(help: "The images; - is standard input.") var images: [String]
    @Option(name: .long, help: ArgumentHelp("The archive's directory; without it $SC_ARCHIVE, or the system's (for a user: his own).", valueName: "DIR"))
    var archive: String?
    @Option(name: .long, help: ArgumentHelp("A remark, at most 4,096 bytes.", valueName: "TEXT")) var note = ""
    @Option(name: .long, help: ArgumentHelp("A word to find it by; may be given more than once.", valueName: "TAG")) var tag: [String] = []
    @Option(name: .long, help: ArgumentHelp("The service; without it the name of the server's program.", valueName: "NAME")) var service = ""
    @Option(name: .long, help: ArgumentHelp("Why: manual, migration, refused or crash.", valueName: "REASON")) var reason = "manual"
    @Flag(name: .long, help: "Keep structure and lengths, and zeros for the bytes of queues and state.") var redact = false
    @Option(name: .long, help: ArgumentHelp("Seal it to this public key: its text, or a file with some.", valueName: "KEY|FILE")) var sealTo: [String] = []
    @Option(name: .long, help: ArgumentHelp("Zstandard's level, 1 to 19.", valueName: "N")) var level: Int32 = 3
    @Flag(name: .long, help: "One JSON document.") var json = false

    private struct Document: Encodable {
        var archive: String
        var added: [ArchiveEntryJSON]
    }

    func run() throws {
        var details = Archive.Details()
        (details.note, details.tags, details.service, details.isRedacted) = (note, tag, service, redact)
        details.reason = try archiveReason(reason)
        details.recipients = try PublicKey.list(sealTo)
        guard (1...19).contains(level) else {
            throw CheckpointError("--level \(level) is not possible", why: "1 to 19 is expected", errno: EINVAL, outcome: .usage)
        }
        details.level = level
        let path = archive ?? Archive.standardPath
        // What cannot be read is told of before an archive is made for it.
        let files = try images.map { name in try Self.open(name) }
        let archive = try Archive(path, creating: true)
        var added: [ArchiveEntry] = []
        for (name, file) in zip(images, files) {
            let entry = try archive.add(DescriptorSource(file.raw, operation: "reading the image"), details, from: name)
            added.append(entry)
            if !json {
                Terminal.print("\(entry.name.prefix(12))  \(sizeText(entry.imageLength)) in \(sizeText(entry.bodyLength))  \(Terminal.clean(name))")
            }
        }
        if json { Terminal.json(Document(archive: path, added: added.map(ArchiveEntryJSON.init))) }
    }

    private static func open(_ name: String) throws(CheckpointError) -> SharedDescriptor {
        let raw = name == "-" ? dup(0) : Glibc.open(name, O_RDONLY | O_CLOEXEC)
        guard raw >= 0 else { throw CheckpointError("cannot open the image \(name)", result: Int(-errno)) }
        return SharedDescriptor(raw)
    }
}
