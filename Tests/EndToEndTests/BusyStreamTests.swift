// Streams as fast as the machine allows, moved, taken and given back: every byte is checked by every process that had a part in them.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct BusyStreamTests {
    /// A stream without a pace between the client and a server on A.
    private struct Stream {
        let world: TwoHosts
        let family: Family
        let capture: Capture
        let server, client: Child
        let state: String

        init(_ family: Family, _ more: [String] = []) throws {
            self.family = family
            world = try TwoHosts()
            let program = Lab.program("sc-stream")
            let address = world.lab.serviceAddress(family)
            capture = try Capture(world.lab)
            server = try world.lab.spawn(in: .a, [program, "server", address, "7000", "--seed", "23"] + more)
            try #require(server.waitForOutputOrError("listening"))
            client = try world.lab.spawn(in: .client, [program, "client", address, "7000", "--seed", "23", "--seconds", "300"] + more)
            state = "\(world.lab.folder)/stream-state"
            let pace = more.count == 2 ? "\(more[0].dropFirst(2))=\(more[1])\n" : ""
            try writeFile(state, "seed=23\n\(pace)")
            try world.waitForSession(on: .a, server.pid, port: 7000)
        }

        var filter: [String] { ["--peer", world.lab.address(.client, family)] }

        /// The hand-over to an adopter that writes its report to a file of this name.
        func adopter(_ name: String) -> [String] {
            ["--exec", "--", "sh", "-c", "exec \(Lab.program("sc-stream")) adopt > \(world.lab.folder)/\(name) 2>&1"]
        }

        /// The process on the host that has the stream, without the first server.
        func holder(on host: Lab.Host) throws -> Int32 {
            var found: Int32?
            _ = eventually(within: .seconds(10)) {
                found = Lab.processes(in: world.lab.namespace(host)).first {
                    $0 != server.pid && readText("/proc/\($0)/comm").hasPrefix("sc-stream")
                }
                return found != nil
            }
            return try #require(found, "no adopter on \(host.rawValue)")
        }

        /// Ends the stream at the client and expects that it was whole, and that the wire shows no reset.
        func finish() throws {
            client.signal(SIGUSR1)
            try #expect(client.wait(timeout: .seconds(60)) == 0, "\(client.stdout)\(client.stderr)")
            let report = try StreamReport(client.stdout)
            #expect(report.mismatch == -1 && report.complete && report.errors.isEmpty, "\(report)")
            #expect(report.received > 100_000 && report.sent > 100_000, "\(report)")
            let packets = capture.stop()
            #expect(packets.resetsToClient == 0 && packets.resetsFromClient == 0, "\(packets.segments.filter(\.isRST))")
            server.terminate()
            try world.lab.routeService(to: .a)
            try world.finish()
        }
    }

    @Test(arguments: Family.allCases) func `a stream at full speed is moved six times, and nobody sees a wrong byte`(family: Family) throws {
        let stream = try Stream(family)
        var pid = stream.server.pid
        for move in 0..<6 {
            let (source, target): (Lab.Host, Lab.Host) = move.isMultiple(of: 2) ? (.a, .b) : (.b, .a)
            let result = try stream.world.migrate(
                pid, from: source, to: target, stream.filter + ["--state", stream.state] + stream.adopter("adopter-\(move)"))
            #expect(result.migrated == 1)
            if move == 0 { stream.server.terminate() }
            pid = try stream.holder(on: target)
            usleep(150_000)
        }
        try stream.finish()
        try #expect(StreamReport(stream.server.stdout).mismatch == -1)
        for move in 0..<6 {
            let path = "\(stream.world.lab.folder)/adopter-\(move)"
            let report = readText(path)
            #expect(report.contains("\"mismatch\":-1"), "adopter \(move): \(report)")
        }
    }

    @Test(arguments: Family.allCases) func `a stream is taken and given back, again and again`(family: Family) throws {
        let stream = try Stream(family)
        for round in 0..<4 {
            let image = "\(stream.world.lab.folder)/taken-\(round).sci"
            let took = try stream.world.tool(.a, ["snapshot", String(stream.server.pid), "--take", "-o", image] + stream.filter)
            try #require(took.status == 0, "\(took.stderr)")
            usleep(50_000)
            let gave = try stream.world.tool(.a, ["resume", image])
            try #require(gave.status == 0, "\(gave.stderr)")
            usleep(100_000)
        }
        try stream.finish()
        let report = try StreamReport(stream.server.stdout)
        #expect(report.mismatch == -1 && report.errors.isEmpty, "\(report)")
    }

    @Test(arguments: Family.allCases) func `a stream is carried to B by hand`(family: Family) throws {
        let stream = try Stream(family, ["--rate", "4000000"])
        let world = stream.world
        let image = "\(world.lab.folder)/carried.sci"
        let took = try world.tool(
            .a, ["snapshot", String(stream.server.pid), "--take", "-o", image, "--state", stream.state] + stream.filter)
        try #require(took.status == 0, "\(took.stderr)")
        let copy = "\(world.lab.folder)/copied.sci"
        try writeFile(copy, readBytes(image))
        let restored = try world.lab.spawn(
            in: .b, [TwoHosts.program, "restore", copy, "--exec", "--", Lab.program("sc-stream"), "adopt"], environment: world.environment(.b))
        try #require(restored.waitForOutputOrError("adopted"), "\(restored.stderr)")
        // Only now: a host without the session would answer the client's packets with a reset.
        try world.lab.routeService(to: .b)
        try #expect(world.tool(.a, ["release", image]).status == 0)
        usleep(300_000)
        try stream.finish()
        try #expect(restored.wait() == 0)
        let report = try StreamReport(restored.stdout)
        #expect(report.mismatch == -1 && report.complete && report.errors.isEmpty, "\(report)")
    }

    @Test func `with --steer none the user switches the path`() throws {
        // The client is silent while nobody has its packets: what comes to a host without the session is answered with a reset.
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let result = try pair.world.migrate(
            pair.server.pid, from: .a, to: .b,
            ["--port", pair.port, "--steer", "none", "--exec", "--", Lab.program("sc-hold"), "adopt", "--echo"])
        #expect(result.migrated == 1)
        try pair.world.lab.routeService(to: .b)
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)")
        for pid in Lab.processes(in: pair.world.lab.namespace(.b)) where readText("/proc/\(pid)/comm").hasPrefix("sc-hold") { kill(pid, SIGTERM) }
        try pair.finish(capture)
    }
}
