// `check`: what this kernel and this user can do.

import ArgumentParser
import SCEngine

struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Says what this kernel and this user can do, and what a missing feature blocks.",
        discussion: "EXAMPLE\n  sc-checkpoint check --json")

    @Flag(name: .long, help: "One JSON document.") var json = false

    private struct Document: Encodable {
        struct Row: Encodable {
            var feature: String
            var available: Bool
            var required: Bool
            var blocks, remedy: String
        }
        var ready: Bool
        var features: [Row]
    }

    func run() throws {
        let features = probeFeatures()
        let isReady = features.allSatisfy { $0.isAvailable || !$0.isRequired }
        if json {
            Terminal.json(
                Document(
                    ready: isReady,
                    features: features.map {
                        .init(feature: $0.name, available: $0.isAvailable, required: $0.isRequired, blocks: $0.blocks, remedy: $0.remedy)
                    }))
        } else {
            Terminal.table(
                ["FEATURE", "", "WITHOUT IT", "HOW TO GET IT"],
                features.map { [$0.name, $0.isAvailable ? "yes" : "NO", $0.isAvailable ? "" : $0.blocks, $0.isAvailable ? "" : $0.remedy] })
        }
        guard isReady else {
            throw CheckpointError(
                "this host cannot move sessions", why: "a required feature is missing", advice: "See the rows marked NO")
        }
    }
}
