// The page of a migration: what it says, that nothing in it can be taken for markup, and that the drawing stays in its frame.

import SCEngine
import Support
import Testing

@Suite struct ReportTests {
    /// A move of two sessions whose names were chosen by somebody unfriendly.
    static func sample() -> MigrationReport {
        var report = MigrationReport()
        (report.outcome, report.sourceHost, report.target, report.targetHost) = (.moved, "hosta", "root@hostb", "hostb")
        report.handover = "--exec -- <script>alert(1)</script> \"x\" & 'y'"
        report.process = "812 (<b>\u{1b}[31m\u{202e})"
        report.startedAt = 1_700_000_000_000_000_000
        var clock: UInt64 = 0
        for index in report.stages.indices {
            report.stages[index].start = clock
            report.stages[index].duration = index < 2 ? 21_000_000 : 240_000
            clock += report.stages[index].duration
        }
        (report.total, report.blackout) = (clock, 2_400_000)
        report.sessions = [
            .init(client: "192.0.2.7:40112", service: "198.51.100.1:80", state: "ESTABLISHED", receiveQueue: 0, sendQueue: 1_234_567, id: "a1b2"),
            .init(client: "[2001:db8::7]:40112", service: "[2001:db8::1]:80", state: "CLOSE_WAIT"),
        ]
        report.refused = [.init(client: "192.0.2.9:1", service: "198.51.100.1:80", reason: "<MPTCP>")]
        return report
    }

    @Test func `a page says what was moved, and nothing in it is taken for markup`() {
        let page = Self.sample().html
        for words in ["Moved 2 sessions", "hosta", "hostb", "2.4 ms", "2023-11-14 22:13:20 UTC", "1\u{202f}234\u{202f}567", "&lt;MPTCP&gt;", "a1b2"] {
            #expect(page.contains(words), "\(words)")
        }
        for words in ["<script", "<b>", "\u{1b}", "\u{202e}", "src=", "href="] { #expect(!page.contains(words), "\(words)") }
    }

    @Test func `markup is balanced`() throws {
        var reports = [Self.sample(), MigrationReport()]
        var failed = Self.sample()
        for index in 6..<failed.stages.count { failed.stages[index].start = nil }
        failed.stages[5].isFailed = true
        failed.take(CheckpointError("it </p> broke", why: "a & b", errno: 5, advice: "Try <again>"))
        reports.append(failed)
        for report in reports {
            let body = try #require(report.html.split(separator: "</head>", maxSplits: 1).last).dropLast("</html>\n".count)
            let result = try runCommand(
                ["python3", "-c", "import sys, xml.dom.minidom as x; x.parseString(sys.stdin.buffer.read())"], input: String(body))
            #expect(result.status == 0, "\(result.errors)")
        }
    }

    @Test func `a failure names the stage, the error and what to do`() {
        var report = Self.sample()
        report.stages[6].isFailed = true
        for index in 7..<report.stages.count { report.stages[index].start = nil }
        report.take(CheckpointError("hostb cannot rebuild", why: "no memory", errno: 12, advice: "Free some"))
        let page = report.html
        for words in ["Not moved", "hostb cannot rebuild", "ENOMEM", "Free some.", "failed here", "not reached", "stopped for"] {
            #expect(page.contains(words), "\(words)")
        }
        report.take(CheckpointError("x", why: "y", outcome: .needsRecovery))
        #expect(report.html.contains("Failed after the decision"))
    }

    @Test(
        arguments: [
            (0, "0 µs"), (499, "0 µs"), (240_000, "240 µs"), (2_400_000, "2.4 ms"), (2_345_678, "2.35 ms"), (21_049_000, "21 ms"),
            (12_345_678, "12.3 ms"),
            (1_002_000_000, "1 s"), (61_000_000_000, "61 s"), (3_050_000, "3.05 ms"),
        ] as [(UInt64, String)]) func `durations have about three digits`(nanoseconds: UInt64, text: String)
    {
        #expect(durationText(nanoseconds) == text)
    }
}
