// What goes wrong in the middle of things: ends of processes, full disks, taken addresses, signals; and the form of every message about it.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct BadLuckTests {
    private let adopt = ["--exec", "--", Lab.program("sc-hold"), "adopt", "--echo"]

    /// Expects one line `sc-checkpoint: WHAT: WHY (ERRNO). WHAT TO DO` and nothing else.
    private func expectForm(_ message: String, at location: SourceLocation = #_sourceLocation) {
        let line = message.dropLast()
        #expect(message.last == "\n" && !line.contains("\n"), "\(message)", sourceLocation: location)
        let form = /sc-checkpoint: .+: .+ \(E[A-Z0-9]+\)\. .+/
        #expect(line.wholeMatch(of: form) != nil, "\(message)", sourceLocation: location)
    }

    private func expectAlive(_ pair: CarriedTests.Pair, at location: SourceLocation = #_sourceLocation) throws {
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)", sourceLocation: location)
    }

    private func refuses(
        _ pair: CarriedTests.Pair, _ host: Lab.Host, _ arguments: [String], _ word: String, at location: SourceLocation = #_sourceLocation
    )
        throws
    {
        expectForm(try pair.world.refuses(host, arguments, naming: word, at: location), at: location)
        try expectAlive(pair, at: location)
    }

    @Test func `a target that holds the connection's addresses and ports already`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let port = try pair.port
        // A socket in repair mode connects, and ends, without a packet.
        let script = """
            import socket, time
            taken = socket.socket()
            taken.setsockopt(6, 19, 1)
            taken.bind(("10.77.0.100", 7100)); taken.connect(("10.78.0.2", \(port)))
            print("taken", flush=True)
            time.sleep(60)
            """
        let other = try pair.world.lab.spawn(in: .b, ["python3", "-c", script])
        try #require(other.waitForOutputOrError("taken"), "\(other.stderr)")
        let target = "unix:\(try pair.world.receiver(on: .b))"
        try refuses(pair, .a, ["migrate", String(pair.server.pid), "--port", port, "--to", target] + adopt, "EADDRINUSE")
        // A snapshot of a session that goes on cannot be restored beside it.
        let wrote = try pair.world.tool(.a, ["snapshot", String(pair.server.pid), "--port", port, "-o", pair.image])
        try #require(wrote.status == 0, "\(wrote.stderr)")
        try refuses(pair, .a, ["restore", pair.image] + adopt, "EADDRNOTAVAIL")
        other.signal(SIGKILL)
        try other.wait()
        try pair.finish(capture)
    }

    @Test func `a disk that fills up while the image is written`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: false)
        let capture = try Capture(pair.world.lab)
        _ = try pair.server.ask("fill \(pair.index)")
        let port = try pair.port
        let folder = "\(pair.world.lab.folder)/small"
        try pair.world.lab.check(in: nil, ["mkdir", folder])
        for take in ["", "--take"] {
            let tool = "\(TwoHosts.program) snapshot \(pair.server.pid) --port \(port) \(take) -o \(folder)/image"
            let script = "mount -t tmpfs -o size=64k none \(folder) && { \(tool); echo status $?; ls -A \(folder); }"
            let output = try pair.world.lab.run(in: .a, ["unshare", "-m", "sh", "-c", script], environment: pair.world.environment(.a))
            #expect(output.stdout == "status 1\n", "\(output.stdout)\(output.stderr)")
            #expect(output.stderr.contains("ENOSPC"))
            expectForm(output.stderr)
        }
        _ = try pair.server.ask("shutwr \(pair.index)")
        let drained = try pair.client.drainToEnd(0)
        #expect(drained.isExact && drained.hasEnded, "\(drained)")
        try pair.finish(capture)
    }

    @Test func `a server that ends when the move is under way`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let world = pair.world
        // The remote shell ends the server once the source has chosen its session.
        let shell = "\(world.lab.folder)/shell"
        try writeFile(
            shell, "#!/bin/sh\nkill -9 \(pair.server.pid)\nsleep 0.2\nexec ip netns exec \(world.lab.namespace(.b)) \"$2\" receive\n", mode: 0o755)
        let command = [
            "migrate", String(pair.server.pid), "--port", try pair.port, "--to", "b", "--rsh", shell, "--remote-program", TwoHosts.program,
        ]
        expectForm(try world.refuses(.a, command + adopt, naming: "ESRCH"))
        // The kernel has closed the connection with the process, and the client knows.
        let end = try Held(pair.client.ask("read 0 1"))
        #expect(end.eof == true || end.error == "ECONNRESET", "\(end)")
        try pair.finish(nil)
    }

    @Test func `a held session whose server ends leaves nothing`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let world = pair.world
        let took = try world.tool(.a, ["snapshot", String(pair.server.pid), "--port", pair.port, "--take", "-o", pair.image])
        try #require(took.status == 0, "\(took.stderr)")
        pair.server.signal(SIGKILL)
        try pair.server.wait()
        expectForm(try world.refuses(.a, ["resume", pair.image], naming: "ESRCH"))
        expectForm(try world.refuses(.a, ["resume", pair.image], naming: "ENOENT"))
        try pair.finish(nil)
    }

    @Test func `a server that was stopped before stays stopped`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let port = try pair.port
        func isStopped() -> Bool { readText("/proc/\(pair.server.pid)/stat").contains(") T ") }
        pair.server.signal(SIGSTOP)
        #expect(eventually(within: .seconds(2)) { isStopped() })
        let wrote = try pair.world.tool(.a, ["snapshot", String(pair.server.pid), "--port", port, "-o", pair.image])
        #expect(wrote.status == 0, "\(wrote.stderr)")
        #expect(isStopped())
        try pair.world.refuses(
            .a, ["migrate", String(pair.server.pid), "--port", port, "--to", "unix:/nowhere/socket"] + adopt, naming: "ENOENT")
        #expect(isStopped())
        let took = try pair.world.tool(.a, ["snapshot", String(pair.server.pid), "--port", port, "--take", "-o", pair.image])
        #expect(took.status == 0, "\(took.stderr)")
        try #expect(pair.world.tool(.a, ["resume", pair.image]).status == 0)
        #expect(isStopped())
        pair.server.signal(SIGCONT)
        try expectAlive(pair)
        try pair.finish(nil)
    }

    @Test(arguments: [SIGINT, SIGTERM, SIGHUP]) func `a signal in the middle of a move waits for its end`(signal: Int32) throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let world = pair.world
        let script = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/acceptor.py"
        let socket = "\(world.lab.folder)/acceptor.sock"
        let acceptor = try world.lab.spawn(in: .b, ["python3", script, "never-ready", socket])
        try #require(acceptor.waitForOutputOrError("listening"), "\(acceptor.stderr)")
        let command = [
            TwoHosts.program, "migrate", String(pair.server.pid), "--port", try pair.port, "--deadline", "2000", "--to",
            "unix:\(try world.receiver(on: .b))", "--into", socket,
        ]
        let mover = try world.lab.spawn(in: .a, command, environment: world.environment(.a))
        #expect(acceptor.waitForOutputOrError("holding"), "\(acceptor.stderr)")
        mover.signal(signal)
        // 1, or 128 + the signal that took effect once the session was given back.
        let status = try mover.wait()
        #expect(status == 1 || status == 128 + signal, "\(status) \(mover.stderr)")
        try expectAlive(pair)
        acceptor.terminate()
        try pair.finish(capture)
    }

    @Test func `a user's own server still needs the network's capability`() throws {
        let world = try TwoHosts()
        let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        let server = try world.lab.spawn(in: .a, nobody + [Lab.program("sc-hold"), "server", "10.77.0.100", "7100", "--echo"], stdin: .pipe)
        try #require(server.waitForOutputOrError("listening"), "\(server.stderr)")
        let client = try world.lab.spawn(in: .client, [Lab.program("sc-hold"), "client", "10.77.0.100", "7100", "1"], stdin: .pipe)
        try #expect(Held(client.ask("ping 0")).good == 1)
        let folder = "\(world.lab.folder)/nobody"
        try world.lab.check(in: nil, ["install", "-d", "-o", "65534", folder])
        for command in [
            ["snapshot", "-o", "\(folder)/image"], ["snapshot", "--take", "-o", "\(folder)/image"], ["migrate", "--to", "unix:/x"] + adopt,
        ] {
            let arguments = [command[0], String(server.pid), "--peer", "10.78.0.2"] + command.dropFirst()
            let output = try world.lab.run(in: .a, nobody + [TwoHosts.program] + arguments, environment: ["SC_RUN_DIR": "\(folder)/run"])
            #expect(output.status == 1 && output.stderr.contains("CAP_"), "\(command[0]): \(output.stdout)\(output.stderr)")
            expectForm(output.stderr)
            #expect(listNames(folder).isEmpty, "\(listNames(folder))")
            try #expect(Held(client.ask("ping 0")).good == 1)
        }
        for child in [client, server] { child.terminate() }
        try world.finish()
    }

    private func listNames(_ folder: String) -> [String] { listFolder(folder) }

    @Test func `every refusal has the same form`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let pid = String(pair.server.pid)
        let port = try pair.port
        let image = pair.image
        let receiver = "unix:\(try pair.world.receiver(on: .b))"
        let migrate = ["migrate", pid, "--port", port]
        for arguments in [
            ["inspect", "999999"], ["snapshot", pid, "--fd", "77", "-o", image], ["snapshot", pid, "--fd", "1", "-o", image],
            ["snapshot", pid, "--peer", "192.0.2.1", "-o", image], ["snapshot", pid, "--port", port, "-o", "/dev/full"],
            ["snapshot", pid, "--port", port, "-o", "/nowhere/image"], ["snapshot", pid, "--port", port, "-o", "/tmp"],
            ["snapshot", pid, "--port", port, "-o", image, "--state", "/nowhere/state"], ["show", image], ["verify", "/etc/passwd"], ["verify", "/"],
            ["restore", image] + adopt, ["restore", "/etc/passwd", "--dry-run"], ["release", image], ["resume", "/dev/null"],
            migrate + ["--to", "unix:/nowhere"] + adopt, migrate + ["--to", "unix:/\(String(repeating: "x", count: 200))"] + adopt,
            migrate + ["--to", receiver, "--exec", "--", "/nowhere/program"], migrate + ["--to", receiver, "--into", "/nowhere/acceptor"],
            migrate + ["--to", receiver, "--onto", "999999", "--adapter", "http"], migrate + ["--to", "b", "--rsh", "/bin/false"] + adopt,
            migrate + ["--to", "b", "--rsh", "/nowhere/ssh"] + adopt, migrate + ["--to", receiver, "--steer", "exec:/nowhere/steer"] + adopt,
            ["receive", "--listen", "/nowhere/socket"], ["receive", "--listen", String(receiver.dropFirst(5)), "--once"],
        ] {
            let output = try pair.world.tool(.a, arguments)
            #expect(output.status == 1, "\(arguments): \(output.status)")
            #expect(output.stderr.hasPrefix("sc-checkpoint: ") && output.stdout.isEmpty, "\(arguments): \(output.stdout)\(output.stderr)")
            expectForm(output.stderr)
        }
        for arguments in [
            [], ["nonsense"], ["snapshot", pid], ["snapshot", "x", "-o", image], ["snapshot", pid, "-o", image],
            migrate + ["--to", receiver], migrate + ["--to", "-x"] + adopt, migrate + ["--to", receiver, "--steer", "magic"] + adopt,
            migrate + ["--to", receiver, "--via", "nowhere"] + adopt, migrate + ["--to", receiver, "--exec"], ["restore", image, "--exec"],
            ["show", image, "--nonsense"],
        ] {
            let output = try pair.world.tool(.a, arguments)
            #expect(arguments.isEmpty || output.status == 2, "\(arguments): \(output.status) \(output.stdout)\(output.stderr)")
        }
        try expectAlive(pair)
        try pair.finish(capture)
    }
}
