// Connections that ask for things at random move at random moments.

import Glibc
import Support
import Testing

extension ApacheTests {
    private static let digest = """
        import hashlib, os, sys
        print("Content-Type: text/plain\\n\\n" + hashlib.sha256(sys.stdin.buffer.read(int(os.environ["CONTENT_LENGTH"]))).hexdigest())
        """

    /// What a client may ask for, and status and digest of the answer.
    private func makeWishes(_ scene: TwoApaches) throws -> [String: String] {
        let lab = scene.world.lab, folder = lab.folder
        func sum(_ bytes: [UInt8]) throws -> String {
            try writeFile("\(folder)/sum", String(decoding: bytes, as: UTF8.self), mode: 0o644)
            return try lab.sha256("\(folder)/sum")
        }
        try scene.writeProgram("lines", Self.lines)
        try scene.writeProgram("digest", Self.digest)
        var wishes = ["get:/cgi/lines?300,0": "200 \(try sum(Self.lines(300)))"]
        let nothing = try sum([])
        for (index, bytes) in [0, 1, 300, 16_384, 40_000, 900_000].enumerated() {
            wishes["get:/f\(index)"] = "200 \(try lab.makeFile("f\(index)", bytes: UInt64(bytes), seed: UInt64(index)).sha256)"
        }
        wishes["head:/f4"] = "200 \(nothing)"
        wishes["fresh:/f4"] = "304 \(nothing)"
        let part = try lab.check(in: nil, ["sh", "-c", "head -c 30000 \(lab.documentRoot)/f4 | tail -c +1001 | sha256sum"])
        wishes["range:/f4"] = "206 \(part.prefix { $0 != " " })"
        let line = Array("a line of a body\n".utf8)
        for (kind, bytes) in [("post", 10), ("post", 30_000), ("expect", 100), ("expect", 50_000)] {
            let hash = try sum((0..<bytes).map { line[$0 % line.count] })
            wishes["\(kind):\(bytes):/cgi/digest"] = "200 \(try sum(Array((hash + "\n").utf8)))"
        }
        return wishes
    }

    private static var seed: UInt64 { getenv("SC_SEED").flatMap { UInt64(String(cString: $0)) } ?? 1 }

    private func scene(_ mpm: MPM, tls: Bool) throws -> TwoApaches {
        try TwoApaches(mpm) { ["<Location /cgi/digest>", "SCRepeat all", "</Location>"] + (tls ? try TwoApaches.tls($0) : []) }
    }

    private func start(_ scene: TwoApaches, tls: Bool, seed: UInt64, _ wishes: [String: String]) throws -> Child {
        let command = ["python3", TwoApaches.random, scene.world.lab.serviceAddress(.ipv4)] + (tls ? ["443", "lab"] : ["80", "-"])
        let client = try scene.spawn(command + [String(seed)] + wishes.keys.sorted(), stdin: .pipe)
        try #require(client.waitForOutputOrError("connected"), "\(client.stderr)")
        return client
    }

    /// How many answers it got. All of them are right.
    private func check(_ client: Child, _ wishes: [String: String], at location: SourceLocation = #_sourceLocation) -> Int {
        let lines = client.stdout.split(separator: "\n").filter { $0 != "connected" && $0 != "done" }
        let answers = lines.map { $0.split(separator: " ", maxSplits: 1).map(String.init) }
        let wrong = answers.filter { $0.count != 2 || wishes[$0[0]] != $0[1] }
        #expect(wrong.isEmpty, "seed \(Self.seed): \(wrong.prefix(3))", sourceLocation: location)
        return answers.count
    }

    /// SC_MOVES tells how many, SC_SEED which.
    @Test(arguments: MPM.allCases, [true, false])
    func `at random moments connections move whose requests and records are cut anywhere`(mpm: MPM, tls: Bool) throws {
        let seed = Self.seed
        var moments = Moments(seed: seed)
        let scene = try scene(mpm, tls: tls)
        let wishes = try makeWishes(scene)
        let clients = try (0..<3).map { try start(scene, tls: tls, seed: seed * 10 + $0, wishes) }
        usleep(200_000)
        let count = TwoApaches.moves(25)
        for index in 0..<count {
            usleep(UInt32(moments.next(below: 60_000)))
            let moved = try scene.move()
            let lost = clients.map(\.stderr).joined() + scene.servers.values.map(\.errorLog).joined()
            try #require(moved.migrated == 3, "move \(index) of seed \(seed): \(lost)")
            for client in clients { try #require(client.poll() == nil, "move \(index) of seed \(seed): \(lost)") }
        }
        for client in clients {
            try client.send("stop")
            try #expect(client.wait(timeout: .seconds(30)) == 0, "seed \(seed): \(client.stderr)")
            #expect(check(client, wishes) > count / 2)
        }
        try scene.finish()
    }

    /// A process that dies in the middle of a change of the journal takes its session with it. All that a client ever got is right.
    @Test(arguments: MPM.allCases, [true, false])
    func `at random moments processes are killed, and no client gets a wrong byte`(mpm: MPM, tls: Bool) throws {
        var moments = Moments(seed: Self.seed)
        let scene = try scene(mpm, tls: tls)
        let wishes = try makeWishes(scene)
        var clients: [Child] = [], born = Self.seed * 1000, ended = 0, killed = 0, moves = 0
        func noteEnded() {
            for (index, client) in clients.enumerated().reversed() where client.poll() ?? 0 != 0 {
                let isLoss = ["the connection ended", "no status line: b''", "ConnectionResetError", "BrokenPipeError", "EOF occurred", "EOFError"]
                    .contains { client.stderr.contains($0) }
                #expect(isLoss, "seed \(Self.seed): \(client.stderr)\(scene.servers.values.map(\.errorLog).joined())")
                _ = check(client, wishes)
                clients.remove(at: index)
                ended += 1
            }
        }
        for _ in 0..<TwoApaches.moves(25) {
            noteEnded()
            // New ones come to the first host.
            while clients.count < 3, scene.home == .a {
                born += 1
                try clients.append(start(scene, tls: tls, seed: born, wishes))
            }
            usleep(UInt32(moments.next(below: 60_000)))
            if moments.next(below: 2) == 0, let victim = try scene.here.servingEach().first {
                kill(victim, SIGKILL)
                killed += 1
                usleep(UInt32(moments.next(below: 200_000)))
            } else if try scene.moveIfPossible() {
                moves += 1
            }
        }
        for client in clients {
            // It may have ended with the last process.
            try? client.send("stop")
            _ = try client.wait(timeout: .seconds(30))
        }
        noteEnded()
        #expect(clients.map { check($0, wishes) }.reduce(0, +) > 0)
        if getenv("SC_FIGURES") != nil { print("\(mpm)\(tls ? ", TLS" : ""): \(killed) kills, \(moves) moves, \(ended) connections ended") }
        try scene.finish(resets: nil)
    }
}
