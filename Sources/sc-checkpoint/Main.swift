import ArgumentParser
@main struct SCCheckpoint: ParsableCommand { static let configuration = CommandConfiguration(commandName: "sc-checkpoint") }
