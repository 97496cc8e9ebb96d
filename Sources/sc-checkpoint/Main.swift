// The command: finds the verb, runs it, and turns what went wrong into one line and an exit status.

import ArgumentParser
import Glibc
import SCAgent
import SCEngine

struct SCCheckpoint: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sc-checkpoint",
        abstract: "Moves one live session of a running server: its TCP connection and the state around it.",
        discussion: """
            EXAMPLE
              sc-checkpoint inspect $(pidof nginx)
              sc-checkpoint migrate $(pidof nginx) --peer 192.0.2.7:40112 --to root@hostb --onto 812 --adapter http

            Exit status: 0 done; 1 refused or failed, nothing has changed; 2 wrong usage; 3 failed, and something is left to recover.
            """,
        version: toolVersion,
        subcommands: [
            Check.self, Inspect.self, Snapshot.self, Restore.self, Migrate.self, DrainVerb.self, Release.self, Resume.self, Receive.self,
            Recover.self, Show.self, Verify.self, Diff.self, ArchiveVerb.self, Sessions.self, Services.self, Peers.self, AgentVerb.self, TLSEnd.self,
            SteerRouter.self,
        ])
}

@main
struct Main {
    static func main() {
        signal(SIGPIPE, SIG_IGN)
        PeerLink.connectTLS = { peer, timeout throws(CheckpointError) in try connectPeer(peer, store: PeerStore(), timeout: timeout).link }
        // An agent runs commands in its own directory on behalf of others.
        if let directory = getenv("SC_WORKING_DIRECTORY") { chdir(directory) }
        do {
            var command = try SCCheckpoint.parseAsRoot()
            try command.run()
        } catch let error as CheckpointError {
            Terminal.error(error.description)
            exit(error.outcome.rawValue)
        } catch {
            // ArgumentParser's own: --help and --version are no failures; everything else is wrong usage.
            let isFailure = SCCheckpoint.exitCode(for: error) != .success
            guard isFailure else { return Terminal.write(SCCheckpoint.fullMessage(for: error) + "\n", to: 1) }
            let usage = CheckpointError(
                "the command line cannot be understood", why: SCCheckpoint.message(for: error), errno: EINVAL,
                advice: "Try sc-checkpoint --help, or --help after the verb", outcome: .usage)
            Terminal.error(usage.description)
            exit(usage.outcome.rawValue)
        }
    }
}
