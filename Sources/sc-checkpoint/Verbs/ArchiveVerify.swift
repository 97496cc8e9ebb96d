// `archive verify`: reads everything and names what is damaged.

import ArgumentParser
import Glibc
import SCArchive
import SCEngine
import SCImage

struct ArchiveVerify: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Reads every image of the archive to its end and names what is damaged.",
        discussion: """
            Of a sealed image the outside is checked: its bytes are those that were written. With --key the inside as well.

            EXAMPLE
              sc-checkpoint archive verify --key /root/archive.key
            """)

    @OptionGroup var archive: ArchiveOptions
    @Flag(name: .long, help: "One JSON document.") var json = false

    private struct Document: Encodable {
        struct Problem: Encodable { var file, why, error: String }
        var valid: Bool
        var images, unopened, vanished, unfinished: Int
        var bytes: UInt64
        var damaged: [Problem]
        var foreign: [String]
    }

    func run() throws {
        let key = try archive.secretKey()
        let findings = try archive.open().verify(key: key) { done, count in
            if done % 100 == 0 { Terminal.progress("\(done) of \(count) images") }
        }
        Terminal.clearProgress()
        if json {
            Terminal.json(
                Document(
                    valid: findings.problems.isEmpty, images: findings.images, unopened: findings.unopened, vanished: findings.vanished,
                    unfinished: findings.drafts, bytes: findings.bytes,
                    damaged: findings.problems.map { .init(file: $0.file, why: $0.why, error: $0.errno == 0 ? "" : systemName($0.errno)) },
                    foreign: findings.foreign))
        } else {
            tell(findings)
        }
        guard findings.problems.isEmpty else {
            let count = findings.problems.count
            throw CheckpointError(
                "\(count) image\(count == 1 ? "" : "s") of \(archive.path) cannot be relied on", why: "the first is \(findings.problems[0].file)",
                errno: EBADMSG, advice: "Put them back from a copy, or remove their files below images/; the others are good")
        }
    }

    private func tell(_ findings: ArchiveFindings) {
        for problem in findings.problems { Terminal.print("DAMAGED  \(problem.file): \(Terminal.clean(problem.why))") }
        for name in findings.foreign { Terminal.print("FOREIGN  \(Terminal.clean(name)): not a file of this archive; it is left alone") }
        var words = ["\(findings.images) image\(findings.images == 1 ? "" : "s") intact, \(sizeText(findings.bytes)) read"]
        if findings.unopened > 0 { words.append("\(findings.unopened) sealed, checked from the outside only") }
        if findings.vanished > 0 { words.append("\(findings.vanished) removed meanwhile") }
        if findings.drafts > 0 { words.append("\(findings.drafts) unfinished (the next add or prune removes it if its writer died)") }
        Terminal.print(words.joined(separator: "; "))
    }
}
