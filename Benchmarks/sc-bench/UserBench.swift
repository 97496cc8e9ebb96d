// What a user sees: the size of an image, the start of the tool, the blackout of a move.

import FoundationEssentials
import Glibc
import SCEngine
import SCImage
import Support

/// Bytes of an image for each of a thousand idle sessions.
func benchImage() throws {
    var channel = TCPChannel(local: SocketAddress(IPAddress("10.77.0.100")!, port: 443), peer: SocketAddress(IPAddress("10.78.0.2")!, port: 40112))
    channel.options.timestamps = true
    channel.options.sack = true
    channel.options.windowScaling = true
    (channel.options.sendScale, channel.options.receiveScale, channel.options.mssClamp) = (7, 7, 1460)
    (channel.writeSeq, channel.rcvNxt, channel.timestamp) = (3_439_253_736, 1_674_596_409, 2_448_814_241)
    (channel.window.sndWl1, channel.window.sndWnd, channel.window.maxWindow) = (1_674_596_409, 64256, 64256)
    (channel.window.rcvWnd, channel.window.rcvWup) = (65160, 1_674_596_409)
    (channel.sendMSS, channel.congestionWindow, channel.congestionControl) = (1448, 10, "bbr")
    (channel.sendBuffer, channel.receiveBuffer) = (87040, 131072)
    var writer = try ImageWriter(MemorySink(), Inventory())
    let start = monotonicNanoseconds()
    for _ in 0..<1000 { try writer.write(Session(id: .random(), channels: [channel])) }
    try writer.finish()
    let time = Double(monotonicNanoseconds() - start) / 1_000_000
    print("\nimage: \(writer.bytesWritten / 1000) bytes for an idle session of 1000 (target 160), \(text(time, width: 0)) µs each to write")
}

/// The median start-to-end time of a program that does nothing, and of the tool.
func benchStart() throws {
    func median(_ arguments: [String]) throws -> Double {
        var times: [Double] = []
        for _ in 0..<50 {
            let start = monotonicNanoseconds()
            _ = try runCommand(arguments)
            times.append(Double(monotonicNanoseconds() - start) / 1_000_000)
        }
        return Spread(times).median
    }
    let tool = Lab.program("sc-checkpoint")
    print("start: sc-checkpoint --version \(text(try median([tool, "--version"]), width: 0)) ms, true \(text(try median(["true"]), width: 0)) ms")
}

/// One idle session of an echo server, moved to and fro between two hosts of a lab.
func benchBlackout() throws {
    struct Moved: Decodable { var blackout_us: Double }
    let lab = try Lab()
    defer { lab.down() }
    let tool = Lab.program("sc-checkpoint")
    let hold = Lab.program("sc-hold")
    func environment(_ host: Lab.Host) -> [String: String] { ["SC_RUN_DIR": "\(lab.folder)/run-\(host.rawValue)"] }
    let server = try lab.spawn(in: .a, [hold, "server", lab.serviceAddress(.ipv4), "7100", "--echo"], stdin: .pipe)
    guard lab.waitUntilAccepting(.client, lab.serviceAddress(.ipv4), 7100) else { throw LabError("the server does not listen") }
    let client = try lab.spawn(in: .client, [hold, "client", lab.serviceAddress(.ipv4), "7100", "1"], stdin: .pipe)
    _ = try client.ask("ping 0")
    for host in [Lab.Host.a, .b] {
        let receiver = try lab.spawn(in: host, [tool, "receive", "--listen", "\(lab.folder)/\(host.rawValue).sock"], environment: environment(host))
        _ = eventually(within: .seconds(5)) { receiver.stderr.contains("listening") }
    }
    var pid = server.pid
    var former: Set<Int32> = [pid]
    var gaps: [Double] = []
    for move in 0..<21 {
        let (source, target): (Lab.Host, Lab.Host) = move.isMultiple(of: 2) ? (.a, .b) : (.b, .a)
        // The probe that waited for the server is half closed at most; the session is the one that is established.
        let output = try lab.run(
            in: source,
            [
                tool, "migrate", "--json", String(pid), "--all", "--to", "unix:\(lab.folder)/\(target.rawValue).sock", "--exec", "--", hold, "adopt",
                "--echo",
            ],
            environment: environment(source))
        guard output.status == 0 else { throw LabError(output.stderr) }
        gaps.append(try JSONDecoder().decode(Moved.self, from: Data(output.stdoutBytes)).blackout_us / 1000)
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
        "blackout of an idle session, \(gaps.count) moves in the lab: median \(text(spread.median, width: 0)) ms, \(text(spread.low, width: 0))-\(text(spread.high, width: 0)) ms (target 5)"
    )
}
