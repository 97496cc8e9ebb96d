// `archive`: images kept for debugging.

import ArgumentParser

struct ArchiveVerb: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "archive",
        abstract: "Keeps images for debugging: a directory of compressed images, named by their content.",
        discussion: """
            EXAMPLE
              sc-checkpoint snapshot 812 --peer 192.0.2.7:40112 -o - | sc-checkpoint archive add - --note "answers twice"
              sc-checkpoint archive list --service nginx --since 2d
              sc-checkpoint archive show 3fa9
            """,
        subcommands: [
            ArchiveAdd.self, ArchiveList.self, ArchiveShow.self, ArchiveGet.self, ArchivePrune.self, ArchiveVerify.self, ArchiveKey.self,
        ])
}
