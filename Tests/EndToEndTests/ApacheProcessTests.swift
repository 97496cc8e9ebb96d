// Apache's processes come and go, and a browser comes with many connections, while sessions move.

import Glibc
import Support
import Testing

extension ApacheTests {
    @Test func `graceful restarts leave sessions movable`() throws {
        let scene = try TwoApaches()
        let lab = scene.world.lab
        let file = try lab.makeFile("big.bin", bytes: 40_000_000)
        let download = try scene.spawn(["curl", "-sS", "--limit-rate", "5M", "-o", "\(lab.folder)/saved", scene.here.url("big.bin")])
        try scene.moves(2, of: download) {
            scene.here.signal(SIGUSR1)
            usleep(700_000)
        }
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        try #expect(lab.sha256("\(lab.folder)/saved") == file.sha256)
        try scene.finish()
    }

    private static let browser = "/usr/bin/chromium"

    /// A page of scripts, each of which checks what it brings along.
    private func makePage(_ lab: Lab, scripts: Int) throws {
        var page = "<html><body><script>var good = 0, bad = 0</script>\n"
        for index in 0..<scripts {
            let text = (0..<4000).map { String(($0 &* 7919 &+ index &* 104_729) % 1_000_003, radix: 36) }.joined(separator: " ")
            let sum = text.utf8.reduce(UInt32(7)) { ($0 &* 31) &+ UInt32($1) }
            let script = """
                (function () { var text = "\(text)", sum = 7, begin = Date.now()
                for (var i = 0; i < text.length; i++) sum = (Math.imul(sum, 31) + text.charCodeAt(i)) >>> 0
                if (sum === \(sum)) good++; else bad++
                while (Date.now() - begin < 20); })()
                """
            try writeFile("\(lab.documentRoot)/s\(index).js", script, mode: 0o644)
            page += "<script src=\"/s\(index).js\" onerror=\"bad++\"></script>\n"
        }
        page += "<script>document.write(\"<p>good=\" + good + \" bad=\" + bad + \"</p>\")</script></body></html>\n"
        try writeFile("\(lab.documentRoot)/index.html", page, mode: 0o644)
    }

    /// SC_MOVES tells how often at least; the page grows with it.
    @Test(.enabled(if: access(browser, X_OK) == 0, "needs chromium"), arguments: MPM.allCases)
    func `a browser loads a page of many files while its connections move`(mpm: MPM) throws {
        let scene = try TwoApaches(mpm)
        let lab = scene.world.lab
        let least = TwoApaches.moves(3), scripts = max(300, least * 16)
        try makePage(lab, scripts: scripts)
        let browser = try scene.spawn([
            Self.browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--user-data-dir=\(lab.folder)/browser",
            "--dump-dom",
            "--timeout=\(60_000 + least * 1000)", scene.here.url("index.html"),
        ])
        let begun = eventually(within: .seconds(30)) { scene.servers[.a]!.accessLog.contains { $0.contains("/s3.js") } }
        #expect(begun, "\(browser.stderr)")
        var moved = 0
        while browser.poll() == nil {
            // A connection may end in the moment between.
            if try scene.moveIfPossible() { moved += 1 }
        }
        try #expect(browser.wait(timeout: .seconds(60)) == 0)
        #expect(browser.stdout.contains("good=\(scripts) bad=0"), "\(browser.stdout.suffix(300))\(browser.stderr.suffix(1000))")
        #expect(moved >= least)
        if getenv("SC_FIGURES") != nil { print("browser, \(mpm): \(moved) moves of all its connections, \(scripts) files") }
        try scene.finish()
    }

    @Test(arguments: MPM.allCases) func `the downloads of processes that are killed go on in others, and move`(mpm: MPM) throws {
        let scene = try TwoApaches(mpm)
        let file = try scene.world.lab.makeFile("big.bin", bytes: 50_000_000)
        let downloads = try (0..<4).map { _ in
            try scene.spawn(["python3", TwoApaches.paced, "curl", "-sS", scene.here.url("big.bin")], stdin: .pipe)
        }
        for download in downloads { try #require(download.waitForOutputOrError("reading"), "\(download.stderr)") }
        for _ in 0..<2 {
            #expect(eventually(within: .seconds(3), every: .milliseconds(50)) { (try? scene.sessions().count) == 4 })
            // First the process of one, of which a threaded MPM serves others as well; then all.
            for count in [1, 4] {
                let victims = Set(try scene.here.servingEach().prefix(count))
                for victim in victims { kill(victim, SIGKILL) }
                let areServed = eventually(within: .seconds(10), every: .milliseconds(20)) {
                    (try? scene.here.servingEach()).map { $0.count == 4 && victims.isDisjoint(with: $0) } ?? false
                }
                #expect(areServed, "\(scene.here.errorLog)")
            }
            try #expect(scene.move().migrated == 4)
        }
        kill(try #require(scene.here.broker), SIGKILL)
        let areKnown = eventually(within: .seconds(5), every: .milliseconds(50)) {
            (try? scene.agents.tool(scene.home, ["agent", "--status"]).stdout.contains("of www, 4 sessions")) ?? false
        }
        #expect(areKnown, "\(scene.here.errorLog)")
        try #expect(scene.move().migrated == 4)
        for download in downloads {
            try #require(download.poll() == nil, "\(download.stdout)\(download.stderr)")
            try download.send("go")
            _ = try download.wait(timeout: .seconds(60))
            #expect(download.stdout.contains("\n0 \(file.sha256)\n"), "\(download.stdout)\(download.stderr)")
        }
        try scene.finish()
    }

    /// Its pidfd cannot be had any longer; its sessions can.
    @Test func `a process that has died before the broker hears of it leaves its sessions to others`() throws {
        let scene = try TwoApaches()
        let file = try scene.world.lab.makeFile("big.bin", bytes: 30_000_000)
        let broker = try #require(scene.here.broker)
        let former = scene.here.children
        kill(broker, SIGSTOP)
        scene.here.signal(SIGUSR1)
        let isNew = eventually(within: .seconds(5), every: .milliseconds(50)) { former.filter { $0 != broker }.allSatisfy { kill($0, 0) != 0 } }
        #expect(isNew, "\(scene.here.errorLog)")
        let downloads = try (0..<3).map { _ in
            try scene.spawn(["python3", TwoApaches.paced, "curl", "-sS", scene.here.url("big.bin")], stdin: .pipe)
        }
        for download in downloads { try #require(download.waitForOutputOrError("reading"), "\(download.stderr)") }
        let victims = Set(try scene.here.servingEach())
        for victim in victims { kill(victim, SIGKILL) }
        // Until the server has reaped them.
        #expect(eventually(within: .seconds(5), every: .milliseconds(50)) { victims.allSatisfy { kill($0, 0) != 0 } })
        kill(broker, SIGCONT)
        let areServed = eventually(within: .seconds(10), every: .milliseconds(20)) {
            (try? scene.here.servingEach()).map { $0.count == 3 && victims.isDisjoint(with: $0) } ?? false
        }
        #expect(areServed, "\(scene.here.errorLog)")
        try #expect(scene.move().migrated == 3)
        for download in downloads {
            try download.send("go")
            _ = try download.wait(timeout: .seconds(60))
            #expect(download.stdout.contains("\n0 \(file.sha256)\n"), "\(download.stdout)\(download.stderr)")
        }
        try scene.finish()
    }

    // Before the decision the processes wait for it; after it they have not heard of it.
    @Test(arguments: MPM.allCases, ["decide-before", "steer-after"]) func `sessions come although the processes that take them in are killed`(
        mpm: MPM, point: String
    ) throws {
        let scene = try TwoApaches(mpm)
        let file = try scene.world.lab.makeFile("big.bin", bytes: 30_000_000)
        let victims = "\(scene.world.lab.folder)/victims"
        let select = "ps --ppid \(scene.servers[.b]!.pid) -o pid=,comm= | awk '$2 == \"apache2\" { print $1 }'"
        try scene.restartAgent(["SC_FAULT": "\(point):run:\(select) | tee \(victims) | xargs kill -9"])
        let client = try scene.client()
        let download = try scene.spawn(["python3", TwoApaches.paced, "curl", "-sS", scene.here.url("big.bin")], stdin: .pipe)
        try #require(download.waitForOutputOrError("reading"), "\(download.stderr)")
        let answer = try client.ask("get /big.bin")
        #expect(eventually(within: .seconds(3), every: .milliseconds(50)) { (try? scene.sessions().count) == 2 })
        try #expect(scene.move().migrated == 2)
        let killed = readText(victims).split(separator: "\n").compactMap { Int32($0) }
        #expect(killed.count > 2 && eventually(within: .seconds(5)) { killed.allSatisfy { kill($0, 0) < 0 } }, "\(killed)")
        try #expect(client.ask("get /big.bin") == answer)
        try #require(download.poll() == nil, "\(download.stdout)\(download.stderr)")
        try download.send("go")
        _ = try download.wait(timeout: .seconds(30))
        #expect(download.stdout.contains("\n0 \(file.sha256)\n"), "\(download.stdout)\(download.stderr)\(scene.here.errorLog)")
        try client.send("stop")
        _ = try client.wait()
        try scene.finish()
    }

    @Test(arguments: MPM.allCases) func `idle connections are known to the next broker, and move`(mpm: MPM) throws {
        let scene = try TwoApaches(mpm)
        let file = try scene.world.lab.makeFile("small.bin", bytes: 20_000)
        let clients = [try scene.client(), try scene.client(), try scene.client()]
        var answers: Set<String> = []
        for client in clients { try answers.insert(String(client.ask("get /small.bin").prefix(68))) }
        let former = try #require(scene.here.broker)
        kill(former, SIGKILL)
        let isKnown = eventually(within: .seconds(5), every: .milliseconds(50)) {
            guard let next = scene.here.broker, next != former else { return false }
            return (try? scene.agents.tool(.a, ["agent", "--status"]).stdout.contains("server \(next) of www, 3 sessions")) ?? false
        }
        #expect(isKnown, "\(scene.here.errorLog)")
        try #expect(scene.move().migrated == 3)
        for client in clients {
            try answers.insert(String(client.ask("get /small.bin").prefix(68)))
            try client.send("stop")
            _ = try client.wait()
        }
        #expect(answers == ["200 \(file.sha256)"])
        try scene.finish()
    }

    // The event MPM counts the connections that wait for their clients in its own time (on the way to a timeout), moved or not.
    @Test(arguments: [MPM.worker, .prefork]) func `the status page of the other host has the session, its client and its request`(mpm: MPM) throws {
        let scene = try TwoApaches(mpm)
        let lab = scene.world.lab
        let file = try lab.makeFile("big.bin", bytes: 40_000_000)
        let download = try scene.spawn(["curl", "-sS", "--limit-rate", "4M", "-o", "\(lab.folder)/saved", scene.here.url("big.bin")])
        func has(_ host: Lab.Host) -> Bool {
            let client = lab.address(.client, .ipv4)
            guard let page = try? lab.check(in: host, ["curl", "-sS", scene.here.url("status")]) else { return false }
            let lines = page.split(separator: "\n")
            return lines.indices.contains { index in
                index > 1 && lines[index].contains("<td>\(client)</td>") && lines[index].contains("GET /big.bin HTTP/1.1")
                    && lines[index - 2].hasSuffix("<b>W</b>")
            }
        }
        #expect(eventually(within: .seconds(3), every: .milliseconds(50)) { has(.a) })
        try scene.move()
        #expect(eventually(within: .seconds(3), every: .milliseconds(50)) { has(.b) && !has(.a) })
        // A graceful restart and its end leave the session alone, and the other host's processes are all accounted for.
        scene.servers[.b]!.signal(SIGUSR1)
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        try #expect(lab.sha256("\(lab.folder)/saved") == file.sha256)
        let isIdle = eventually(within: .seconds(5), every: .milliseconds(200)) {
            (try? lab.check(in: .b, ["curl", "-sS", scene.here.url("status?auto")]).contains("BusyWorkers: 1\n")) ?? false
        }
        #expect(isIdle)
        try scene.finish()
    }
}
