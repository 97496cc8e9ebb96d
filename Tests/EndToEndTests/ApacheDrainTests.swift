// Apache's sessions leave a host, or an old Apache for a new one on the same host, as its operator would have them leave.

import FoundationEssentials
import Glibc
import Support
import Testing

extension ApacheTests {
    /// Clients on the client's host: `count` slow downloads and `count` idle connections, all under way.
    private func crowd(_ scene: TwoApaches, _ count: Int) throws -> Child {
        let big = try scene.world.lab.makeFile("big.bin", bytes: 3_000_000), small = try scene.world.lab.makeFile("small.bin", bytes: 20_000)
        let client = try scene.spawn(
            ["python3", TwoApaches.crowd, scene.world.lab.serviceAddress(.ipv4), String(count), big.sha256, small.sha256], stdin: .pipe)
        try #require(client.waitForOutputOrError("ready", timeout: .seconds(30)), "\(client.stderr)\(scene.here.errorLog)")
        return client
    }

    private func finish(_ client: Child, _ count: Int, _ scene: TwoApaches) throws {
        try client.send("go")
        #expect(
            client.waitForOutputOrError("good \(2 * count) bad 0", timeout: .seconds(60)),
            "\(client.stdout)\(client.stderr)\(scene.servers.mapValues(\.errorLog))")
        _ = try client.wait()
        try scene.finish()
    }

    private func drain(_ scene: TwoApaches, _ arguments: [String]) throws -> Drained {
        let output = try scene.agents.tool(.a, ["drain", "--service", "www", "--json"] + arguments)
        try #require(output.status == 0, "\(output.stdout)\(output.stderr)\(scene.here.errorLog)")
        return try JSONDecoder().decode(Drained.self, from: Data(output.stdoutBytes))
    }

    @Test(arguments: MPM.allCases) func `a drained service leaves nobody behind`(mpm: MPM) throws {
        let wanted = getenv("SC_CROWD").flatMap { Int(String(cString: $0)) } ?? 30
        // Prefork has a process for each of 200. The others end processes, and with them idle connections, when they have many idle threads; and the event
        // MPM ends idle connections when it has none, as at the coming of a crowd.
        let count = mpm == .prefork ? min(wanted, 100) : wanted
        let scene = try TwoApaches(mpm, lines: mpm == .prefork ? [] : ["StartServers \(max(2, count / 32))", "MaxSpareThreads 1024"])
        let client = try crowd(scene, count)
        let result = try drain(scene, ["--config", scene.agents.policy(.a), "--to", "tls://b"])
        #expect(result.moved == 2 * count && result.stayed == 0 && result.ended == 0, "\(result)")
        if getenv("SC_FIGURES") != nil { print("\(mpm): \(result.moved) in \(result.seconds) s, longest \(result.longest_blackout_us) us") }
        try finish(client, count, scene)
    }

    @Test func `idle connections that have come stay while the same processes take others in`() throws {
        let scene = try TwoApaches()
        let small = ["StartServers 1", "ThreadsPerChild 8", "MinSpareThreads 12", "MaxSpareThreads 128", "MaxRequestWorkers 128"]
        try scene.restart(.b) { _ in small + ["LogLevel warn sc:notice mpm_event:trace1"] }
        let client = try crowd(scene, 20)
        let result = try drain(scene, ["--config", scene.agents.policy(.a), "--to", "tls://b", "--max-in-flight", "10"])
        #expect(result.moved == 40 && result.stayed == 0 && result.ended == 0, "\(result)")
        #expect(!scene.servers[.b]!.errorLog.contains("All workers are busy"), "\(scene.servers[.b]!.errorLog)")
        try finish(client, 20, scene)
    }

    /// One connection after the other, until it is stopped; says how many failed.
    private static let newcomer = """
        import http.client, signal, sys
        ended = []
        signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
        good = bad = 0
        while not ended:
            try:
                connection = http.client.HTTPConnection(sys.argv[1], timeout=10)
                connection.request("GET", "/small.bin")
                good, bad = good + (len(connection.getresponse().read()) == 20000), bad
                connection.close()
            except Exception as error:
                bad += 1
                print(repr(error), file=sys.stderr, flush=True)
        print("came", "many" if good > 20 else good, "failed", bad, flush=True)
        """

    @Test(arguments: MPM.allCases) func `a new Apache on the same host takes over, and the old one ends`(mpm: MPM) throws {
        let lines = ["ListenCoresBucketsRatio 1000"]
        let scene = try TwoApaches(mpm, lines: lines)
        try scene.world.lab.check(in: .a, ["sysctl", "-qw", "net.ipv4.tcp_migrate_req=1"])
        let client = try crowd(scene, 10)
        let newcomer = try scene.spawn(["python3", "-c", Self.newcomer, scene.world.lab.serviceAddress(.ipv4)])
        let old = scene.here
        try scene.start(.a, mpm, lines, name: "new")
        let result = try drain(scene, [String(old.pid), "--to", "self"])
        #expect(result.moved >= 20 && result.stayed == 0, "\(result)")
        // What has come since is served by the old one to its end. A process of prefork that is about to poll its listeners when it is told waits out its
        // poll first, 10 s, and the parent looks once a second.
        old.signal(SIGWINCH)
        #expect(old.hasEnded(within: .seconds(30)), "\(old.errorLog)")
        #expect(scene.here.pid != old.pid)
        newcomer.terminate()
        #expect(newcomer.stdout.contains("came many failed 0"), "\(newcomer.stdout)\(newcomer.stderr)")
        try finish(client, 10, scene)
    }
}
