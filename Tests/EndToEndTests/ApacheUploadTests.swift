// Requests that are not a mere question: uploads in progress, and what must not be carried out twice.

import FoundationEssentials
import Glibc
import Support
import Testing

extension ApacheTests {
    static let sum = """
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
        let large = try lab.makeFile("large.bin", bytes: 2_000_000)
        let long = try scene.spawn(
            ["curl", "-sS", "--limit-rate", "700k", "-H", "Expect:", "--data-binary", "@\(lab.documentRoot)/large.bin", scene.here.url("cgi/again")])
        usleep(2_200_000)
        try scene.expectRefusal("its request is longer than what is kept of it")
        try #expect(long.wait() == 0)
        #expect(long.stdout == large.sha256 + "\n")
        try scene.finish()
    }

    @Test(arguments: MPM.allCases) func `a long upload moves with all that the other host has to read again`(mpm: MPM) throws {
        let scene = try TwoApaches(mpm, lines: ["SCRequestMax 4000000", "<Location /cgi/again>", "SCRepeat all", "</Location>"])
        let lab = scene.world.lab
        try scene.writeProgram("again", Self.sum)
        let files = [try lab.makeFile("some.bin", bytes: 800_000), try lab.makeFile("more.bin", bytes: 3_000_000)]
        let uploads = try zip(["some", "more"], ["150k", "600k"]).map { name, rate in
            try scene.spawn(
                [
                    "curl", "-sS", "-X", "PUT", "--limit-rate", rate, "-H", "Expect:", "-T", "\(lab.documentRoot)/\(name).bin",
                    scene.here.url("cgi/again"),
                ])
        }
        usleep(1_500_000)
        for _ in 0..<3 {
            usleep(900_000)
            try #expect(scene.move().migrated == 2)
        }
        for (upload, file) in zip(uploads, files) {
            try #expect(upload.wait(timeout: .seconds(30)) == 0, "\(upload.stderr)")
            #expect(upload.stdout == file.sha256 + "\n")
        }
        try scene.finish()
    }

    /// 4 KiB in each tenth of a second; curl would begin with more.
    private static let slowly = """
        import hashlib, http.client, sys, time
        body = b"line\\n" * 40000
        connection = http.client.HTTPConnection(sys.argv[1])
        connection.putrequest("POST", "/cgi/again")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        for at in range(0, len(body), 4096):
            connection.send(body[at:at + 4096])
            time.sleep(0.1)
        print(connection.getresponse().read().decode().strip() == hashlib.sha256(body).hexdigest())
        """

    @Test func `an upload that grew beyond what was announced for it stays, and the rest of the batch moves`() throws {
        let scene = try TwoApaches(lines: ["<Location /cgi/again>", "SCRepeat all", "</Location>"])
        let lab = scene.world.lab
        // Once, some seconds between the look at the sessions and their park.
        try writeFile("\(lab.folder)/slow", "", mode: 0o600)
        try scene.restartAgent(["SC_FAULT": "park-before:run:rm \(lab.folder)/slow && sleep 2.5"])
        try scene.writeProgram("again", Self.sum)
        let file = try lab.makeFile("big.bin", bytes: 25_000_000)
        let download = try scene.spawn(["python3", TwoApaches.paced, "curl", "-sS", scene.here.url("big.bin")], stdin: .pipe)
        let upload = try scene.spawn(["python3", "-c", Self.slowly, lab.serviceAddress(.ipv4)])
        let isKnown = eventually(within: .seconds(3), every: .milliseconds(20)) { (try? scene.sessions().count) == 2 }
        #expect(isKnown)
        let output = try scene.agents.tool(.a, scene.arguments() + ["--all"])
        let moved = try JSONDecoder().decode(Migrated.self, from: Data(output.stdoutBytes))
        #expect(moved.migrated == 1 && moved.refused == 1 && output.stdout.contains("its state has grown to"), "\(output.stdout)\(output.stderr)")
        // Now the target hears of as much as there is.
        try scene.move()
        try download.send("go")
        for client in [download, upload] { try #expect(client.wait(timeout: .seconds(30)) == 0, "\(client.stderr)") }
        #expect(download.stdout.contains("\n0 \(file.sha256)\n"), "\(download.stdout)\(download.stderr)")
        #expect(upload.stdout == "True\n")
        let areLogged = eventually(within: .seconds(2)) { scene.servers[.b]!.accessLog.count { $0.contains("moved=- arrived=1") } == 2 }
        #expect(areLogged, "\(scene.servers[.b]!.accessLog)")
        try scene.finish()
    }

    private static let poster = """
        import http.client, sys
        connection = http.client.HTTPConnection(sys.argv[1])
        connection.request("POST", "/cgi/slow", b"x" * 1000)
        print("answered", connection.getresponse().status, flush=True)
        sys.stdin.readline()
        """

    @Test(arguments: MPM.allCases) func `a request that must not be repeated is told of while it lasts`(mpm: MPM) throws {
        let scene = try TwoApaches(mpm)
        // Whoever leaves input unread ends mod_cgid's socket with ECONNRESET, at times before the answer is read.
        try scene.writeProgram("slow", "import sys, time\nsys.stdin.read()\ntime.sleep(5)\nprint('Content-Type: text/plain\\n\\ndone')")
        let client = try scene.spawn(["python3", "-c", Self.poster, scene.world.lab.serviceAddress(.ipv4)], stdin: .pipe)
        let reason = "POST /cgi/slow is being carried out and must not be carried out twice (SCRepeat)"
        let isPinned = eventually(within: .seconds(4), every: .milliseconds(100)) { (try? scene.sessions().map(\.reason)) == [reason] }
        #expect(isPinned, "\((try? scene.sessions()) ?? [])")
        try scene.expectRefusal(reason)
        #expect(scene.agents.log(.a).contains("session-stays"), "\(scene.agents.log(.a))")
        #expect(client.waitForOutputOrError("answered 200"), "\(client.stderr)")
        let isFree = eventually(within: .seconds(1), every: .milliseconds(20)) { (try? scene.sessions().map(\.movable)) == [true] }
        #expect(isFree, "\((try? scene.sessions()) ?? [])")
        try scene.move()
        try client.send("stop")
        _ = try client.wait()
        try scene.finish()
    }
}
