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

    /// SC_MOVES tells how many, SC_SEED which.
    @Test(arguments: MPM.allCases, [true, false])
    func `at random moments connections move whose requests and records are cut anywhere`(mpm: MPM, tls: Bool) throws {
        let seed = getenv("SC_SEED").flatMap { UInt64(String(cString: $0)) } ?? 1
        var moments = Moments(seed: seed)
        let lines = ["<Location /cgi/digest>", "SCRepeat all", "</Location>"]
        let scene = try TwoApaches(mpm) { lines + (tls ? try TwoApaches.tls($0) : []) }
        let wishes = try makeWishes(scene)
        let clients = try (0..<3).map { index in
            let command = ["python3", TwoApaches.random, scene.world.lab.serviceAddress(.ipv4)] + (tls ? ["443", "lab"] : ["80", "-"])
            return try scene.spawn(command + [String(seed * 10 + UInt64(index))] + wishes.keys.sorted(), stdin: .pipe)
        }
        for client in clients { try #require(client.waitForOutputOrError("connected"), "\(client.stderr)") }
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
            let answers = client.stdout.split(separator: "\n").dropFirst().dropLast().map { $0.split(separator: " ", maxSplits: 1).map(String.init) }
            let wrong = answers.filter { $0.count != 2 || wishes[$0[0]] != $0[1] }
            #expect(answers.count > count / 2 && wrong.isEmpty, "seed \(seed): \(answers.count) answers, wrong \(wrong.prefix(3))")
        }
        try scene.finish()
    }
}
