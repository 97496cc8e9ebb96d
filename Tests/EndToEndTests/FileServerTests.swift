// A session of three processes, joined by a connection, a pair of Unix sockets and a pipe with bytes in all of them, is moved as one.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct FileServerTests {
    private static let count = getenv("SC_MOVES").flatMap { Int(String(cString: $0)) } ?? 20

    @Test func `three processes are moved back and forth under load`() throws {
        let files = try FileServer()
        var blackouts: [Int] = []
        var gaps: [Int] = []
        var stages: [String: [Int]] = [:]
        var most: [String: Int] = [:]
        var filled: [String: Int] = [:]
        _ = try files.client.gap()
        let control = try (0..<min(20, Self.count)).map { _ in
            usleep(600_000)
            return try files.client.gap()
        }
        for index in 0..<Self.count {
            _ = try files.client.gap()
            let moved = try files.move(exec: index == 0, ["--end-processes"])
            #expect(moved.migrated == 1)
            blackouts.append(Int(moved.blackout_us))
            for stage in moved.stages { stages[stage.name, default: []].append(Int(stage.duration_us)) }
            for descriptor in moved.group.descriptors {
                let name = descriptor.name.hasPrefix("worker.file-") ? "worker.file" : descriptor.name
                most[name] = max(most[name] ?? 0, descriptor.queue ?? 0)
                if descriptor.queue ?? 0 > 0 || name == "worker.file" { filled[name, default: 0] += 1 }
            }
            if index == 0 { #expect(moved.group.left_out.contains { $0.contains("open for writing") }, "\(moved.group.left_out)") }
            usleep(UInt32.random(in: 20_000...200_000))
            gaps.append(try files.client.gap())
        }
        // Bytes were on their way in the pair and in the pipe, and a file was open.
        #expect(filled["front.unix-worker"] ?? 0 > 0 && filled["worker.pipe-to-logger"] ?? 0 > 0 && filled["worker.file"] ?? 0 > 0, "\(filled)")
        print("most bytes in flight: \(most)\nmoves with some: \(filled)")
        print("stages, median us: \(stages.mapValues { $0.sorted()[$0.count / 2] })")
        print("blackout us, \(blackouts.count) moves: median \(blackouts.sorted()[blackouts.count / 2]), largest \(blackouts.max()!)")
        print("the client's longest silence around a move, us: median \(gaps.sorted()[gaps.count / 2]), the largest \(gaps.sorted().suffix(12))")
        print("the same without a move: median \(control.sorted()[control.count / 2]), largest \(control.max()!)")
        try files.finish()
    }

    @Test(arguments: [
        (Victim.source, "park-after", false), (.source, "capture-after", false), (.source, "decide-before", false), (.source, "decide-after", false),
        (.source, "release-before", false), (.link, "transfer-after", false), (.target, "rebuild-after", false), (.target, "consent-after", false),
        (.target, "activate-before", false), (.target, "activate-before", true), (.target, "activate-after", false),
    ])
    func `one host has all of the session whatever fails`(victim: Victim, point: String, exec: Bool) throws {
        let files = try FileServer()
        let owner = try files.move(failing: victim, at: point, exec: exec)
        print("\(victim.rawValue) fails at \(point)\(exec ? ", --exec" : ""): \(owner == .a ? "A" : "B") has the session")
        usleep(300_000)
        try files.finish()
    }

    @Test func `a target whose files are others leaves the session where it is`() throws {
        let files = try FileServer(least: 300_000)
        let (folder, path) = ("\(files.world.lab.folder)/files", "\(files.world.lab.folder)/receive-other")
        // A machine of its own would have files of its own.
        let script = "cp -rp \(folder) \(folder).other; for f in \(folder).other/*; do echo >> $f; done; mount --bind \(folder).other \(folder)"
        let receiver = try files.world.lab.spawn(
            in: .b, ["unshare", "-m", "sh", "-c", "\(script) && exec \(TwoHosts.program) receive --listen \(path)"],
            environment: files.world.environment(.b))
        try #require(receiver.waitForOutputOrError("listening"), "\(receiver.stderr)")
        // Who does not read keeps the worker in the middle of a file.
        files.client.child.signal(SIGSTOP)
        usleep(300_000)
        try files.world.refuses(
            .a, ["migrate", String(files.front), "--to", "unix:\(path)"] + files.chosen + ["--into", files.acceptor(on: .b)],
            naming: "is another file than the source's", "bytes, not")
        files.client.child.signal(SIGCONT)
        receiver.terminate()
        usleep(200_000)
        try files.finish()
    }

    @Test func `what cannot be is refused before anything stands still`() throws {
        let files = try FileServer()
        let move = try files.command() + ["--into", files.acceptor(on: .b)]
        try files.world.refuses(.a, files.command(["--fd", "999"]) + ["--into", files.acceptor(on: .b)], naming: "has no descriptor 999", "EBADF")
        try files.world.refuses(.a, move + ["--park-signal", "NONSENSE"], status: 2, naming: "NONSENSE is no signal")
        try files.world.refuses(
            .a, files.command() + ["--onto", "1", "--adapter", "http"], status: 2, naming: "--with-ipc and an adapter exclude each other")
        try files.world.refuses(
            .a, ["migrate", String(files.front), "--all", "--to", "unix:/nowhere", "--leave", "5", "--exec", "--", "true"], status: 2,
            naming: "go with --with-ipc")
        // Processes that do not park in time go on.
        let worker = try #require(files.processes(on: .a, named: "worker").first)
        try files.world.refuses(
            .a, move.map { $0 == "USR1" ? "WINCH" : $0 } + ["--park-deadline", "200"], naming: "did not park", "ETIMEDOUT")
        #expect(!readText("/proc/\(worker)/stat").contains(") T "))
        try files.finish()
    }

    @Test func `a session of three processes is carried by hand in an image`() throws {
        let files = try FileServer()
        // Once without taking it: nothing is disturbed.
        let image = "\(files.world.lab.folder)/copy.sci"
        for _ in 0..<3 {
            let wrote = try files.world.tool(.a, ["snapshot", String(files.front), "-o", image] + files.chosen)
            #expect(wrote.status == 0, "\(wrote.stderr)")
        }
        try files.carry()
        usleep(300_000)
        try files.finish()
    }

    @Test func `processes that are left alone end by themselves`() throws {
        let files = try FileServer(slowLog: 0)
        try files.move()
        let areGone = eventually(within: .seconds(10)) { ["front", "worker", "logger"].allSatisfy { files.processes(on: .a, named: $0).isEmpty } }
        #expect(areGone)
        // Only here may a line be in both logs: one that was still in the worker's memory.
        usleep(200_000)
        try files.move(["--end-processes"])
        try files.finish(linesMayRepeat: true)
    }

    @Test func `the processes are replaced on their own host`() throws {
        let files = try FileServer()
        for _ in 0..<3 {
            try files.replace()
            usleep(200_000)
        }
        try files.finish()
    }
}
