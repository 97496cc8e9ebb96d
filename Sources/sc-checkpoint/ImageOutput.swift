// An image for a person: as a page of text, as a JSON document, as packets, as a graph, as HTML.

import ArgumentParser
import Glibc
import SCArchive
import SCEngine
import SCImage

/// How `show` and `archive show` show an image.
struct LookOptions: ParsableArguments {
    @Flag(name: .long, help: "The queues' bytes, in hexadecimal and text.") var data = false
    @Option(name: .long, help: ArgumentHelp("Write one queue: the channel's number and in (receive) or out (send).", valueName: "CHANNEL:in|out"))
    var extract: String?
    @Option(name: [.short, .long], help: ArgumentHelp("With --extract: the file; default is standard output.", valueName: "FILE")) var output = "-"
    @Option(name: .long, help: ArgumentHelp("Write the queues of TCP connections as packets for Wireshark and tshark (pcapng).", valueName: "FILE"))
    var pcap: String?
    @Option(name: .long, help: ArgumentHelp("Write one HTML page.", valueName: "FILE")) var html: String?
    @Flag(name: .long, help: "A graph of processes and channels for dot(1).") var dot = false
    @Flag(name: .long, help: "One JSON document.") var json = false

    func show(_ image: LoadedImage) throws(CheckpointError) {
        if let extract { return try writeQueue(extract, image.sessions) }
        if let pcap {
            guard image.sessions.contains(where: { !$0.channels.isEmpty }) else {
                throw CheckpointError("there are no packets to write", why: "the image has no TCP connection", errno: ENODATA)
            }
            try write(PacketFile.encode(image.inventory, image.sessions), to: pcap)
        }
        if let html {
            try write(Array(ImagePage(image.inventory, version: image.version, image.sessions, entry: image.entry).html.utf8), to: html)
        }
        if dot { return Terminal.print(imageGraph(image.inventory, image.sessions)) }
        if json { return Terminal.json(ImageDocument(image)) }
        if pcap == nil, html == nil { printImage(image, data: data) }
    }

    private func write(_ bytes: [UInt8], to path: String) throws(CheckpointError) {
        do throws(ImageError) {
            try ImageFile.write(path) { sink throws(ImageError) in
                var sink = sink
                try sink.write(bytes)
            }
        } catch {
            if case .io(let number, _) = error { throw CheckpointError("cannot write \(path)", result: Int(-number)) }
            throw CheckpointError("cannot write \(path)", why: error.description, errno: EINVAL)
        }
    }

    private func writeQueue(_ name: String, _ sessions: [Session]) throws(CheckpointError) {
        let parts = name.split(separator: ":")
        // A local channel has what waits to be read from it.
        let channels = sessions.flatMap { session in session.channels.map { ($0.receiveQueue, $0.sendQueue) } + session.locals.map { ($0.queue, []) }
        }
        guard parts.count == 2, let number = Int(parts[0]), channels.indices.contains(number), parts[1] == "in" || parts[1] == "out" else {
            throw CheckpointError(
                "there is no queue \(name)", why: "the image has \(channels.count) channel\(channels.count == 1 ? "" : "s")", errno: EINVAL,
                advice: "Write CHANNEL:in or CHANNEL:out, as in 0:out", outcome: .usage)
        }
        try write(parts[1] == "in" ? channels[number].0 : channels[number].1, to: output)
    }
}

/// `show --json`.
struct ImageDocument: Encodable {
    struct SessionJSON: Encodable {
        var id: String
        var state_bytes: Int
        var adapter: String?
        var channels: [ChannelJSON]
        var processes: [ProcessJSON]
    }
    var format_version: UInt16
    var complete = true
    var host, tool, command: String
    var pid: Int32
    var created_at: UInt64
    var sessions: [SessionJSON]
    /// Of an archived image.
    var archive: ArchiveEntryJSON?

    init(_ image: LoadedImage) {
        (format_version, created_at, pid) = (image.version, image.inventory.createdAt, image.inventory.pid)
        (host, tool, command) = (image.inventory.host, image.inventory.tool, image.inventory.command)
        sessions = image.sessions.map { session in
            SessionJSON(
                id: session.id.description, state_bytes: session.state.count, adapter: session.adapter?.name,
                channels: session.channels.map(ChannelJSON.init)
                    + session.locals.enumerated().map { ChannelJSON($1, number: session.channels.count + $0, of: session) },
                processes: session.processes.map(ProcessJSON.init))
        }
        archive = image.entry.map(ArchiveEntryJSON.init)
    }
}

/// An image as text.
func printImage(_ image: LoadedImage, data: Bool) {
    if let entry = image.entry { printEntry(entry) }
    let inventory = image.inventory
    Terminal.print(
        Terminal.clean("format \(image.version), written by \(inventory.tool) on \(inventory.host) from \(inventory.command) (\(inventory.pid))")
            + (inventory.createdAt == 0 ? "" : ", \(timeText(inventory.createdAt * 1_000_000_000))"))
    var number = 0
    for session in image.sessions {
        Terminal.print("")
        Terminal.print("session \(session.id), \(session.state.count) bytes of state\(session.adapter.map { ", adapter \($0.name)" } ?? "")")
        printLinks(session.links(inventory))
        let first = number
        for channel in session.channels {
            describe(channel, number, data: data)
            number += 1
        }
        for channel in session.locals {
            channel.describe(number, first: first)
            printQueue("queue", channel.queue, isFromClient: true, data: data)
            number += 1
        }
        for process in session.processes { describe(process, first: first) }
    }
}

/// `CLIENT ---- kind, bytes each way ---- PROCESS`, aligned.
private func printLinks(_ links: [ImageLink]) {
    let rows = links.map { link in
        let bytes = [link.toRight > 0 ? "\(link.toRight) bytes -->" : nil, link.toLeft > 0 ? "<-- \(link.toLeft) bytes" : nil].compactMap { $0 }
        return (
            Terminal.clean(link.left), "\(link.kind)\(link.detail.isEmpty ? "" : " \(link.detail)")",
            bytes.isEmpty ? "empty" : bytes.joined(separator: "  "),
            Terminal.clean(link.right)
        )
    }
    func width(_ texts: [String]) -> Int { texts.map(\.count).max() ?? 0 }
    func pad(_ text: String, _ width: Int) -> String { text + String(repeating: " ", count: width - text.count) }
    let widths = (width(rows.map(\.0)), width(rows.map(\.1)), width(rows.map(\.2)))
    for row in rows { Terminal.print("  \(pad(row.0, widths.0)) --- \(pad(row.1, widths.1)) | \(pad(row.2, widths.2)) --- \(row.3)") }
}

private func describe(_ channel: TCPChannel, _ number: Int, data: Bool) {
    let options = [
        channel.options.timestamps ? "timestamps" : nil, channel.options.sack ? "sack" : nil,
        channel.options.windowScaling ? "wscale \(channel.options.sendScale)/\(channel.options.receiveScale)" : nil,
        channel.options.ecn ? "ecn" : nil,
    ].compactMap { $0 }
    Terminal.print("  channel \(number): tcp fd \(channel.fd) \(channel.state.name) \(channel.local) <- \(channel.peer)")
    Terminal.print("    rcv_nxt \(channel.rcvNxt), receive queue \(channel.receiveQueue.count) bytes, \(channel.bytesRead) read before")
    printQueue("receive queue", channel.receiveQueue, isFromClient: true, data: data)
    Terminal.print(
        "    write_seq \(channel.writeSeq), send queue \(channel.sendQueue.count) bytes, \(channel.unsentLength) unsent, \(channel.bytesWritten) written"
    )
    printQueue("send queue", channel.sendQueue, isFromClient: false, data: data)
    Terminal.print(
        "    mss \(channel.sendMSS) (clamp \(channel.options.mssClamp)), window \(channel.window.sndWnd)/\(channel.window.rcvWnd), \(options.joined(separator: ", ")), \(channel.congestionControl)"
    )
    for option in channel.socketOptions { Terminal.print("    option \(SocketOptionList.label(option)) = \(optionText(option))") }
}

/// What the bytes look like, and with `data` the bytes.
private func printQueue(_ title: String, _ bytes: [UInt8], isFromClient: Bool, data: Bool) {
    guard !bytes.isEmpty else { return }
    if let hint = ProtocolHint(bytes, isFromClient: isFromClient) {
        Terminal.print("      \(hint.name):")
        for line in hint.lines { Terminal.print("      > \(line)") }
    }
    guard data else { return }
    Terminal.print("    \(title):")
    for line in hexDump(bytes) { Terminal.print("      \(line)") }
}
