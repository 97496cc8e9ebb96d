// `show` and `verify`: an image for a person.

import ArgumentParser
import Glibc
import SCEngine
import SCImage

struct Show: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows an image: sessions, channels, states, queues.",
        discussion: "EXAMPLE\n  sc-checkpoint show session.sci --data\n  sc-checkpoint show session.sci --extract 0:out -o queue.bin")

    @Argument(help: "The image; - is standard input.") var image: String
    @Flag(name: .long, help: "The queues' bytes, in hexadecimal and text.") var data = false
    @Option(name: .long, help: ArgumentHelp("Write one queue: the channel's number and in (receive) or out (send).", valueName: "CHANNEL:in|out"))
    var extract: String?
    @Option(name: [.short, .long], help: ArgumentHelp("With --extract: the file; default is standard output.", valueName: "FILE")) var output = "-"
    @Flag(name: .long, help: "One JSON document.") var json = false

    private struct Document: Encodable {
        struct SessionJSON: Encodable {
            var id: String
            var state_bytes: Int
            var adapter: String?
            var channels: [ChannelJSON]
            var processes: [ProcessJSON]
        }
        var format_version: UInt16
        var complete: Bool
        var host, tool, command: String
        var pid: Int32
        var created_at: UInt64
        var sessions: [SessionJSON]
    }

    func run() throws {
        let (inventory, version, sessions) = try loadImage(image)
        if let extract { return try writeQueue(extract, sessions) }
        if json {
            return Terminal.json(
                Document(
                    format_version: version, complete: true, host: inventory.host, tool: inventory.tool, command: inventory.command,
                    pid: inventory.pid,
                    created_at: inventory.createdAt,
                    sessions: sessions.map { session in
                        .init(
                            id: session.id.description, state_bytes: session.state.count, adapter: session.adapter?.name,
                            channels: session.channels.map(ChannelJSON.init)
                                + session.locals.enumerated().map { ChannelJSON($1, number: session.channels.count + $0, of: session) },
                            processes: session.processes.map(ProcessJSON.init)
                        )
                    }))
        }
        Terminal.print("format \(version), written by \(inventory.tool) on \(inventory.host) from \(inventory.command) (\(inventory.pid))")
        var number = 0
        for session in sessions {
            Terminal.print("session \(session.id), \(session.state.count) bytes of state\(session.adapter.map { ", adapter \($0.name)" } ?? "")")
            let first = number
            for channel in session.channels {
                describe(channel, number)
                number += 1
            }
            for channel in session.locals {
                channel.describe(number, first: first)
                if data { dump("queue", channel.queue) }
                number += 1
            }
            for process in session.processes { sc_checkpoint.describe(process, first: first) }
        }
    }

    private func describe(_ channel: TCPChannel, _ number: Int) {
        let options = [
            channel.options.timestamps ? "timestamps" : nil, channel.options.sack ? "sack" : nil,
            channel.options.windowScaling ? "wscale \(channel.options.sendScale)/\(channel.options.receiveScale)" : nil,
            channel.options.ecn ? "ecn" : nil,
        ].compactMap { $0 }
        Terminal.print("  channel \(number): tcp fd \(channel.fd) \(channel.state.name) \(channel.local) <- \(channel.peer)")
        Terminal.print("    rcv_nxt \(channel.rcvNxt), receive queue \(channel.receiveQueue.count) bytes, \(channel.bytesRead) read before")
        Terminal.print(
            "    write_seq \(channel.writeSeq), send queue \(channel.sendQueue.count) bytes, \(channel.unsentLength) unsent, \(channel.bytesWritten) written"
        )
        Terminal.print(
            "    mss \(channel.sendMSS) (clamp \(channel.options.mssClamp)), window \(channel.window.sndWnd)/\(channel.window.rcvWnd), \(options.joined(separator: ", ")), \(channel.congestionControl)"
        )
        for option in channel.socketOptions {
            Terminal.print("    option \(option.level)/\(option.name) = \(option.value.map(hexadecimal).joined())")
        }
        if data {
            dump("receive queue", channel.receiveQueue)
            dump("send queue", channel.sendQueue)
        }
    }

    private func dump(_ title: String, _ bytes: [UInt8]) {
        guard !bytes.isEmpty else { return }
        Terminal.print("    \(title):")
        for start in stride(from: 0, to: bytes.count, by: 16) {
            let line = bytes[start..<min(start + 16, bytes.count)]
            let hex = line.map(hexadecimal).joined(separator: " ")
            let text = line.map { (32..<127).contains($0) ? String(UnicodeScalar($0)) : "." }.joined()
            let offset = String(start, radix: 16)
            Terminal.print(
                "      \(String(repeating: "0", count: max(0, 8 - offset.count)))\(offset)  \(hex)\(String(repeating: " ", count: 48 - hex.count)) |\(text)|"
            )
        }
    }

    private func writeQueue(_ name: String, _ sessions: [Session]) throws {
        let parts = name.split(separator: ":")
        // A local channel has what waits to be read from it.
        let channels = sessions.flatMap { session in session.channels.map { ($0.receiveQueue, $0.sendQueue) } + session.locals.map { ($0.queue, []) }
        }
        guard parts.count == 2, let number = Int(parts[0]), channels.indices.contains(number), parts[1] == "in" || parts[1] == "out" else {
            throw CheckpointError(
                "there is no queue \(name)", why: "the image has \(channels.count) channel\(channels.count == 1 ? "" : "s")", errno: EINVAL,
                advice: "Write CHANNEL:in or CHANNEL:out, as in 0:out", outcome: .usage)
        }
        let bytes = parts[1] == "in" ? channels[number].0 : channels[number].1
        do throws(ImageError) {
            try ImageFile.write(output) { sink throws(ImageError) in
                var sink = sink
                try sink.write(bytes)
            }
        } catch {
            throw imageFailure(error, output)
        }
    }
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
