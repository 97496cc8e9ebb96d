// A session of three processes of which one is killed, stopped or busy for ever at random moments: the others are parked, another process goes on in its
// place, and the client and the log see nothing of it.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct PartSurvivalTests {
    private static let orphans = "{to: [\"tls://OTHER\"]}"

    private func scene(_ source: [String: String] = [:]) throws -> MemberTests.Scene {
        try MemberTests.Scene(source, servers: ["BUSY": "1"], orphans: Self.orphans)
    }

    /// The session has another process for this part.
    private func expectSuccessor(_ scene: MemberTests.Scene, of victim: Int32, _ part: String, _ what: String) throws {
        let isThere = eventually(within: .seconds(15)) {
            // While it moves, the processes that it leaves and those that it comes to are known.
            let serving = [Lab.Host.a, .b].flatMap { scene.members($0) }.count { $0.sessions > 0 }
            guard serving == 3, (try? scene.findFront()) != nil else { return false }
            return scene.part(part).map { $0 != victim } ?? false
        }
        try #require(isThere, "\(what): \(scene.agents.log(.a))\n\(scene.agents.log(.b))\n\(scene.client.child.stdout)")
    }

    @Test(arguments: ["front", "worker"]) func `a killed part goes on in another process, with all that was in its channels`(part: String) throws {
        let scene = try scene()
        let victim = try #require(scene.part(part))
        kill(victim, SIGKILL)
        try expectSuccessor(scene, of: victim, part, part)
        usleep(200_000)
        try scene.finish()
    }

    @Test func `all parts killed at once go on`() throws {
        let scene = try scene()
        for part in ["front", "worker", "logger"] { kill(try #require(scene.part(part)), SIGKILL) }
        try expectSuccessor(scene, of: scene.front, "front", "all")
        usleep(200_000)
        // The logger's file is nobody's channel: a line that was written and not yet exported is written again.
        try scene.finish(linesMayRepeat: true)
    }

    @Test(arguments: ["capture-after", "transfer-after", "decide-after"])
    func `a worker that is killed while it moves them leaves all parts to one host`(
        point: String
    ) throws {
        let scene = try scene(["SC_FAULT": "\(point):run:test -f FOLDER/victim && rm FOLDER/victim && kill -9 $PPID"])
        try writeFile("\(scene.world.lab.folder)/victim", "")
        let victim = scene.front
        kill(victim, SIGKILL)
        try expectSuccessor(scene, of: victim, "front", point)
        usleep(200_000)
        try scene.finish()
    }

    /// SC_MOMENTS tells how many, SC_SEED which.
    @Test func `at random moments a part is killed, stopped or busy for ever, and the session goes on`() throws {
        let count = getenv("SC_MOMENTS").flatMap { Int(String(cString: $0)) } ?? 24
        let seed = getenv("SC_SEED").flatMap { UInt64(String(cString: $0)) } ?? 1
        var moments = Moments(seed: seed)
        let scene = try scene()
        var counts: [String: Int] = [:]
        for index in 0..<count {
            let (kind, isLocal) = (moments.next(below: 3), moments.next(below: 2) == 0)
            let part = moments.next(below: 4) == 0 ? "worker" : "front"
            let (host, victim) = (scene.host, try #require(scene.part(part)))
            if !isLocal { scene.endSpares(on: host) }
            usleep(UInt32(5_000 + moments.next(below: 60_000)))
            let what =
                "moment \(index) of seed \(seed): \(part) \(["killed", "stopped", "busy"][Int(kind)]) on \(host), to \(isLocal ? "itself" : "the other")"
            counts["\(part) \(["killed", "stopped", "busy"][Int(kind)])", default: 0] += 1
            if kind == 0 {
                kill(victim, SIGKILL)
            } else {
                kill(victim, kind == 1 ? SIGSTOP : SIGUSR2)
                let output = try scene.agents.tool(host, scene.arguments(to: isLocal ? "self" : nil) + ["--park-deadline", "20"])
                try #require(output.status == 0, "\(what): \(output.stderr)\(scene.agents.log(.a))\n\(scene.agents.log(.b))")
                // It wakes, and finds its session gone.
                if kind == 1 { kill(victim, SIGCONT) } else { kill(victim, SIGKILL) }
            }
            try expectSuccessor(scene, of: victim, part, what)
            if !isLocal {
                #expect(scene.host != host, "\(what)")
                try scene.serve(host)
            }
            for host in [Lab.Host.a, .b] { try scene.waitForSpares(on: host) }
            try #require(scene.client.child.poll() == nil, "\(what): \(scene.client.child.stdout)")
        }
        if getenv("SC_FIGURES") != nil { print("moments: \(counts.sorted { $0.key < $1.key })") }
        try scene.finish()
    }
}
