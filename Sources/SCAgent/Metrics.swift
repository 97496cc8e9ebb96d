// What the agent counts and measures, in the text format 0.0.4 that Prometheus reads.

import SCEngine
import Synchronization

/// The agent's figures. Any thread may change them; the families are those of `Family` and no others.
package final class Metrics: Sendable {
    /// One family of series.
    package struct Family: Sendable {
        package enum Kind: Sendable, Equatable {
            case counter, gauge
            /// Upper bounds of the buckets, in rising order, without the last one.
            case histogram([Double])
        }

        package let name: String
        package let help: String
        package let kind: Kind
        /// Names of the labels, in the order in which their values are given.
        package let labels: [String]
        /// Series that exist from the beginning, so that their first increase is seen as one.
        package let known: [[String]]
    }

    private struct Series {
        var value = 0.0
        var buckets: [UInt64] = []
        var count: UInt64 = 0
    }

    private let series = Mutex<[String: [[String]: Series]]>([:])

    package init() {
        for family in Family.all {
            for labels in family.known { change(family, labels) { _ in } }
        }
        set(.buildInfo, [toolVersion], to: 1)
    }

    /// Counts up, or moves a gauge; a counter takes no negative amount.
    package func add(_ family: Family, _ labels: [String] = [], _ amount: Double = 1) {
        precondition(family.kind == .gauge || family.kind == .counter && amount >= 0, "\(family.name) cannot be moved by \(amount)")
        change(family, labels) { $0.value += amount }
    }

    /// Sets a gauge.
    package func set(_ family: Family, _ labels: [String] = [], to value: Double) {
        precondition(family.kind == .gauge, "\(family.name) is no gauge")
        change(family, labels) { $0.value = value }
    }

    /// Takes a duration into a histogram.
    package func observe(_ family: Family, _ labels: [String] = [], nanoseconds: UInt64) {
        guard case .histogram(let bounds) = family.kind else { preconditionFailure("\(family.name) is no histogram") }
        let seconds = Double(nanoseconds) / 1e9
        change(family, labels) { series in
            series.value += seconds
            series.count += 1
            if let index = bounds.firstIndex(where: { seconds <= $0 }) { series.buckets[index] += 1 }
        }
    }

    private func change(_ family: Family, _ labels: [String], _ body: (inout Series) -> Void) {
        precondition(labels.count == family.labels.count, "\(family.name) has the labels \(family.labels)")
        var fresh = Series()
        if case .histogram(let bounds) = family.kind { fresh.buckets = Array(repeating: 0, count: bounds.count) }
        series.withLock { body(&$0[family.name, default: [:]][labels, default: fresh]) }
    }

    /// The exposition: families and series in a fixed order.
    package var text: String {
        let all = series.withLock { $0 }
        var text = ""
        for family in Family.all {
            let kind =
                switch family.kind {
                case .counter: "counter"
                case .gauge: "gauge"
                case .histogram: "histogram"
                }
            text += "# HELP \(family.name) \(quoted(family.help, alsoQuotes: false))\n# TYPE \(family.name) \(kind)\n"
            for (labels, series) in (all[family.name] ?? [:]).sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
                let pairs = zip(family.labels, labels).map { "\($0)=\"\(quoted($1, alsoQuotes: true))\"" }
                if case .histogram(let bounds) = family.kind {
                    var sum: UInt64 = 0
                    for (bound, count) in zip(bounds, series.buckets) {
                        sum += count
                        text += line(family.name + "_bucket", pairs + ["le=\"\(number(bound))\""], String(sum))
                    }
                    text += line(family.name + "_bucket", pairs + ["le=\"+Inf\""], String(series.count))
                    text += line(family.name + "_sum", pairs, number(series.value)) + line(family.name + "_count", pairs, String(series.count))
                } else {
                    text += line(family.name, pairs, number(series.value))
                }
            }
        }
        return text
    }
}

private func line(_ name: String, _ pairs: [String], _ value: String) -> String {
    "\(name)\(pairs.isEmpty ? "" : "{\(pairs.joined(separator: ","))}") \(value)\n"
}

/// Whole numbers without a fraction.
private func number(_ value: Double) -> String { Int(exactly: value).map { String($0) } ?? String(value) }

/// The format's escapes: backslash and line end everywhere, the quote in label values.
private func quoted(_ text: String, alsoQuotes: Bool) -> String {
    var result = ""
    for character in text.unicodeScalars {
        switch character {
        case "\\": result += "\\\\"
        case "\n": result += "\\n"
        case "\"" where alsoQuotes: result += "\\\""
        default: result.unicodeScalars.append(character)
        }
    }
    return result
}
