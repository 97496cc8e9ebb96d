// `restore --replay`: its options, and what it says.

import ArgumentParser
import Glibc
import SCEngine
import SCImage

struct ReplayOptions: ParsableArguments {
    @Flag(name: .long, help: "Give the receive queue to a fresh server, --replay -- CMD ARGS, and write its answer to standard output.") var replay =
        false
    @Option(name: .long, help: ArgumentHelp("With --replay: the session's number in the image, from 0.", valueName: "N")) var session = 0
    @Option(name: .long, help: ArgumentHelp("With --replay: where the fresh server listens, if not where the old one did.", valueName: "PORT"))
    var port: UInt16?
    @Option(name: .long, help: ArgumentHelp("With --replay: bytes to send first, such as a login.", valueName: "FILE")) var before: String?
    @Option(name: .long, help: ArgumentHelp("With --replay: milliseconds without a byte after which the answer is over.", valueName: "MS"))
    var patience = 1000

    private struct Document: Encodable {
        var sent, answer_bytes: Int
        var answer_sha256, end: String
        /// Null while the server's first process lived.
        var exit_status, signal: Int32?

        private enum CodingKeys: CodingKey { case sent, answer_bytes, answer_sha256, end, exit_status, signal }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(sent, forKey: .sent)
            try container.encode(answer_bytes, forKey: .answer_bytes)
            try container.encode(answer_sha256, forKey: .answer_sha256)
            try container.encode(end, forKey: .end)
            try container.encode(exit_status, forKey: .exit_status)
            try container.encode(signal, forKey: .signal)
        }
    }

    func run(_ sessions: [Session], _ handover: HandoverOptions, json: Bool) throws {
        guard !handover.command.isEmpty else {
            throw CheckpointError(
                "--replay needs a command", why: "none was given", errno: EINVAL, advice: "Write it last: --replay -- CMD ARGS", outcome: .usage)
        }
        guard sessions.indices.contains(session), let channel = sessions[session].channels.first else {
            throw CheckpointError(
                "there is no session \(session) to replay", why: "the image has \(sessions.count), from 0, and one with a TCP connection is needed",
                errno: EINVAL, advice: "Look at it with sc-checkpoint show", outcome: .usage)
        }
        let first = try readState(before)
        guard !(first + channel.receiveQueue).isEmpty else {
            throw CheckpointError(
                "there is nothing to replay", why: "the receive queue is empty: the server had read everything", errno: ENODATA,
                advice: "Take the snapshot while a request waits, or give the bytes with --before FILE")
        }
        if channel.receiveQueue.allSatisfy({ $0 == 0 }), !channel.receiveQueue.isEmpty {
            Terminal.note("the receive queue holds nothing but zeros: the image was redacted")
        }
        let outcome = try Replay(channel, before: first, port: port).run(handover.command, patience: patience)
        if json {
            let status = outcome.serverStatus
            return Terminal.json(
                Document(
                    sent: outcome.sent, answer_bytes: outcome.answer.count, answer_sha256: digest(outcome.answer), end: outcome.end.rawValue,
                    exit_status: status.flatMap { $0 < 128 ? $0 : nil }, signal: status.flatMap { $0 >= 128 ? $0 - 128 : nil }))
        }
        Terminal.write(outcome.answer, to: 1)
        Terminal.note(Self.words(outcome))
    }

    private static func words(_ outcome: Replay.Outcome) -> String {
        let ends: [Replay.End: String] = [
            .closed: "the server ended the connection", .reset: "the server broke the connection off", .silent: "the connection stayed open",
        ]
        var text = "sent \(outcome.sent) bytes, got \(outcome.answer.count); \(ends[outcome.end] ?? "")"
        if let status = outcome.serverStatus { text += status >= 128 ? "; it died of signal \(status - 128)" : "; it exited with status \(status)" }
        return text
    }
}
