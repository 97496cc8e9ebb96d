// The timeline of a report: one row per stage of the stage table, drawn as inline SVG.

/// Time on the horizontal axis. What comes before the blackout takes ten times as long as the blackout itself and matters less, so it gets a scale
/// of its own where one scale would make the blackout invisible.
struct TimeScale {
    struct Segment {
        var from, to: UInt64
        var left, right: Double

        func x(_ time: UInt64) -> Double {
            left + (right - left) * (Double(min(max(time, from), to)) - Double(from)) / Double(max(1, to - from))
        }

        /// Round times that divide it into about `count` parts, at most.
        func ticks(_ count: Int) -> [UInt64] {
            let ideal = max(1, (to - from) / UInt64(count))
            var step: UInt64 = 1
            search: while true {
                for factor: UInt64 in [1, 2, 5] where step * factor >= ideal {
                    step *= factor
                    break search
                }
                step *= 10
            }
            return Array(stride(from: 0, through: to - from, by: Int(step)).map { from + $0 })
        }
    }

    let segments: [Segment]

    init(total: UInt64, blackout: (start: UInt64, end: UInt64)?, left: Double, right: Double) {
        let end = max(1, total, blackout?.end ?? 0)
        guard let blackout, blackout.start > 0, blackout.end - blackout.start < end * 2 / 5 else {
            segments = [Segment(from: 0, to: end, left: left, right: right)]
            return
        }
        let cut = left + (right - left) * 0.3
        segments = [
            Segment(from: 0, to: blackout.start, left: left, right: cut - 8),
            Segment(from: blackout.start, to: max(blackout.end, blackout.start + 1), left: cut + 8, right: right),
        ]
    }

    var isCut: Bool { segments.count > 1 }

    /// Where a stage's bar begins: in the segment that it belongs to.
    func bar(from start: UInt64, to end: UInt64) -> (left: Double, right: Double) {
        let segment = segments.last { $0.from <= start } ?? segments[0]
        let left = segment.x(start)
        return (left, max(left + 2, segment.x(end)))
    }
}

extension MigrationReport {
    /// The SVG element.
    var timeline: String {
        let (width, rowHeight, top, left, right) = (960.0, 40.0, 44.0, 112.0, 944.0)
        let bottom = top + rowHeight * Double(stages.count)
        let lastEnd = stages.compactMap(\.end).max() ?? 0
        let scale = TimeScale(total: lastEnd, blackout: blackoutSpan, left: left, right: right)
        var svg =
            "<svg viewBox=\"0 0 \(fixed(width)) \(fixed(bottom + 30))\" role=\"img\" aria-label=\"Timeline of the stages\" class=\"timeline\">\n"
        if let span = blackoutSpan {
            let (x, end) = scale.bar(from: span.start, to: span.end)
            svg +=
                "<rect class=\"blackout\" x=\"\(fixed(x))\" y=\"\(fixed(top - 26))\" width=\"\(fixed(end - x))\" height=\"\(fixed(bottom - top + 26))\"/>\n"
            // A narrow span at the right edge has room for its label only on its left.
            let (at, anchor) = x > width * 0.7 ? (end - 6, "end") : (x + 6, "start")
            let label = "\(failure == nil ? "blackout" : "stopped for") \(durationText(span.end - span.start))"
            svg += text(label, x: at, y: top - 11, "blackout-label", anchor: anchor)
        }
        for (index, segment) in scale.segments.enumerated() {
            for tick in segment.ticks(index == 0 && scale.isCut ? 2 : 6) where lastEnd > 0 {
                let x = segment.x(tick)
                svg += "<line class=\"grid\" x1=\"\(fixed(x))\" x2=\"\(fixed(x))\" y1=\"\(fixed(top))\" y2=\"\(fixed(bottom))\"/>\n"
                let sign = index > 0 && tick > segment.from ? "+" : ""
                let label = sign + (tick == segment.from ? (index == 0 ? "0" : "park") : durationText(tick - segment.from))
                // A label in the middle of the right edge would be cut off.
                svg += text(label, x: x, y: bottom + 18, "tick", anchor: x > right - 24 ? "end" : tick == segment.from ? "start" : "middle")
            }
        }
        // Below the rows, whose words cross it.
        if scale.isCut {
            let x = (scale.segments[0].right + scale.segments[1].left) / 2
            svg += "<line class=\"cut\" x1=\"\(fixed(x))\" x2=\"\(fixed(x))\" y1=\"\(fixed(top))\" y2=\"\(fixed(bottom))\"/>\n"
        }
        for (index, stage) in stages.enumerated() {
            svg += row(stage, y: top + rowHeight * Double(index), height: rowHeight, scale: scale, left: left, right: right)
        }
        return svg + "</svg>"
    }

    private func row(_ stage: StageTime, y: Double, height: Double, scale: TimeScale, left: Double, right: Double) -> String {
        var svg = "<g\(stage.start == nil ? " class=\"unreached\"" : "")>\n"
        svg += "<line class=\"row\" x1=\"8\" x2=\"\(fixed(right))\" y1=\"\(fixed(y))\" y2=\"\(fixed(y))\"/>\n"
        svg += text(stage.name, x: 8, y: y + 16, "name")
        let actions = [("source", stage.source), ("target", stage.target)].filter { $0.1 != "-" && $0.1 != "waits" }
        let words = actions.map { "\($0.0): \($0.1)" }.joined(separator: " · ")
        svg += text(words, x: left, y: y + 33, "action")
        if let start = stage.start, let end = stage.end {
            let bar = scale.bar(from: start, to: end)
            let kinds = stage.isFailed ? ["failed"] : actions.map(\.0)
            let part = 12 / Double(max(1, kinds.count))
            svg += "<g><title>\(escaped("\(stage.name): begins after \(durationText(start)), takes \(durationText(stage.duration))"))</title>\n"
            for (number, kind) in kinds.enumerated() {
                svg += "<rect class=\"bar \(kind)\" x=\"\(fixed(bar.left))\" y=\"\(fixed(y + 7 + part * Double(number)))\""
                svg += " width=\"\(fixed(bar.right - bar.left))\" height=\"\(fixed(part))\"/>\n"
            }
            svg += "</g>\n"
            let label = durationText(stage.duration) + (stage.isFailed ? " failed here" : "")
            let isAtTheEdge = bar.right > right - 130
            svg += text(
                label, x: isAtTheEdge ? bar.left - 6 : bar.right + 6, y: y + 17, stage.isFailed ? "took failed" : "took",
                anchor: isAtTheEdge ? "end" : "start")
        } else {
            svg += text("not reached", x: left, y: y + 17, "took")
        }
        return svg + "</g>\n"
    }

    private func text(_ words: String, x: Double, y: Double, _ kind: String, anchor: String = "start") -> String {
        "<text class=\"\(kind)\" x=\"\(fixed(x))\" y=\"\(fixed(y))\" text-anchor=\"\(anchor)\">\(escaped(words))</text>\n"
    }
}

/// A coordinate with one decimal.
private func fixed(_ value: Double) -> String {
    let tenths = Int((value * 10).rounded())
    return tenths % 10 == 0 ? String(tenths / 10) : "\(tenths < 0 ? "-" : "")\(abs(tenths) / 10).\(abs(tenths) % 10)"
}

/// A duration in the unit that gives it about three digits.
package func durationText(_ nanoseconds: UInt64) -> String {
    func scaled(_ unit: UInt64, _ name: String) -> String {
        let hundredths = (nanoseconds * 100 + unit / 2) / unit
        let (whole, part) = (hundredths / 100, hundredths % 100)
        if part == 0 || whole >= 100 { return "\(whole) \(name)" }
        if whole >= 10 || part % 10 == 0 { return part / 10 == 0 ? "\(whole) \(name)" : "\(whole).\(part / 10) \(name)" }
        return "\(whole).\(part < 10 ? "0" : "")\(part) \(name)"
    }
    if nanoseconds < 1_000_000 { return "\((nanoseconds + 500) / 1000) µs" }
    return nanoseconds < 1_000_000_000 ? scaled(1_000_000, "ms") : scaled(1_000_000_000, "s")
}
