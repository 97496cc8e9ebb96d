// An image as one HTML page that needs nothing besides itself: no script, no font, no picture from elsewhere.

import SCEngine
import SCImage

/// What the page is made of.
package struct ImagePage {
    package var inventory: Inventory
    package var version: UInt16
    package var sessions: [Session]
    /// What the archive knows of it, when it is from one.
    package var entry: ArchiveEntry?

    /// A queue's bytes that are shown; the rest is counted.
    private static let shownBytes = 4096
    /// Sessions that are shown; with ten thousand a page would be read by nobody.
    private static let shownSessions = 100

    package init(_ inventory: Inventory, version: UInt16, _ sessions: [Session], entry: ArchiveEntry? = nil) {
        (self.inventory, self.version, self.sessions, self.entry) = (inventory, version, sessions, entry)
    }

    package var html: String {
        selfContainedPage(
            title: title, style: reportStyle + imagePageStyle,
            body: """
                <header>
                <p class="outcome\(entry.map { $0.reason == .manual ? "" : " unchanged" } ?? "")">\(escaped(headline))</p>
                <h1>\(escaped(title))</h1>
                <dl class="figures">
                \(figures)</dl>
                </header>
                <main>
                \(failureSection)\(noteSection)\(sessions.prefix(Self.shownSessions).map(section).joined())\(leftOut)<section>
                <h2>Particulars</h2>
                <dl class="particulars">
                \(particulars)</dl>
                </section>
                </main>
                """)
    }

    private var title: String {
        guard sessions.count == 1, let channel = sessions[0].channels.first else { return "\(sessions.count) sessions of \(inventory.host)" }
        return "\(channel.peer.onWire) → \(channel.local.onWire)"
    }

    private var headline: String {
        guard let entry else { return "Continuation image" }
        let reasons: [ArchiveReason: String] = [
            .manual: "Archived by hand", .migration: "Archived when its move failed", .refused: "Archived when it was refused",
            .crash: "Archived when it was lost",
        ]
        return (reasons[entry.reason] ?? "Archived") + (entry.isRedacted ? ", content redacted" : "")
    }

    private var figures: String {
        let channels = sessions.flatMap(\.channels)
        let rows: [(String, String)] = [
            ("sessions", grouped(sessions.count)),
            ("unread by the server", grouped(channels.reduce(0) { $0 + $1.receiveQueue.count })),
            ("not acknowledged", grouped(channels.reduce(0) { $0 + $1.sendQueue.count })),
            ("application state", grouped(sessions.reduce(0) { $0 + $1.state.count })),
            ("made", inventory.createdAt == 0 ? "unknown" : timeText(inventory.createdAt * 1_000_000_000)),
        ]
        return rows.map { "<div><dt>\($0.0)</dt><dd>\(escaped($0.1))</dd></div>\n" }.joined()
    }

    private var failureSection: String {
        guard let entry, !entry.failure.isEmpty else { return "" }
        return "<section class=\"failure\">\n<h2>What failed</h2>\n<p>\(escaped(entry.failure))</p>\n</section>\n"
    }

    private var noteSection: String {
        guard let entry, !entry.note.isEmpty || !entry.tags.isEmpty else { return "" }
        let tags = entry.tags.map { "<span class=\"tag\">\(escaped($0))</span>" }.joined(separator: " ")
        return "<section>\n<h2>Note</h2>\n<p>\(escaped(entry.note)) \(tags)</p>\n</section>\n"
    }

    private var leftOut: String {
        sessions.count > Self.shownSessions ? "<p class=\"legend\">… and \(sessions.count - Self.shownSessions) more sessions.</p>\n" : ""
    }

    private var particulars: String {
        [
            ("id", entry?.name ?? ""), ("host", inventory.host), ("process", inventory.pid == 0 ? "" : "\(inventory.pid) \(inventory.command)"),
            ("service", entry?.service ?? ""), ("written by", inventory.tool), ("format", "version \(version)"),
        ].filter { !$0.1.isEmpty }.map { "<dt>\($0.0)</dt><dd>\(escaped($0.1))</dd>\n" }.joined()
    }

    // MARK: A session

    private func section(_ session: Session) -> String {
        """
        <section>
        <h2>Session <span class="id">\(session.id)</span></h2>
        <div class="wide">
        \(channelDrawing(session.links(inventory)))
        </div>
        \(session.channels.enumerated().map { channel($1, $0) }.joined())\
        \(session.locals.enumerated().map { local($1, session.channels.count + $0) }.joined())\
        \(queue("Application state", session.state, isFromClient: false))</section>

        """
    }

    private func channel(_ channel: TCPChannel, _ number: Int) -> String {
        let options = [
            channel.options.timestamps ? "timestamps" : nil, channel.options.sack ? "SACK" : nil,
            channel.options.windowScaling ? "window scale \(channel.options.sendScale)/\(channel.options.receiveScale)" : nil,
            channel.options.ecn ? "ECN" : nil,
        ].compactMap { $0 }.joined(separator: ", ")
        var rows = [
            ("descriptor", String(channel.fd)), ("state", channel.state.name), ("service", channel.local.description),
            ("rcv_nxt", String(channel.rcvNxt)), ("write_seq", String(channel.writeSeq)), ("read so far", grouped(Int(clamping: channel.bytesRead))),
            ("written so far", grouped(Int(clamping: channel.bytesWritten))), ("never sent", grouped(channel.unsentLength)),
            ("windows", "\(grouped(Int(channel.window.sndWnd))) out, \(grouped(Int(channel.window.rcvWnd))) in"),
            ("segments", "\(channel.sendMSS) bytes, window of \(channel.congestionWindow), \(channel.congestionControl)"), ("agreed on", options),
        ]
        rows += channel.socketOptions.map { (SocketOptionList.label($0), optionText($0)) }
        let list = rows.map { "<dt>\(escaped($0.0))</dt><dd>\(escaped($0.1))</dd>\n" }.joined()
        return queue("From the client, not read yet", channel.receiveQueue, isFromClient: true)
            + queue("To the client, not acknowledged yet", channel.sendQueue, isFromClient: false)
            + "<details>\n<summary>Channel \(number), \(escaped(channel.peer.onWire.description)): the connection's numbers</summary>\n"
            + "<dl class=\"particulars\">\n\(list)</dl>\n</details>\n"
    }

    private func local(_ channel: LocalChannel, _ number: Int) -> String {
        queue("In channel \(number) (\(channel.kind)), not read yet", channel.queue, isFromClient: true)
    }

    private func queue(_ title: String, _ bytes: [UInt8], isFromClient: Bool) -> String {
        guard !bytes.isEmpty else { return "" }
        var text = "<h3>\(escaped(title)) <span class=\"count\">\(grouped(bytes.count)) bytes</span></h3>\n"
        if let hint = ProtocolHint(bytes, isFromClient: isFromClient) {
            let lines = hint.lines.map(escaped).joined(separator: "\n")
            text += "<p class=\"legend\">looks like \(escaped(hint.name))</p>\n<pre class=\"message \(isFromClient ? "in" : "out")\">\(lines)</pre>\n"
        }
        let shown = hexDump(bytes.prefix(Self.shownBytes)).map(escaped).joined(separator: "\n")
        let rest = bytes.count > Self.shownBytes ? "\n… \(grouped(bytes.count - Self.shownBytes)) bytes more" : ""
        return text + "<details>\n<summary>Bytes</summary>\n<pre>\(shown)\(rest)</pre>\n</details>\n"
    }
}

/// Lines of 16 bytes: offset, hexadecimal digits, ASCII.
package func hexDump(_ bytes: some RandomAccessCollection<UInt8>) -> [String] {
    let all = Array(bytes)
    return stride(from: 0, to: all.count, by: 16).map { start in
        let line = all[start..<min(start + 16, all.count)]
        let hex = line.map(hexadecimal).joined(separator: " ")
        let text = line.map { (32..<127).contains($0) ? String(UnicodeScalar($0)) : "." }.joined()
        let offset = String(start, radix: 16)
        let padding = String(repeating: "0", count: max(0, 8 - offset.count))
        return "\(padding)\(offset)  \(hex)\(String(repeating: " ", count: 48 - hex.count)) |\(text)|"
    }
}
