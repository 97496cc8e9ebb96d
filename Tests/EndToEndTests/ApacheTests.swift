// The distribution's apache2 with mod_sc: its sessions move between two servers while unmodified clients go on.

import FoundationEssentials
import Glibc
import Support
import Testing

/// Two hosts with agents and Apaches, and what is asked of them.
final class TwoApaches {
    typealias MPM = ApacheOptions.MPM
    let world: TwoHosts
    let agents: Agents
    let capture: Capture
    private(set) var servers: [Lab.Host: Apache] = [:]
    /// Where the sessions are.
    var home = Lab.Host.a
    private var all: [Apache] = []

    static let module = repository + "/.build/apache/mod_sc.so"
    private static let repository = #filePath.split(separator: "/").dropLast(3).map { "/" + $0 }.joined()
    private static let script = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/http_client.py"
    static let services = """
        {www: {ports: [80], peers: ["a", "b"], accept: [{server: true}], server_users: ["www-data"]}}
        """

    /// Moves for the tests that repeat; SC_MOVES names another number.
    static func moves(_ usual: Int) -> Int { getenv("SC_MOVES").flatMap { Int(String(cString: $0)) } ?? usual }

    init(_ mpm: MPM = .event, lines: [String] = [], files: (Lab) throws -> Void = { _ in }) throws {
        world = try TwoHosts()
        try world.lab.check(in: nil, ["make", "-C", Self.repository + "/integrations/apache"], timeout: .seconds(120))
        try files(world.lab)
        agents = try Agents(world, services: Self.services, limits: "{offers_per_second: 1000, sessions_in_flight: 5000}")
        for host in [Lab.Host.a, .b] { try agents.start(host) }
        try agents.join()
        capture = try Capture(world.lab)
        for host in [Lab.Host.a, .b] { try start(host, mpm, lines) }
    }

    /// Starts an Apache, which has registered when this returns.
    @discardableResult
    func start(_ host: Lab.Host, _ mpm: MPM = .event, _ lines: [String] = [], name: String = "apache") throws -> Apache {
        var options = ApacheOptions()
        (options.mpm, options.module, options.lines, options.name) = (mpm, Self.module, lines, name)
        options.environment = agents.environment(host)
        let server = try Apache(world.lab, on: host, options)
        servers[host] = server
        all.append(server)
        let isKnown = eventually(within: .seconds(5), every: .milliseconds(50)) {
            (try? agents.tool(host, ["agent", "--status"]).stdout.contains("server \(server.broker ?? 0) of www")) ?? false
        }
        try #require(isKnown, "\(server.errorLog)\(agents.log(host))")
        return server
    }

    var here: Apache { servers[home]! }
    private func other(_ host: Lab.Host) -> Lab.Host { host == .a ? .b : .a }

    func arguments(_ verb: String = "migrate") -> [String] {
        [verb, String(here.pid), "--to", "tls://\(other(home))", "--service", "www", "--json", "--peer", world.lab.address(.client, .ipv4)]
    }

    /// The client's sessions go to the other host.
    @discardableResult
    func move(at location: SourceLocation = #_sourceLocation) throws -> Migrated {
        let output = try agents.tool(home, arguments() + ["--all"])
        try #require(
            output.status == 0, "\(output.stderr)\(servers[.a]!.errorLog)\(servers[.b]!.errorLog)\(agents.log(.a))", sourceLocation: location)
        home = other(home)
        return try JSONDecoder().decode(Migrated.self, from: Data(output.stdoutBytes))
    }

    /// Moves while the client runs. It stands still between them, so that it has not finished on a slow machine before the last one.
    func moves(_ count: Int, of client: Child, before: () throws -> Void = {}, at location: SourceLocation = #_sourceLocation) throws {
        for _ in 0..<count {
            client.signal(SIGCONT)
            usleep(250_000)
            try before()
            try move(at: location)
            client.signal(SIGSTOP)
        }
        client.signal(SIGCONT)
    }

    /// The session stays, for this reason.
    func expectRefusal(_ words: String, at location: SourceLocation = #_sourceLocation) throws {
        let output = try agents.tool(home, arguments() + ["--all"])
        #expect(output.status == 1 && output.stderr.contains(words), "\(output.stdout)\(output.stderr)", sourceLocation: location)
    }

    func spawn(_ command: [String], stdin: Lab.Input = .nothing) throws -> Child { try world.lab.spawn(in: .client, command, stdin: stdin) }

    func client() throws -> Child {
        let child = try spawn(["python3", Self.script, world.lab.serviceAddress(.ipv4), "80"], stdin: .pipe)
        try #require(child.waitForOutputOrError("connected"), "\(child.stderr)")
        return child
    }

    func writeProgram(_ name: String, _ text: String) throws {
        try writeFile(Apache.programs(world.lab) + "/" + name, "#!/usr/bin/python3\n" + text, mode: 0o755)
    }

    func finish(resets: Int = 0) throws {
        let packets = capture.stop()
        #expect(packets.resetsToClient == resets, "\(packets)")
        for server in all { server.stop() }
        agents.stop()
        try world.finish()
    }
}

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct ApacheTests {
    typealias MPM = ApacheOptions.MPM

    @Test(arguments: MPM.allCases) func `downloads by curl and wget move, again and again`(mpm: MPM) throws {
        let scene = try TwoApaches(mpm)
        let lab = scene.world.lab
        let moves = TwoApaches.moves(4)
        let size = max(60_000_000, UInt64(moves) * 1_500_000)
        let file = try lab.makeFile("big.bin", bytes: size)
        // Slow enough to be under way for all of them.
        let rate = "\(Int(size) / (moves * 6 + 40) / 100)k"
        let downloads = [
            try scene.spawn(["curl", "-sS", "--limit-rate", rate, "-o", "\(lab.folder)/curl", scene.here.url("big.bin")]),
            try scene.spawn(["wget", "-q", "-t", "1", "--limit-rate=\(rate)", "-O", "\(lab.folder)/wget", scene.here.url("big.bin")]),
        ]
        usleep(600_000)
        for _ in 0..<moves {
            usleep(100_000)
            try #expect(scene.move().migrated == 2)
        }
        for download in downloads { try #expect(download.wait(timeout: .seconds(120)) == 0, "\(download.stderr)") }
        for saved in ["curl", "wget"] { try #expect(lab.sha256("\(lab.folder)/\(saved)") == file.sha256) }
        let logged = scene.servers[.b]!.accessLog.filter { $0.contains("big.bin") }
        #expect(logged.count >= 2 && logged.allSatisfy { $0.hasPrefix("10.78.0.2 200 ") && $0.contains("arrived=1") }, "\(logged)")
        try scene.finish()
    }

    @Test(arguments: MPM.allCases) func `a connection is used again after each move, and cut requests are completed`(mpm: MPM) throws {
        let scene = try TwoApaches(mpm)
        let file = try scene.world.lab.makeFile("small.bin", bytes: 20_000)
        let client = try scene.client()
        var answers: Set<String> = []
        for _ in 0..<TwoApaches.moves(6) {
            try answers.insert(client.ask("get /small.bin"))
            try scene.move()
        }
        for length in [1, 15, 40] {
            try #expect(client.ask("cut \(length) /small.bin") == "cut")
            usleep(50_000)
            try scene.move()
            try answers.insert(client.ask("go"))
        }
        #expect(answers.count == 1 && answers.first?.hasPrefix("200 \(file.sha256) ") == true, "\(answers)")
        try client.send("stop")
        _ = try client.wait()
        try scene.finish()
    }

    @Test(arguments: [["EnableSendfile On"], ["EnableMMAP Off"], []]) func `ranges, however the file is sent`(lines: [String]) throws {
        let scene = try TwoApaches(lines: lines)
        let lab = scene.world.lab
        let file = try lab.makeFile("big.bin", bytes: 50_000_000)
        let download = try scene.spawn(
            ["curl", "-sS", "--limit-rate", "4M", "-r", "20000000-39999999", "-o", "\(lab.folder)/part", scene.here.url("big.bin")])
        try scene.moves(2, of: download)
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        #expect(readBytes("\(lab.folder)/part") == file.content(at: 20_000_000, count: 20_000_000))
        try scene.finish()
    }

    @Test func `pipelined responses move`() throws {
        let scene = try TwoApaches()
        var sums: [String] = []
        for index in 0..<20 { sums.append(try scene.world.lab.makeFile("t\(index)", bytes: UInt64(index) * 4997 + 1, seed: UInt64(index)).sha256) }
        let client = try scene.client()
        try client.send("pipeline 20 6000")
        usleep(100_000)
        var moved = 0
        while !client.stdout.contains("done"), client.poll() == nil, moved < 100 {
            if try scene.agents.tool(scene.home, scene.arguments() + ["--all"]).status == 0 {
                scene.home = scene.home == .a ? .b : .a
                moved += 1
            }
        }
        #expect(client.waitForOutputOrError("done"), "\(client.stderr)")
        let lines = client.stdout.split(separator: "\n").dropFirst().dropLast().map { $0.split(separator: " ") }
        #expect(lines.count == 6000 && lines.allSatisfy { $0.count == 4 && sums[Int($0[0])!] == $0[2] }, "\(client.stderr)")
        #expect(moved > 1)
        try client.send("stop")
        _ = try client.wait()
        try scene.finish()
    }

    private static let lines = """
        import os, sys, time
        count, delay = map(int, os.environ["QUERY_STRING"].split(","))
        print("Content-Type: text/plain\\n")
        for i in range(count):
            sys.stdout.write("line %08d %s\\n" % (i, "abcdefghij" * (i * 7 % 9)))
            if delay:
                sys.stdout.flush()
                time.sleep(delay / 1000)
        """

    private static func lines(_ count: Int) -> [UInt8] {
        (0..<count).reduce(into: []) { all, i in
            let number = String(i)
            all += Array(
                "line \(String(repeating: "0", count: 8 - number.count))\(number) \(String(repeating: "abcdefghij", count: i * 7 % 9))\n".utf8)
        }
    }

    @Test(arguments: [MPM.event, .prefork], ["40000,0", "1000,5"]) func `a CGI response moves when it is the same on the other host`(
        mpm: MPM, query: String
    ) throws {
        let scene = try TwoApaches(mpm)
        let lab = scene.world.lab
        try scene.writeProgram("lines", Self.lines)
        let download = try scene.spawn([
            "wget", "-q", "-t", "1", "--limit-rate=250k", "-O", "\(lab.folder)/lines", scene.here.url("cgi/lines?\(query)"),
        ])
        try scene.moves(2, of: download)
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        #expect(readBytes("\(lab.folder)/lines") == Self.lines(Int(query.split(separator: ",")[0])!))
        try scene.finish()
    }

    @Test func `a CGI response that differs is refused, and goes on where it was`() throws {
        let scene = try TwoApaches()
        try scene.writeProgram(
            "random",
            """
            import random, sys, time
            print("Content-Type: text/plain\\n")
            for i in range(600):
                print(random.random(), flush=True)
                time.sleep(0.005)
            """)
        let download = try scene.spawn(["curl", "-sS", "-o", "\(scene.world.lab.folder)/random", scene.here.url("cgi/random")])
        usleep(300_000)
        try scene.expectRefusal("the content of the response differs here")
        try #expect(download.wait() == 0, "\(download.stderr)")
        #expect(readText("\(scene.world.lab.folder)/random").split(separator: "\n").count == 600)
        try scene.finish()
    }

    @Test func `what a filter makes of a file moves inside its chunks`() throws {
        let scene = try TwoApaches(lines: ["<Location /z>", "SetOutputFilter DEFLATE", "</Location>"])
        let lab = scene.world.lab
        try lab.check(in: nil, ["mkdir", "-p", "\(lab.documentRoot)/z"])
        let text = Self.lines(600_000)
        try writeFile("\(lab.documentRoot)/z/text", text, mode: 0o644)
        let download = try scene.spawn(
            ["wget", "-q", "-t", "1", "--limit-rate=300k", "--header=Accept-Encoding: gzip", "-O", "\(lab.folder)/text.gz", scene.here.url("z/text")])
        try scene.moves(3, of: download)
        try #expect(download.wait(timeout: .seconds(60)) == 0, "\(download.stderr)")
        try lab.check(in: nil, ["gunzip", "\(lab.folder)/text.gz"])
        #expect(readBytes("\(lab.folder)/text") == text)
        try scene.finish()
    }

    private static let sum = """
        import hashlib, os, sys, time
        body = sys.stdin.buffer.read(int(os.environ["CONTENT_LENGTH"]))
        time.sleep(2)
        print("Content-Type: text/plain\\n\\n" + hashlib.sha256(body).hexdigest())
        """

    @Test(arguments: ["Expect:", "Expect: 100-continue"]) func `an upload moves where a request may be carried out twice`(header: String) throws {
        let scene = try TwoApaches(lines: ["<Location /cgi/again>", "SCRepeat all", "</Location>"])
        let lab = scene.world.lab
        for name in ["again", "once"] { try scene.writeProgram(name, Self.sum) }
        let file = try lab.makeFile("up.bin", bytes: 50_000)
        let up = try scene.spawn(
            ["curl", "-sS", "--limit-rate", "12k", "-H", header, "--data-binary", "@\(lab.documentRoot)/up.bin", scene.here.url("cgi/again")])
        try scene.moves(2, of: up)
        try #expect(up.wait(timeout: .seconds(30)) == 0, "\(up.stderr)")
        #expect(up.stdout == file.sha256 + "\n")
        scene.home = .a
        let once = try scene.spawn(["curl", "-sS", "--data-binary", "@\(lab.documentRoot)/up.bin", scene.here.url("cgi/once")])
        usleep(300_000)
        try scene.expectRefusal("POST /cgi/once is being carried out and must not be carried out twice")
        try #expect(once.wait() == 0)
        #expect(once.stdout == file.sha256 + "\n")
        let large = try lab.makeFile("large.bin", bytes: 300_000)
        let long = try scene.spawn(
            ["curl", "-sS", "--limit-rate", "200k", "-H", "Expect:", "--data-binary", "@\(lab.documentRoot)/large.bin", scene.here.url("cgi/again")])
        usleep(700_000)
        try scene.expectRefusal("its request is longer than 56 KiB")
        try #expect(long.wait() == 0)
        #expect(long.stdout == large.sha256 + "\n")
        try scene.finish()
    }

    @Test func `another file is refused, and the session stays`() throws {
        let scene = try TwoApaches()
        let lab = scene.world.lab
        let file = try lab.makeFile("big.bin", bytes: 40_000_000)
        let download = try scene.spawn(["curl", "-sS", "--limit-rate", "6M", "-o", "\(lab.folder)/saved", scene.here.url("big.bin")])
        usleep(400_000)
        let path = "\(lab.documentRoot)/big.bin"
        try lab.check(in: nil, ["sh", "-c", "mv \(path) \(path).old && head -c 40000000 /dev/zero > \(path) && touch -d 2001-01-01 \(path)"])
        try scene.expectRefusal("the file is another one here")
        try lab.check(in: nil, ["mv", "\(path).old", path])
        try scene.move()
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        try #expect(lab.sha256("\(lab.folder)/saved") == file.sha256)
        try scene.finish()
    }

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

    @Test func `a new Apache on the same host takes over, and the old one ends`() throws {
        let scene = try TwoApaches()
        let lab = scene.world.lab
        let file = try lab.makeFile("big.bin", bytes: 40_000_000)
        let download = try scene.spawn(["curl", "-sS", "--limit-rate", "4M", "-o", "\(lab.folder)/saved", scene.here.url("big.bin")])
        usleep(400_000)
        let old = scene.here
        let broker = try #require(old.broker)
        // Its listeners close; what is there it serves on.
        old.signal(SIGWINCH)
        usleep(500_000)
        try scene.start(.a, name: "new")
        let takesNoMore = eventually(within: .seconds(10), every: .milliseconds(100)) {
            (try? scene.agents.tool(.a, ["agent", "--status"]).stdout.contains("server \(broker) of www, 1 sessions\n")) ?? false
        }
        #expect(takesNoMore)
        let socket = "\(lab.folder)/receive"
        let receiver = try lab.spawn(
            in: .a, [TwoHosts.program, "receive", "--listen", socket, "--policy", scene.agents.policy(.a)], environment: scene.agents.environment(.a))
        #expect(receiver.waitForOutputOrError("listening"))
        let output = try scene.agents.tool(.a, ["migrate", String(old.pid), "--to", "unix:\(socket)", "--service", "www", "--all"])
        #expect(output.status == 0, "\(output.stderr)")
        #expect(old.hasEnded(within: .seconds(10)), "\(old.errorLog)")
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        try #expect(lab.sha256("\(lab.folder)/saved") == file.sha256)
        receiver.terminate()
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

    @Test(.enabled(if: access(browser, X_OK) == 0, "needs chromium")) func `a browser loads a page of many files while its connections move`() throws
    {
        let scene = try TwoApaches()
        let lab = scene.world.lab
        try makePage(lab, scripts: 300)
        let browser = try scene.spawn([
            Self.browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--user-data-dir=\(lab.folder)/browser",
            "--dump-dom",
            "--timeout=60000", scene.here.url("index.html"),
        ])
        let begun = eventually(within: .seconds(30)) { scene.servers[.a]!.accessLog.contains { $0.contains("/s3.js") } }
        #expect(begun, "\(browser.stderr)")
        var moved = 0
        while browser.poll() == nil, moved < 200 {
            // A connection may end in the moment between.
            if try scene.agents.tool(scene.home, scene.arguments() + ["--all"]).status == 0 {
                scene.home = scene.home == .a ? .b : .a
                moved += 1
            }
        }
        try #expect(browser.wait(timeout: .seconds(60)) == 0)
        #expect(browser.stdout.contains("good=300 bad=0"), "\(browser.stdout.suffix(300))\(browser.stderr.suffix(1000))")
        #expect(moved > 2)
        if getenv("SC_FIGURES") != nil { print("browser: \(moved) moves of all its connections") }
        try scene.finish()
    }

    @Test(arguments: MPM.allCases) func `the downloads of a process that is killed go on in another one`(mpm: MPM) throws {
        let scene = try TwoApaches(mpm)
        let lab = scene.world.lab
        let file = try lab.makeFile("big.bin", bytes: 50_000_000)
        let download = try scene.spawn(["curl", "-sS", "--limit-rate", "5M", "-o", "\(lab.folder)/saved", scene.here.url("big.bin")])
        try scene.moves(2, of: download) {
            let victim = try #require(try scene.here.serving())
            kill(victim, SIGKILL)
            let isServed = eventually(within: .seconds(5), every: .milliseconds(20)) {
                (try? scene.here.serving()).flatMap { $0 }.map { $0 != victim } ?? false
            }
            #expect(isServed, "\(scene.here.errorLog)")
        }
        kill(try #require(scene.here.broker), SIGKILL)
        let isKnown = eventually(within: .seconds(5), every: .milliseconds(50)) {
            (try? scene.agents.tool(scene.home, ["agent", "--status"]).stdout.contains("of www, 1 sessions")) ?? false
        }
        #expect(isKnown, "\(scene.here.errorLog)")
        try scene.move()
        try #expect(download.wait(timeout: .seconds(60)) == 0, "\(download.stderr)")
        try #expect(lab.sha256("\(lab.folder)/saved") == file.sha256)
        try scene.finish()
    }
}
