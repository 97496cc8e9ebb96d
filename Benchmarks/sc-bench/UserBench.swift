// What a user sees: the size of an image, the start of the tool, the blackout of a move.

import FoundationEssentials
import Glibc
import SCEngine
import SCImage
import Support

/// Bytes that an image of these sessions takes for each of them.
func benchImage(_ channels: [TCPChannel]) throws -> Double {
    var inventory = Inventory()
    (inventory.host, inventory.tool, inventory.pid, inventory.command) = ("host", "sc-checkpoint \(toolVersion)", 812, "server")
    var writer = try ImageWriter(MemorySink(), inventory)
    for channel in channels { try writer.write(Session(id: .random(), channels: [channel])) }
    try writer.finish()
    return Double(writer.bytesWritten) / Double(channels.count)
}

/// Start-to-end times of the tool and of a program that does nothing, in turn.
func benchStart() throws {
    func milliseconds(_ arguments: [String]) throws -> Double {
        let start = monotonicNanoseconds()
        let pid = try spawn(arguments, environment: nil, in: nil, standard: (-1, -1, -1), passing: [], listenPID: false)
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0, errno == EINTR {}
        guard status == 0 else { throw LabError("\(arguments[0]) ended with \(status)") }
        return Double(monotonicNanoseconds() - start) / 1_000_000
    }
    let program = Lab.program("sc-checkpoint")
    var (tool, nothing): ([Double], [Double]) = ([], [])
    for _ in 0..<50 {
        nothing.append(try milliseconds(["/bin/true"]))
        tool.append(try milliseconds([program, "--version"]))
    }
    print(
        "start, medians of 50: sc-checkpoint --version \(text(Spread(tool).median, width: 0)) ms, /bin/true \(text(Spread(nothing).median, width: 0)) ms"
    )
}

/// One idle session of an echo server, moved to and fro between two hosts of a lab.
func benchBlackout() throws {
    struct Stage: Decodable {
        var name: String
        var duration_us: Double
    }
    struct Moved: Decodable {
        var blackout_us: Double
        var stages: [Stage]
    }
    let lab = try Lab()
    defer { lab.down() }
    let tool = Lab.program("sc-checkpoint")
    let hold = Lab.program("sc-hold")
    func environment(_ host: Lab.Host) -> [String: String] { ["SC_RUN_DIR": "\(lab.folder)/run-\(host.rawValue)"] }
    let server = try lab.spawn(in: .a, [hold, "server", lab.serviceAddress(.ipv4), "7100", "--echo"], stdin: .pipe)
    // A connection that asks whether the server listens would stay with it, half closed, and be moved as well.
    try server.waitForOutput("listening")
    let client = try lab.spawn(in: .client, [hold, "client", lab.serviceAddress(.ipv4), "7100", "1"], stdin: .pipe)
    _ = try client.ask("ping 0")
    for host in [Lab.Host.a, .b] {
        let receiver = try lab.spawn(in: host, [tool, "receive", "--listen", "\(lab.folder)/\(host.rawValue).sock"], environment: environment(host))
        _ = eventually(within: .seconds(5)) { receiver.stderr.contains("listening") }
    }
    var pid = server.pid
    var former: Set<Int32> = [pid]
    var gaps: [Double] = []
    var (names, stages): ([String], [String: [Double]]) = ([], [:])
    for move in 0..<21 {
        let (source, target): (Lab.Host, Lab.Host) = move.isMultiple(of: 2) ? (.a, .b) : (.b, .a)
        let output = try lab.run(
            in: source,
            [
                tool, "migrate", "--json", String(pid), "--all", "--to", "unix:\(lab.folder)/\(target.rawValue).sock", "--exec", "--", hold, "adopt",
                "--echo",
            ],
            environment: environment(source))
        guard output.status == 0 else { throw LabError("move \(move + 1): \(output.stderr)") }
        let moved = try JSONDecoder().decode(Moved.self, from: Data(output.stdoutBytes))
        gaps.append(moved.blackout_us / 1000)
        for stage in moved.stages { stages[stage.name, default: []].append(stage.duration_us / 1000) }
        if names.isEmpty { names = moved.stages.map(\.name) }
        let pong = try client.ask("ping 0")
        guard pong.contains("\"good\":1") else { throw LabError("the session did not survive: \(pong)") }
        if move == 0 { server.terminate() }
        _ = eventually(within: .seconds(5)) {
            pid =
                Lab.processes(in: lab.namespace(target)).first {
                    !former.contains($0) && Support.readText("/proc/\($0)/comm").hasPrefix("sc-hold")
                } ?? 0
            return pid != 0
        }
        former.insert(pid)
    }
    let spread = Spread(gaps)
    print(
        "blackout of an idle session, \(gaps.count) moves in the lab: median \(text(spread.median, width: 0)) ms, \(text(spread.low, width: 0))-\(text(spread.high, width: 0)) ms (target 5): \(verdict(spread.median <= 5))"
    )
    print(
        "  its stages, medians in ms (offer and prepare come before it): "
            + names.map { "\($0) \(text(Spread(stages[$0] ?? [0]).median, width: 0))" }.joined(separator: ", "))
}
