// `inspect`: the descriptors of a process as channels.

import ArgumentParser
import SCAgent
import SCEngine

struct Inspect: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Shows a process's sockets and descriptors as channels, and which of them can move.",
        discussion: "EXAMPLE\n  sc-checkpoint inspect 812 --port 443 --json")

    @Argument(help: "The process.") var pid: Int32
    @OptionGroup var filters: FilterOptions
    @Flag(name: .long, help: "Its children's channels as well.") var tree = false
    @Flag(name: .long, help: "One JSON document.") var json = false
    @Flag(name: .long, help: "A graph of processes and channels for dot(1).") var dot = false

    private struct Document: Encodable {
        var pid: Int32
        var command: String
        var channels: [ChannelJSON]
    }

    func run() throws {
        let root = try TargetProcess(pid: pid)
        let filter = try filters.filter()
        var found: [(process: TargetProcess, channels: [Channel])] = []
        // A graph has a line for a channel that two of its processes share.
        let peers = dot ? nil : LocalPeers()
        // Whoever may not ask the agent, or has none, is told what the kernel says.
        let registered = ((try? AgentClient.registered()) ?? nil) ?? []
        let pinned = Dictionary(registered.map { ($0.socket, $0.pin) }, uniquingKeysWith: { first, _ in first })
        for (process, all) in tree ? try Prober().channels(ofTree: root) : [(root, try Prober().channels(of: root))] {
            var channels = all.filter(filter.matches)
            for index in channels.indices where channels[index].isMovable { channels[index].reason = pinned[channels[index].inode] ?? nil }
            peers?.complete(&channels, of: process)
            found.append((process, channels))
        }
        if dot {
            Terminal.print(channelGraph(found))
        } else if json {
            let channels = found.flatMap { entry in entry.channels.map { ChannelJSON($0, pid: tree ? entry.process.pid : nil) } }
            Terminal.json(Document(pid: pid, command: root.command, channels: channels))
        } else {
            for (index, entry) in found.enumerated() {
                if index > 0 { Terminal.print("") }
                Terminal.print("\(entry.process.pid) \(entry.process.command)")
                printChannels(entry.channels)
            }
        }
    }
}
