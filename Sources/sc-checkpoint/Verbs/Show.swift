// `show` and `verify`: an image for a person.

import ArgumentParser
import Glibc
import SCEngine
import SCImage

struct Show: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows an image: sessions, channels, states, queues.",
        discussion: """
            EXAMPLE
              sc-checkpoint show session.sci --data
              sc-checkpoint show session.sci --extract 0:out -o queue.bin
              sc-checkpoint show session.sci --pcap session.pcapng --html session.html
            """)

    @Argument(help: "The image; - is standard input, archive:ID one of the archive.") var image: String
    @OptionGroup var look: LookOptions
    @OptionGroup var archive: ArchiveOptions

    func run() throws { try look.show(archive.load(image)) }
}

struct Verify: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Checks an image: structure, lengths, checksums.", discussion: "EXAMPLE\n  sc-checkpoint verify session.sci")

    @Argument(help: "The image; - is standard input.") var image: String
    @Flag(name: .long, help: "One JSON document.") var json = false

    private struct Document: Encodable {
        var valid: Bool
        var format_version: UInt16
        var sessions: Int
    }

    func run() throws {
        let (_, version, sessions) = try loadImage(image)
        if json {
            Terminal.json(Document(valid: true, format_version: version, sessions: sessions.count))
        } else {
            Terminal.print("\(image): format \(version), \(sessions.count) session\(sessions.count == 1 ? "" : "s"), intact")
        }
    }
}
