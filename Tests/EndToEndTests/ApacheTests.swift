// The distribution's apache2 with mod_sc: its sessions move between two servers while unmodified clients go on.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct ApacheTests {
    typealias MPM = ApacheOptions.MPM

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

    @Test(arguments: MPM.allCases) func `a download over IPv6 moves there and back`(mpm: MPM) throws {
        let scene = try TwoApaches(mpm)
        scene.family = .ipv6
        let lab = scene.world.lab
        let file = try lab.makeFile("big.bin", bytes: 40_000_000)
        let download = try scene.spawn(["curl", "-sS", "--limit-rate", "6M", "-o", "\(lab.folder)/saved", scene.here.url("big.bin", .ipv6)])
        try scene.moves(2, of: download)
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        try #expect(lab.sha256("\(lab.folder)/saved") == file.sha256)
        let logged = scene.here.accessLog
        #expect(logged.contains { $0.hasPrefix("fd78::2 200 40000000 ") && $0.contains("moved=- arrived=1") }, "\(logged)")
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

    static let lines = """
        import os, sys, time
        count, delay = map(int, os.environ["QUERY_STRING"].split(","))
        print("Content-Type: text/plain\\n")
        for i in range(count):
            sys.stdout.write("line %08d %s\\n" % (i, "abcdefghij" * (i * 7 % 9)))
            if delay:
                sys.stdout.flush()
                time.sleep(delay / 1000)
        """

    static func lines(_ count: Int) -> [UInt8] {
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

    @Test func `TLS without SCTLS, and HTTP/2, are refused and served on`() throws {
        let scene = try TwoApaches {
            try TwoApaches.tls($0, more: ["LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so", "Protocols h2 h2c http/1.1"])
        }
        let lab = scene.world.lab
        let file = try lab.makeFile("big.bin", bytes: 20_000_000)
        let cases = [
            (["--http1.1", "https://10.77.0.100/big.bin"], "it is a TLS connection, and SCTLS is off"),
            (["--http2", "https://10.77.0.100/big.bin"], "it is a TLS connection"),
            (["--http2-prior-knowledge", scene.here.url("big.bin")], "it does not speak HTTP/1"),
        ]
        for (arguments, reason) in cases {
            let download = try scene.spawn(["curl", "-k", "-sS", "--limit-rate", "6M", "-o", "\(lab.folder)/saved"] + arguments)
            usleep(600_000)
            try scene.expectRefusal(reason)
            #expect(scene.agents.log(.a).contains("session-stays") && scene.agents.log(.a).contains(reason))
            let known = try scene.sessions()
            #expect(known.map(\.movable) == [false] && known.first?.reason?.contains(reason) == true, "\(known)")
            try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
            try #expect(lab.sha256("\(lab.folder)/saved") == file.sha256)
        }
        try scene.finish()
    }
}
