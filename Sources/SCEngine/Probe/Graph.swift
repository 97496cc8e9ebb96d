// Processes and channels as a graph in the language of dot(1).

/// Boxes are processes, ellipses are what they are connected to; an edge is a channel, dashed when it cannot move.
package func channelGraph(_ found: [(process: TargetProcess, channels: [Channel])]) -> String {
    var lines = ["graph session {", "  rankdir=LR;", "  node [fontname=\"sans-serif\"];", "  edge [fontname=\"sans-serif\", fontsize=10];"]
    var owners: [UInt64: Int32] = [:]
    for entry in found {
        for channel in entry.channels { owners[channel.inode] = entry.process.pid }
    }
    var drawn: Set<UInt64> = []
    for entry in found {
        lines.append("  p\(entry.process.pid) [shape=box, label=\(quoted("\(entry.process.command)\n\(entry.process.pid)"))];")
        for channel in entry.channels where channel.kind != .other && channel.tcpState != .listen {
            let label = quoted("\(channel.kind.rawValue) \(channel.fd) \(channel.state)\nin \(channel.receiveQueue) out \(channel.sendQueue)")
            let style = channel.isMovable ? "solid" : "dashed"
            if channel.kind == .unix, let owner = owners[channel.peerInode] {
                // Both ends are drawn once.
                guard drawn.insert(channel.inode).inserted, !drawn.contains(channel.peerInode) else { continue }
                lines.append("  p\(entry.process.pid) -- p\(owner) [label=\(label), style=\(style)];")
            } else {
                let name = channel.peer.isEmpty ? (channel.local.isEmpty ? "\(channel.kind.rawValue) \(channel.inode)" : channel.local) : channel.peer
                lines.append("  \(quoted(name)) [shape=ellipse];")
                lines.append("  p\(entry.process.pid) -- \(quoted(name)) [label=\(label), style=\(style)];")
            }
        }
    }
    return (lines + ["}"]).joined(separator: "\n")
}

/// A text as a quoted id of the language of dot(1).
package func quoted(_ text: String) -> String {
    var result = "\""
    for character in text {
        switch character {
        case "\"": result += "\\\""
        case "\\": result += "\\\\"
        case "\n": result += "\\n"
        default: result.append(character)
        }
    }
    return result + "\""
}
