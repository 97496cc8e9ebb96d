// The drawing on an image's page: who is connected to whom, by what, and how much waits in it.

import SCEngine
import SCImage

/// One row for each link, as inline SVG.
func channelDrawing(_ links: [ImageLink]) -> String {
    let (width, rowHeight, box, gap) = (992, 84, 300, 392)
    let height = max(1, links.count) * rowHeight + 8
    var parts = ["<svg class=\"channels\" viewBox=\"0 0 \(width) \(height)\" role=\"img\" aria-label=\"channels of the session\">"]
    for (index, link) in links.enumerated() {
        let top = index * rowHeight + 8
        let middle = top + 30
        parts.append(node(link.left, x: 0, y: top, width: box, isProcess: link.isLeftProcess))
        parts.append(node(link.right, x: box + gap, y: top, width: box, isProcess: link.isRightProcess))
        parts.append("<line class=\"wire\" x1=\"\(box)\" y1=\"\(middle)\" x2=\"\(box + gap)\" y2=\"\(middle)\"/>")
        let label = link.detail.isEmpty ? link.kind : "\(link.kind) · \(link.detail)"
        parts.append("<text class=\"kind\" x=\"\(box + gap / 2)\" y=\"\(top + 14)\" text-anchor=\"middle\">\(escaped(label))</text>")
        let flows = [(link.toRight, "→", "in"), (link.toLeft, "←", "out")].filter { $0.0 > 0 }
        if flows.isEmpty {
            parts.append("<text class=\"empty\" x=\"\(box + gap / 2)\" y=\"\(middle + 20)\" text-anchor=\"middle\">nothing waits</text>")
        }
        for (offset, flow) in flows.enumerated() {
            let text = flow.1 == "→" ? "\(grouped(flow.0)) bytes \(flow.1)" : "\(flow.1) \(grouped(flow.0)) bytes"
            let x = box + (flows.count == 1 ? gap / 2 : gap / 4 + offset * gap / 2)
            parts.append("<rect class=\"pill \(flow.2)\" x=\"\(x - 80)\" y=\"\(middle + 6)\" width=\"160\" height=\"22\" rx=\"11\"/>")
            parts.append("<text class=\"bytes \(flow.2)\" x=\"\(x)\" y=\"\(middle + 21)\" text-anchor=\"middle\">\(text)</text>")
        }
    }
    return (parts + ["</svg>"]).joined(separator: "\n")
}

private func node(_ text: String, x: Int, y: Int, width: Int, isProcess: Bool) -> String {
    // A long path is told by its end.
    let label = text.count > 38 ? "…\(text.suffix(37))" : text
    return """
        <rect class="node \(isProcess ? "process" : "other")" x="\(x + 1)" y="\(y + 1)" width="\(width - 2)" height="58" rx="\(isProcess ? 4 : 29)"/>
        <text class="name" x="\(x + width / 2)" y="\(y + 35)" text-anchor="middle">\(escaped(label))</text>
        """
}

/// What the page needs beyond a report's style.
let imagePageStyle = """
    h3 { margin: 20px 0 4px; font-size: 15px; font-weight: 600; }
    h3 .count { color: var(--muted); font-weight: 400; }
    pre { margin: 6px 0 12px; padding: 12px 16px; overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 4px;
      font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
    pre.message { border-left: 4px solid var(--source); }
    details { margin: 4px 0 12px; }
    summary { cursor: pointer; color: var(--muted); font-size: 13px; }
    details .particulars { margin: 8px 0 16px; }
    .tag { padding: 1px 10px; border: 1px solid var(--line); border-radius: 10px; font-size: 13px; }
    .channels { display: block; width: 100%; min-width: 760px; font-size: 14px; }
    .channels text { fill: var(--text); }
    .channels .node { fill: var(--card); stroke: var(--line); stroke-width: 1.5; }
    .channels .node.process { stroke: var(--source); }
    .channels .wire { stroke: var(--muted); stroke-width: 1.5; }
    .channels .kind, .channels .empty { fill: var(--muted); font-size: 13px; }
    .channels .pill.in { fill: var(--source); } .channels .pill.out { fill: var(--target); }
    .channels .bytes { fill: var(--page); font-size: 12.5px; font-variant-numeric: tabular-nums; }

    """
