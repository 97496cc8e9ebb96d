// A report as one HTML page that needs nothing besides itself: no script, no font, no picture from elsewhere.

import Glibc

extension MigrationReport {
    /// The page.
    package var html: String {
        selfContainedPage(
            title: "\(headline): \(sourceHost) → \(destination)", style: reportStyle,
            body: """
                <header>
                <p class="outcome \(outcome.rawValue)">\(escaped(headline))</p>
                <h1>\(escaped(sourceHost)) <span class="arrow" aria-label="to">→</span> \(escaped(destination))</h1>
                <dl class="figures">
                \(figures)</dl>
                </header>
                <main>
                \(failureSection)<section>
                <h2>Timeline</h2>
                <p class="legend">\(legend)</p>
                <div class="wide">
                \(timeline)
                </div>
                </section>
                \(sessionSection)\(refusedSection)<section>
                <h2>Particulars</h2>
                <dl class="particulars">
                \(particulars)</dl>
                </section>
                </main>
                """)
    }

    private var destination: String { targetHost.isEmpty ? target : targetHost }

    private var headline: String {
        let count = sessions.count == 1 ? "1 session" : "\(sessions.count) sessions"
        return switch outcome {
        case .moved: "Moved \(count)"
        case .accepted: "Dry run: the target would receive \(count)"
        case .unchanged: "Not moved: the sessions stay where they were"
        case .needsRecovery: "Failed after the decision: look after the sessions"
        }
    }

    private var legend: String {
        var keys = [("source", "the source acts"), ("target", "the target acts")]
        if stages.contains(where: \.isFailed) { keys.append(("failed", "failed")) }
        if blackoutSpan != nil { keys.append(("blackout", failure == nil ? "the client's packets are held" : "the sessions stood still")) }
        return keys.map { "<span class=\"key \($0.0)\"></span>\($0.1)" }.joined(separator: " ")
    }

    private var figures: String {
        var rows: [(String, String)] = []
        if outcome == .moved { rows.append(("blackout", durationText(blackout))) }
        rows.append((outcome == .moved || outcome == .accepted ? "sessions" : "sessions on offer", String(sessions.count)))
        if !refused.isEmpty { rows.append(("left out", String(refused.count))) }
        rows += [("in all", durationText(total)), ("when", timeText(startedAt))]
        return rows.map { "<div><dt>\($0.0)</dt><dd>\(escaped($0.1))</dd></div>\n" }.joined()
    }

    private var failureSection: String {
        guard let failure else { return "" }
        let number = failure.errno.isEmpty ? "" : " <code>\(escaped(failure.errno))</code>"
        let advice = failure.advice.isEmpty ? "" : "<p>\(escaped(failure.advice)).</p>\n"
        return """
            <section class="failure">
            <h2>What failed</h2>
            <p><strong>\(escaped(failure.what))</strong></p>
            <p>\(escaped(failure.why))\(number)</p>
            \(advice)</section>

            """
    }

    private var sessionSection: String {
        guard !sessions.isEmpty else { return "" }
        let rows = sessions.map { session in
            """
            <tr><td>\(escaped(session.client))</td><td>\(escaped(session.service))</td><td>\(escaped(session.state))</td>\
            <td class="number">\(grouped(session.receiveQueue))</td><td class="number">\(grouped(session.sendQueue))</td>\
            <td class="id">\(session.id.isEmpty ? "new" : escaped(session.id))</td></tr>

            """
        }
        return table(
            outcome == .moved ? "Sessions" : "Sessions on offer",
            "<th>client</th><th>service</th><th>state</th><th class=\"number\">bytes unread</th><th class=\"number\">bytes unacknowledged</th><th>id</th>",
            rows)
    }

    private var refusedSection: String {
        guard !refused.isEmpty else { return "" }
        let rows = refused.map { "<tr><td>\(escaped($0.client))</td><td>\(escaped($0.service))</td><td>\(escaped($0.reason))</td></tr>\n" }
        return table("Left out", "<th>client</th><th>service</th><th>why</th>", rows)
    }

    private func table(_ title: String, _ head: String, _ rows: [String]) -> String {
        """
        <section>
        <h2>\(title)</h2>
        <div class="wide">
        <table>
        <thead><tr>\(head)</tr></thead>
        <tbody>
        \(rows.joined())</tbody>
        </table>
        </div>
        </section>

        """
    }

    private var particulars: String {
        [
            ("process", process), ("target", target), ("received by", handover), ("steering", steering), ("made by", tool),
        ].filter { !$0.1.isEmpty }.map { "<dt>\($0.0)</dt><dd>\(escaped($0.1))</dd>\n" }.joined()
    }
}

/// Text that cannot end or begin markup. Control characters, which HTML does not know, become the replacement character.
package func escaped(_ text: String) -> String {
    var result = ""
    result.reserveCapacity(text.utf8.count)
    for scalar in text.unicodeScalars {
        switch scalar {
        case "&": result += "&amp;"
        case "<": result += "&lt;"
        case ">": result += "&gt;"
        case "\"": result += "&quot;"
        case "'": result += "&#39;"
        case "\t", "\n": result.unicodeScalars.append(scalar)
        // Also those that change the direction of the text, which could make it read as something else.
        case "\0"..<" ", "\u{7f}"..."\u{9f}", "\u{202a}"..."\u{202e}", "\u{2066}"..."\u{2069}": result += "\u{fffd}"
        default: result.unicodeScalars.append(scalar)
        }
    }
    return result
}

/// A number with its digits in groups of three.
package func grouped(_ number: Int) -> String {
    var result = ""
    for (index, digit) in String(number).reversed().enumerated() {
        if index > 0, index % 3 == 0 { result.append("\u{202f}") }
        result.append(digit)
    }
    return String(result.reversed())
}

/// A point in time, nanoseconds since 1970, in UTC: the two hosts may be in different zones.
package func timeText(_ nanoseconds: UInt64) -> String {
    var seconds = time_t(nanoseconds / 1_000_000_000)
    var parts = tm()
    gmtime_r(&seconds, &parts)
    var buffer = [CChar](repeating: 0, count: 40)
    let length = strftime(&buffer, buffer.count, "%Y-%m-%d %H:%M:%S UTC", &parts)
    return String(decoding: buffer.prefix(length).map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
