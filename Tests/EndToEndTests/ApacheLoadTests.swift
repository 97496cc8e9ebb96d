// Five unmodified clients at once: all their connections move, to and fro, while each of them is at work.

import Glibc
import Support
import Testing

extension ApacheTests {
    /// What ab or wrk says at its end, when it is interrupted.
    private func report(of client: Child) throws -> String {
        client.signal(SIGINT)
        _ = try client.wait(timeout: .seconds(20))
        return client.stdout + client.stderr
    }

    @Test(arguments: MPM.allCases, [false, true]) func `curl, wget, ab, wrk and a kept connection move all at once, again and again`(
        mpm: MPM, isTLS: Bool
    ) throws {
        let scene = try TwoApaches(mpm) { isTLS ? try TwoApaches.tls($0) : [] }
        let lab = scene.world.lab
        let count = TwoApaches.moves(6)
        let big = try lab.makeFile("big.bin", bytes: UInt64(max(40_000_000, count * 1_000_000)))
        let small = try lab.makeFile("small.bin", bytes: 20_000)
        func url(_ name: String) -> String { isTLS ? "https://\(lab.serviceAddress(.ipv4))/\(name)" : scene.here.url(name) }
        let downloads = try [["curl", "-k", "-sS"], ["wget", "--no-check-certificate", "-q", "-t", "1", "-O", "-"]].map {
            try scene.spawn(["python3", TwoApaches.paced] + $0 + [url("big.bin")], stdin: .pipe)
        }
        for download in downloads { try #require(download.waitForOutputOrError("reading"), "\(download.stderr)") }
        let client = try scene.client(tls: isTLS ? "lab" : nil)
        var answers = Set([try client.ask("get /small.bin")])
        let wrk = try scene.spawn(["wrk", "-t", "1", "-c", "2", "-d", "1h", url("small.bin")])
        let ab = try scene.spawn(["ab", "-k", "-q", "-c", "2", "-t", "3600", "-n", "100000000", url("small.bin")])
        // Prefork accepts the last ones when it has started as many processes.
        #expect(eventually(within: .seconds(10), every: .milliseconds(100)) { (try? scene.sessions().count) == 7 })

        var blackouts: [Double] = []
        for _ in 0..<count {
            usleep(100_000)
            let moved = try scene.move()
            #expect(moved.migrated == 7)
            blackouts.append(moved.blackout_us)
            try answers.insert(client.ask("get /small.bin"))
        }
        #expect(answers.count == 1 && answers.first?.hasPrefix("200 \(small.sha256) ") == true, "\(answers)")
        try client.send("stop")
        _ = try client.wait()
        let (atWrk, atAb) = (try report(of: wrk), try report(of: ab))
        let requests = atWrk.firstMatch(of: /(\d+) requests in/).flatMap { Int($0.1) } ?? 0
        #expect(requests > 10 * count && !atWrk.contains("Socket errors") && !atWrk.contains("Non-2xx"), "\(atWrk)")
        let completed = atAb.firstMatch(of: /Complete requests: +(\d+)/).flatMap { Int($0.1) } ?? 0
        let kept = atAb.firstMatch(of: /Keep-Alive requests: +(\d+)/).flatMap { Int($0.1) } ?? 0
        #expect(completed > 10 * count && kept == completed && !atAb.contains("Non-2xx"), "\(atAb)")
        #expect(atAb.contains(/Failed requests: +0\n/), "\(atAb)")
        for download in downloads {
            try download.send("go")
            _ = try download.wait(timeout: .seconds(60))
            #expect(download.stdout.contains("\n0 \(big.sha256)\n"), "\(download.stdout)\(download.stderr)")
        }
        // By whichever host has given the last of it to its socket.
        func logged() -> [String] {
            scene.servers.values.flatMap(\.accessLog).filter { $0.contains("big.bin") && $0.contains("moved=- arrived=1") }
        }
        #expect(eventually(within: .seconds(5), every: .milliseconds(50)) { logged().count == 2 }, "\(logged())")
        #expect(logged().allSatisfy { $0.hasPrefix("10.78.0.2 200 ") })
        if getenv("SC_FIGURES") != nil {
            let sorted = blackouts.sorted()
            print(
                "\(mpm)\(isTLS ? ", TLS" : ""): \(count) moves of 7 sessions, blackout us: median \(sorted[count / 2]), longest \(sorted[count - 1]);",
                "requests: wrk \(requests), ab \(completed)")
        }
        try scene.finish()
    }
}
