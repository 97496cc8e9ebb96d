// The channels of an image as links between clients, processes and files: for the text page, for dot(1), and for the HTML page.

import SCEngine
import SCImage

/// One line between two things.
package struct ImageLink: Equatable, Sendable {
    /// `tcp`, `udp`, `unix`, `pipe`, `file`.
    package var kind: String
    /// State, type or position.
    package var detail: String
    /// A client's address, a process, a file's path.
    package var left, right: String
    /// Bytes on their way from left to right, and from right to left.
    package var toRight = 0
    package var toLeft = 0
    /// The channels' numbers in the session.
    package var channels: [Int]
    /// Left and right are processes of the session.
    package var isLeftProcess = false
    package var isRightProcess = true
}

extension Session {
    /// Links in the order of their channels; both ends of a pipe or of a Unix socket are one.
    package func links(_ inventory: Inventory) -> [ImageLink] {
        let server = inventory.command.isEmpty ? "the server" : "\(inventory.command.prefix(40))\(inventory.pid == 0 ? "" : " (\(inventory.pid))")"
        func holders(_ channel: Int) -> String {
            let names = processes.filter { $0.descriptors.contains { $0.channel == channel } }.map { "\($0.role)\($0.pid == 0 ? "" : " (\($0.pid))")" }
            return names.isEmpty ? (processes.isEmpty ? server : "in flight") : names.joined(separator: ", ")
        }
        var links: [ImageLink] = channels.enumerated().map { number, tcp in
            ImageLink(
                kind: "tcp", detail: tcp.state.name, left: tcp.peer.onWire.description, right: holders(number), toRight: tcp.receiveQueue.count,
                toLeft: tcp.sendQueue.count, channels: [number])
        }
        var done: Set<Int> = []
        for (index, local) in locals.enumerated() {
            let number = channels.count + index
            guard done.insert(number).inserted else { continue }
            switch local.detail {
            case .udp(let udp):
                links.append(
                    ImageLink(kind: "udp", detail: "", left: udp.peer.description, right: holders(number), toRight: local.queue.count, channels: [number]))
            case .file(let file):
                links.append(
                    ImageLink(
                        kind: "file", detail: "at \(file.position) of \(file.size)", left: holders(number),
                        right: String(decoding: file.path, as: UTF8.self), channels: [number], isLeftProcess: true, isRightProcess: false))
            case .unix(let socket):
                let type = [1: "stream", 2: "datagram", 5: "seqpacket"][socket.type] ?? ""
                var link = ImageLink(
                    kind: "unix", detail: type, left: holders(number), right: "closed", toLeft: local.queue.count, channels: [number],
                    isLeftProcess: true, isRightProcess: false)
                if let peer = socket.peer, locals.indices.contains(peer - channels.count) {
                    (link.right, link.toRight, link.isRightProcess) = (holders(peer), locals[peer - channels.count].queue.count, true)
                    link.channels.append(peer)
                    done.insert(peer)
                }
                links.append(link)
            case .pipe(let end):
                let ends = locals.indices.filter { if case .pipe(let other) = locals[$0].detail { other.pipe == end.pipe } else { false } }
                let (writers, readers) = (ends.filter { locals[$0].flags.isWritable }, ends.filter { locals[$0].flags.isReadable })
                func names(_ ends: [Int]) -> String { ends.isEmpty ? "closed" : ends.map { holders(channels.count + $0) }.joined(separator: ", ") }
                links.append(
                    ImageLink(
                        kind: "pipe", detail: "\(end.capacity) bytes long", left: names(writers), right: names(readers),
                        toRight: ends.reduce(0) { $0 + locals[$1].queue.count }, channels: ends.map { channels.count + $0 },
                        isLeftProcess: !writers.isEmpty, isRightProcess: !readers.isEmpty))
                done.formUnion(ends.map { channels.count + $0 })
            }
        }
        return links
    }
}

/// Boxes are processes, ellipses what they are connected to; an edge is a channel with the bytes that wait in it.
package func imageGraph(_ inventory: Inventory, _ sessions: [Session]) -> String {
    var lines = ["graph image {", "  rankdir=LR;", "  node [fontname=\"sans-serif\"];", "  edge [fontname=\"sans-serif\", fontsize=10];"]
    for (index, session) in sessions.enumerated() {
        lines += ["  subgraph \(quoted("cluster \(index)")) {", "    label=\(quoted("session \(session.id.description.prefix(8))"));"]
        for link in session.links(inventory) {
            // The same process in two sessions is two boxes: each cluster shows one conversation.
            let (left, right) = (quoted("\(index) \(link.left)"), quoted("\(index) \(link.right)"))
            lines.append("    \(left) [label=\(quoted(link.left)), shape=\(link.isLeftProcess ? "box" : "ellipse")];")
            lines.append("    \(right) [label=\(quoted(link.right)), shape=\(link.isRightProcess ? "box" : "ellipse")];")
            lines.append("    \(left) -- \(right) [label=\(quoted("\(link.kind) \(link.detail)\n→ \(link.toRight)  ← \(link.toLeft)"))];")
        }
        lines.append("  }")
    }
    return (lines + ["}"]).joined(separator: "\n")
}
