// `release` and `resume`: the two ends of a `snapshot --take`.

import ArgumentParser
import SCEngine
import SCImage

struct Release: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Lets the sessions that snapshot --take holds go for good: they live elsewhere now.",
        discussion: "The source's server sees aborted clients; nothing goes on the wire.\n\nEXAMPLE\n  sc-checkpoint release session.sci")

    @Argument(help: "The image that snapshot --take wrote.") var image: String
    @Flag(name: .long, help: "One JSON document.") var json = false

    func run() throws { try endHolds(image, back: false, json: json) }
}

struct Resume: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Gives the sessions that snapshot --take holds back to their process.",
        discussion: "EXAMPLE\n  sc-checkpoint resume session.sci")

    @Argument(help: "The image that snapshot --take wrote.") var image: String
    @Flag(name: .long, help: "One JSON document.") var json = false

    func run() throws { try endHolds(image, back: true, json: json) }
}

private struct HoldDocument: Encodable {
    var released, resumed: [String]
}

private func endHolds(_ image: String, back: Bool, json: Bool) throws {
    let sessions = try loadImage(image).sessions
    // All or nothing is found before the first one is touched.
    let records = try sessions.map { try HoldRecord.load($0.id) }
    var failure: CheckpointError?
    var done: [String] = []
    for record in records {
        do {
            try Take.end(record, back: back)
            done.append(record.id.description)
        } catch {
            failure = failure ?? error
        }
    }
    if json {
        Terminal.json(HoldDocument(released: back ? [] : done, resumed: back ? done : []))
    } else if !done.isEmpty {
        Terminal.print("\(back ? "gave back" : "released") \(done.count) session\(done.count == 1 ? "" : "s")")
    }
    if let failure { throw failure }
}
