// `drain`: every session of some processes, or of a service, to one or several targets.

import ArgumentParser
import Glibc
import SCAgent
import SCEngine
import SCImage

struct DrainVerb: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drain",
        abstract: "Moves every session of processes, or of a service, to one or several targets.",
        discussion: """
            Sessions go in batches, each one transaction; the targets get their shares by weight. A session that one target refuses is offered to the next; what
            nobody takes stays where it is, with the reason. Without PID, --service takes the processes that listen on the service's ports in this host's policy.

            EXAMPLE
              sc-checkpoint drain --service www --to tls://hostb=3 --to tls://hostc
              sc-checkpoint drain 812 --to root@hostb --into /run/www.sock --deadline 60
              sc-checkpoint drain 812 --service echo --to self

            Exit status: 0 all moved; 1 some stayed; 3 something is left to recover.
            """)

    @Argument(help: ArgumentHelp("The processes; with --exec, -- and the command after them.", valueName: "PID")) var words: [String] = []
    @Option(name: .long, help: ArgumentHelp("Where to, and with which weight; repeatable.", valueName: "TARGET[=WEIGHT]")) var to: [String]
    @Option(name: .long, help: ArgumentHelp("Sessions of this client.", valueName: "ADDR[:PORT]")) var peer: [String] = []
    @Option(name: .long, help: ArgumentHelp("Sessions with this local or remote port.", valueName: "PORT")) var port: [UInt16] = []
    @Flag(name: .long, help: "With --service: the sessions whose servers have died.") var orphans = false
    @OptionGroup var receiver: ReceiverOptions
    @OptionGroup var move: MoveOptions
    @Option(name: .long, help: ArgumentHelp("This host's policy.", valueName: "FILE")) var config = Policy.defaultPath
    @Option(name: .long, help: ArgumentHelp("Begin nothing new after so many seconds.", valueName: "SECONDS")) var deadline: Int?
    @Option(name: .long, help: ArgumentHelp("The most sessions of one batch.", valueName: "N")) var maxInFlight = 64
    @Option(name: .long, help: ArgumentHelp("Milliseconds that a target may be silent.", valueName: "MS")) var silence = 10_000
    @Flag(name: .long, help: "One JSON document.") var json = false

    func run() throws {
        let targets = try to.map { try Self.target($0) }
        let isRemote = targets.contains { if case .tls = $0.address { true } else { false } }
        if isRemote { try MoveOptions.leaveToAgent() }
        move.failures.begin()
        let options = try makeOptions(targets)
        var selection = DrainSelection()
        try select(&selection)
        if !json {
            for session in selection.immovable { Terminal.note("stays: \(session.flow): \(session.immovable ?? "")") }
        }
        Interruption.watch()
        let drain = Drain(selection, options)
        let begun = monotonicNanoseconds()
        drain.interruption = { Interruption.reason }
        drain.onAttempt = { WorkerReport($0.outcome, $0.timeline, dryRun: options.request.dryRun).send() }
        drain.onProgress = { progress in
            let seconds = (monotonicNanoseconds() - begun) / 1_000_000_000
            Terminal.progress("\(progress.moved) of \(progress.total) moved, \(progress.stayed) stayed, \(seconds) s")
        }
        let result = drain.run()
        Terminal.clearProgress()
        // The listener goes on, and so may the drain have to.
        var later = selection
        try? select(&later)
        let began = later.sessions.count - selection.sessions.count
        json ? Terminal.json(DrainDocument(result, began: began, dryRun: move.dryRun)) : printResult(result, began: began)
        let status: Int32 = result.count(.unknown) > 0 ? 3 : result.count(.stayed) > 0 ? 1 : 0
        if status != 0 { Glibc.exit(status) }
    }

    // MARK: What the user said

    /// `TARGET` or `TARGET=WEIGHT`.
    private static func target(_ text: String) throws -> Drain.Target {
        let parts = text.split(separator: "=", omittingEmptySubsequences: false)
        let weight = parts.count > 1 ? Int(parts[parts.count - 1]) : nil
        let name = weight == nil ? text : parts.dropLast().joined(separator: "=")
        guard let address = TargetAddress(name), (1...10_000).contains(weight ?? 1) else {
            throw CheckpointError(
                "--to \(text) is no target", why: "[user@]HOST, tls://PEER or unix:PATH is expected, and =WEIGHT from 1 to 10000", errno: EINVAL,
                advice: "For example --to root@hostb=3", outcome: .usage)
        }
        return Drain.Target(address, weight: weight ?? 1)
    }

    private func makeOptions(_ targets: [Drain.Target]) throws -> Drain.Options {
        guard let first = targets.first else {
            throw CheckpointError("no target is named", why: "--to was not given", errno: EINVAL, advice: "Add --to TARGET", outcome: .usage)
        }
        guard maxInFlight > 0, deadline ?? 0 >= 0 else {
            throw CheckpointError(
                "the drain has no room", why: "--max-in-flight is from 1 on, and --deadline from 0 on", errno: EINVAL, outcome: .usage)
        }
        guard move.via == nil || targets.count == 1 else {
            throw CheckpointError("--via belongs to one target", why: "\(targets.count) are named", errno: EINVAL, outcome: .usage)
        }
        let request = try move.request(to: first.address, makeHandover(), silence: silence)
        var options = Drain.Options(request, to: targets)
        options.largest = maxInFlight
        options.deadline = deadline.map { Deadline(milliseconds: $0 * 1000) }
        return options
    }

    /// The processes, and what stands behind `--`. The parser gives both in one list.
    private func split() throws -> (pids: [Int32], command: [String]) {
        let all = CommandLine.arguments
        let length = min(words.count, all.firstIndex(of: "--").map { all.count - $0 - 1 } ?? 0)
        let pids = try words.dropLast(length).map { word in
            guard let pid = Int32(word), pid > 0 else {
                throw CheckpointError(
                    "\(word) is no process", why: "a number from 1 on is expected", errno: EINVAL,
                    advice: receiver.isExec ? "Write the command last, after --" : "Give the pid of the server", outcome: .usage)
            }
            return pid
        }
        return (pids, Array(words.suffix(length)))
    }

    /// `--service` chooses the sessions, and who gets them only when nobody else is named.
    private func makeHandover() throws -> Handover {
        var receiver = receiver
        if receiver.isExec || receiver.into != nil || receiver.onto != nil { receiver.service = nil }
        return try receiver.handover(command: split().command)
    }

    /// Adds the sessions that are meant and not among those known already.
    private func select(_ selection: inout DrainSelection) throws {
        var filter = try FilterOptions.filter(peer: peer, port: port)
        filter.all = true
        let pids = try split().pids
        if pids.isEmpty {
            try select(&selection, filter)
        } else {
            for pid in pids { try selection.add(TargetProcess(pid: pid), filter) }
        }
    }

    private func select(_ selection: inout DrainSelection, _ filter: SessionFilter) throws {
        if orphans, let name = receiver.service {
            guard let found = try AgentClient.orphans(of: name), !found.descriptors.isEmpty else {
                throw CheckpointError("no session of \(name) waits for a server", why: "none has lost its own, or no agent runs here", errno: ENOENT)
            }
            var filter = filter
            filter.descriptors = found.descriptors
            return try selection.add(TargetProcess(pid: found.agent), filter)
        }
        guard let name = receiver.service else {
            throw CheckpointError(
                "nothing is named to drain", why: "neither a process nor --service was given", errno: EINVAL,
                advice: "For example sc-checkpoint drain --service www --to tls://hostb", outcome: .usage)
        }
        let service = try Policy.load(config).service(name, config)
        let servers = try ServiceSockets(ports: service.ports, addresses: service.addresses).servers
        guard !servers.isEmpty else {
            throw CheckpointError(
                "service \(name) does not run here", why: "no process listens on \(service.portList)", errno: ESRCH,
                advice: "Name the processes: sc-checkpoint drain PID --service \(name) …")
        }
        for server in servers {
            // One that has ended since has no sessions.
            guard let process = try? TargetProcess(pid: server.pid) else { continue }
            try selection.add(process, filter) { service.has($0.localAddress) }
        }
    }

    // MARK: What came of it

    private func printResult(_ result: DrainResult, began: Int) {
        let stayed = result.sessions.filter { $0.outcome == .stayed || $0.outcome == .unknown }
        if !stayed.isEmpty {
            Terminal.table(
                ["CLIENT", "SERVICE", "OUTCOME", "REASON"],
                stayed.map { [$0.flow.client.description, $0.flow.service.description, $0.outcome.rawValue, Terminal.clean($0.reason ?? "")] })
        }
        for (target, reason) in result.leftOut { Terminal.note("\(target.description) was left out: \(reason)") }
        var parts = ["\(move.dryRun ? "would move" : "moved") \(result.count(.moved)) of \(result.sessions.count)"]
        if result.count(.stayed) > 0 { parts.append("\(result.count(.stayed)) stayed") }
        if result.count(.unknown) > 0 { parts.append("\(result.count(.unknown)) in doubt, see sc-checkpoint recover") }
        if result.count(.ended) > 0 { parts.append("\(result.count(.ended)) ended by themselves") }
        if let longest = result.blackouts.max() { parts.append("longest blackout \(microseconds(longest)) us") }
        if began > 0 { Terminal.note("\(began) session\(began == 1 ? "" : "s") began meanwhile; drain again") }
        Terminal.print("\(parts.joined(separator: ", ")); \(result.nanoseconds / 1_000_000_000).\(result.nanoseconds / 100_000_000 % 10) s")
    }
}

/// Written by the handler only.
private nonisolated(unsafe) var caughtSignal: Int32 = 0

/// SIGINT and SIGTERM end a drain between two moves.
private enum Interruption {
    static func watch() { for number in [SIGINT, SIGTERM] { signal(number) { caughtSignal = $0 } } }

    static var reason: String? { caughtSignal == 0 ? nil : "the drain was interrupted before its turn" }
}
