// The fault matrix: the ends, the acceptor and the link of a move fail before and after every stage of the stage table. In every cell there has to be
// exactly one owner within the deadline, the client's stream is byte-exact, and nothing is left behind.

import Glibc
import enum SCEngine.Fault
import enum SCEngine.JournalRole
import enum SCEngine.Stage
import Support
import Testing

/// Who fails.
enum Victim: String, CaseIterable {
    case source, target, acceptor, link
}

/// One cell: at which end's point of the table what happens to whom.
struct FaultCell: CustomStringConvertible {
    var end: JournalRole
    var stage: Stage
    var moment: Fault.Moment
    var victim: Victim

    /// The stages in which the target has something to do that others can interrupt.
    static let targetStages: [Stage] = [.rebuild, .consent, .decide, .activate, .release]

    /// Every cell of the table: all of the source's points with all victims, and the target's own ones.
    static var all: [FaultCell] {
        [JournalRole.source, .target].flatMap { end in
            (end == .source ? Stage.allCases : targetStages).flatMap { stage in
                [Fault.Moment.before, .after].flatMap { moment in
                    Victim.allCases.filter { end == .source || $0 != .source }.map { FaultCell(end: end, stage: stage, moment: moment, victim: $0) }
                }
            }
        }
    }

    var description: String { "\(victim.rawValue) fails \(moment.rawValue) \(stage.rawValue), seen from the \(end.rawValue)" }
}

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct FaultMatrixTests {
    /// Who serves the client in the end.
    enum Owner: String { case a = "A", b = "B" }

    @Test func `one owner whatever fails at whatever point`() throws {
        var table: [String: String] = [:]
        // SC_CELLS picks cells by a word of their description.
        let wanted = getenv("SC_CELLS").map { String(cString: $0) } ?? ""
        for cell in FaultCell.all where wanted.isEmpty || cell.description.contains(wanted) {
            let owner = try run(cell)
            table["\(cell.end.rawValue) \(cell.stage.rawValue) \(cell.moment.rawValue) \(cell.victim.rawValue)"] = owner?.rawValue ?? "?"
        }
        Self.printTable(table)
    }

    private static func printTable(_ table: [String: String]) {
        print("\nThe owner after a fault (A: the source has its session back, B: the target serves it)\n")
        print("SEEN FROM  STAGE     MOMENT  " + Victim.allCases.map { $0.rawValue.padded(10) }.joined())
        for end in JournalRole.allCases {
            for stage in end == .source ? Stage.allCases : FaultCell.targetStages {
                for moment in ["before", "after"] {
                    let cells = Victim.allCases.map { (table["\(end.rawValue) \(stage.rawValue) \(moment) \($0.rawValue)"] ?? "-").padded(10) }
                    print(end.rawValue.padded(11) + stage.rawValue.padded(10) + moment.padded(8) + cells.joined())
                }
            }
        }
    }

    private func fault(_ cell: FaultCell, _ world: TwoHosts) -> String {
        let namespace = world.lab.namespace(.b)
        func kill(_ name: String, _ word: String) -> String {
            // By name as well: a keeper has its creator's command line, and so has the shell that starts acceptors.
            """
            for p in $(ip netns pids \(namespace)); do
                grep -qx \(name) /proc/$p/comm && { tr '\\0' ' ' < /proc/$p/cmdline | grep -q -e '\(word)' && kill -9 $p; }
            done; true
            """
        }
        let action =
            switch cell.victim {
            case .source: "kill"
            case .target: cell.end == .target ? "kill" : "run:" + kill("sc-checkpoint", "--on-descriptor")
            case .acceptor: "run:" + kill("sc-stream", "acceptor.sock")
            case .link: "cut"
            }
        return "\(cell.stage.rawValue)-\(cell.moment.rawValue):\(action)"
    }

    private func run(_ cell: FaultCell) throws -> Owner? {
        let world = try TwoHosts()
        let capture = try Capture(world.lab)
        let stream = Lab.program("sc-stream")
        let address = world.lab.serviceAddress(.ipv4)
        let server = try world.lab.spawn(in: .a, [stream, "server", address, "7000", "--seed", "5", "--rate", "2000000"])
        try #require(server.waitForOutputOrError("listening"))
        let client = try world.lab.spawn(
            in: .client, [stream, "client", address, "7000", "--seed", "5", "--rate", "2000000", "--seconds", "300"])
        try world.waitForSession(on: .a, server.pid, port: 7000)
        let state = "\(world.lab.folder)/state"
        try writeFile(state, "seed=5\nrate=2000000\n")

        let socket = "\(world.lab.folder)/acceptor.sock"
        // Like every service manager, the shell starts a new acceptor when one ends.
        let loop = "while :; do \(stream) accept \(socket); done"
        let acceptor = try world.lab.spawn(in: .b, ["sh", "-c", loop])
        try #require(acceptor.waitForOutputOrError("listening"), "\(acceptor.stderr)")
        let path = "\(world.lab.folder)/receive"
        let fault = ["SC_FAULT": fault(cell, world)]
        let receiver = try world.lab.spawn(
            in: .b, [TwoHosts.program, "receive", "--listen", path],
            environment: world.environment(.b).merging(cell.end == .target ? fault : [:]) { $1 })
        try #require(receiver.waitForOutputOrError("listening"), "\(receiver.stderr)")

        let mover = try world.lab.spawn(
            in: .a,
            [
                TwoHosts.program, "migrate", String(server.pid), "--peer", world.lab.address(.client, .ipv4), "--to", "unix:\(path)", "--deadline",
                "3000",
                "--state", state, "--into", socket,
            ], environment: world.environment(.a).merging(cell.end == .source ? fault : [:]) { $1 })
        let status = try mover.wait(timeout: .seconds(20))
        // Exactly one process serves, the stream goes on, and the journals are closed.
        var owner: Owner?
        let isSettled = eventually(within: .seconds(10)) {
            owner = self.owner(world)
            return owner != nil && self.openJournals(world).isEmpty
        }
        #expect(isSettled, "\(cell): status \(status), owner \(String(describing: owner)), \(openJournals(world)) \(mover.stderr)\(receiver.stderr)")
        usleep(200_000)
        client.signal(SIGUSR1)
        let end = try client.wait(timeout: .seconds(20))
        #expect(end == 0, "\(cell): \(client.stdout)\(client.stderr)")
        if let report = try? StreamReport(client.stdout) {
            #expect(report.mismatch == -1 && report.complete && report.errors.isEmpty && report.received > 100_000, "\(cell): \(report)")
        }
        #expect(capture.stop().resetsToClient == 0, "\(cell)")
        if owner == .a {
            let rules = try world.lab.run(in: .a, ["nft", "list", "tables"]).stdout
            #expect(!rules.contains("sc_checkpoint"), "\(cell): \(rules)")
        }
        for child in [acceptor, receiver, server] { child.terminate() }
        endAll(world)
        try world.finish()
        return owner
    }

    /// The one host on which a process has the session's socket out of repair mode; nil when there is none or more than one.
    private func owner(_ world: TwoHosts) -> Owner? {
        var owners: [Owner] = []
        for (host, owner) in [(Lab.Host.a, Owner.a), (.b, .b)] {
            let pids = Lab.processes(in: world.lab.namespace(host)).filter { readText("/proc/\($0)/comm").hasPrefix("sc-stream") }
            for pid in pids {
                owners += world.channels(host, of: pid, port: 7000).filter { $0.state == "ESTABLISHED" && $0.movable }.map { _ in owner }
            }
        }
        return owners.count == 1 ? owners[0] : nil
    }

    /// Journals of moves that are not finished. The target's record of a move that the source has finished without saying so may stay.
    private func openJournals(_ world: TwoHosts) -> [String] {
        [Lab.Host.a, .b].flatMap { host -> [String] in
            let folder = "\(world.lab.folder)/run-\(host.rawValue)/journal"
            return listFolder(folder).filter { !readText("\(folder)/\($0)").contains("\"state\":\"active\"") }
        }
    }

    private func endAll(_ world: TwoHosts) {
        for host in [Lab.Host.a, .b] {
            for pid in Lab.processes(in: world.lab.namespace(host)) where readText("/proc/\(pid)/cmdline").contains("stream") { kill(pid, SIGKILL) }
        }
    }
}

extension String {
    fileprivate func padded(_ width: Int) -> String { self + String(repeating: " ", count: max(1, width - count)) }
}
