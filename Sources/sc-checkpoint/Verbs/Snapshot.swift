// `snapshot`: writes a continuation image of chosen sessions.

import ArgumentParser
import Glibc
import SCEngine
import SCImage

struct Snapshot: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Writes a continuation image of chosen sessions of a process.",
        discussion: """
            The sessions go on and no byte is disturbed. Servers that take part (libsc) are asked to park theirs for that moment, and add their state to
            the image; others are stopped. With --take they are taken away: silent towards the client, and held, with the processes that
            serve them stopped, until release or resume.

            EXAMPLE
              sc-checkpoint snapshot 812 --peer 192.0.2.7:40112 -o session.sci
              sc-checkpoint snapshot 812 --peer 192.0.2.7:40112 --with-ipc -o session.sci
            """)

    @Argument(help: "The process.") var pid: Int32
    @Option(name: [.short, .long], help: ArgumentHelp("The image file; - is standard output.", valueName: "IMAGE")) var output: String
    @OptionGroup var filters: FilterOptions
    @Flag(name: .long, help: "Every established session.") var all = false
    @Flag(name: .long, help: "Take the sessions away from the process.") var take = false
    @Option(name: .long, help: ArgumentHelp("Application state to put into the image.", valueName: "FILE")) var state: String?
    @Option(name: .long, help: "Write down the protocol's position as well, for restore --onto: http or raw.") var adapter: String?
    @OptionGroup var adapterOptions: AdapterOptions
    @OptionGroup var group: GroupArguments
    @OptionGroup var parking: ParkingOptions
    @Flag(name: .long, help: "One JSON document.") var json = false

    private struct Document: Encodable {
        struct Skipped: Encodable { var local, peer, reason: String }
        var image: String
        var sessions: [String]
        var taken: Bool
        var refused: [Skipped]
        var stopped: [Int32]
        var group: GroupJSON?
    }

    func run() throws {
        let root = try TargetProcess(pid: pid)
        let state = try readState(self.state)
        let chosen = try adapter.map { try SCEngine.adapter(named: $0) }
        let options = try adapterOptions.values()
        var filter = try filters.filter(all: all)
        let groupOptions = try group.options(root, named: filters.fd, &filter, statePath: self.state, parkDeadline: parking.parkDeadline)
        let selection = try selectSessions(of: root, filter)
        if !state.isEmpty, selection.chosen.count != 1, groupOptions == nil {
            throw CheckpointError(
                "--state belongs to one session", why: "\(selection.chosen.count) are selected", errno: EINVAL,
                advice: "Name one with --peer or --fd",
                outcome: .usage)
        }
        var group = try groupOptions.map { try GroupCapture(root, selection.chosen, $0) }
        let servers = group == nil ? try parking.parking?(Set(selection.chosen.map(\.channel.inode))) : nil
        if let declared = try servers?.group(of: selection.chosen) { group = declared }
        if group != nil, chosen != nil { throw groupWithAdapter }
        let capture = try SessionCapture(selection.chosen, isTolerant: !take, parking: servers, group: group)
        let adapterStates = try capture.learn(chosen, options: options)
        var ids: [SessionID] = []
        var stopped: [Int32] = []
        if take {
            let records = try Take(capture).run(state: state, adapterStates: adapterStates, adapter: chosen) { sessions throws(CheckpointError) in
                try store(sessions, of: root)
            }
            ids = records.map(\.id)
            stopped = records.first?.stopped ?? []
        } else {
            let sessions = try capture.sessions(capture.snapshot(), state: state, adapter: chosen, learnt: adapterStates)
            try store(sessions, of: root)
            ids = sessions.map(\.id)
        }
        report(ids, selection.refused, capture.leftOut, stopped, group)
        if !capture.leftOut.allSatisfy(\.hasEnded) { Glibc.exit(1) }
    }

    private func store(_ sessions: [Session], of root: TargetProcess) throws(CheckpointError) {
        var inventory = Inventory()
        inventory.host = hostName()
        inventory.tool = "sc-checkpoint \(toolVersion)"
        inventory.pid = root.pid
        inventory.command = root.command
        inventory.createdAt = UInt64(max(0, time(nil)))
        do throws(ImageError) {
            try ImageFile.write(output) { sink throws(ImageError) in
                var writer = try ImageWriter(sink, inventory)
                for session in sessions { try writer.write(session) }
                try writer.finish()
            }
        } catch {
            if case .io(let number, _) = error {
                throw CheckpointError(
                    "cannot write the image \(output)", why: systemMessage(number), errno: number, advice: "The sessions go on as before")
            }
            throw CheckpointError("cannot write the image \(output)", why: error.description, advice: "The sessions go on as before")
        }
    }

    private func report(_ ids: [SessionID], _ refused: [SelectedSession], _ leftOut: [LeftOut], _ stopped: [Int32], _ group: GroupCapture?) {
        let skipped =
            refused.map { Document.Skipped(local: $0.channel.local, peer: $0.channel.peer, reason: $0.channel.reason ?? "") }
            + leftOut.map { Document.Skipped(local: $0.flow.service.description, peer: $0.flow.client.description, reason: $0.reason) }
        if json {
            if output != "-" {
                Terminal.json(
                    Document(
                        image: output, sessions: ids.map(\.description), taken: take, refused: skipped, stopped: stopped,
                        group: group.map(GroupJSON.init)))
            }
            return
        }
        for entry in skipped { Terminal.note("left out \(entry.local) <- \(entry.peer): \(entry.reason)") }
        if output != "-" {
            if let group { printGroup(group) }
            Terminal.print("\(take ? "took" : "wrote") \(ids.count) session\(ids.count == 1 ? "" : "s") \(take ? "and wrote" : "to") \(output)")
        }
        if !stopped.isEmpty {
            Terminal.note(
                "process \(stopped.map { String($0) }.joined(separator: ", ")) stays stopped until sc-checkpoint release or resume \(output)")
        }
    }
}
