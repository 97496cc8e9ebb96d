// `migrate --report`: the page of a real move, of a failed one, and of a path that cannot be written.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct ReportTests {
    private let adopt = ["--exec", "--", Lab.program("sc-hold"), "adopt", "--echo"]

    @Test func `a move, a dry run and a refusal each leave a page`() throws {
        let pair = try CarriedTests.Pair(.ipv4, connections: 3, echo: true)
        let world = pair.world
        let folder = world.lab.folder
        let port = try pair.port

        let script = "\(folder)/steer"
        try writeFile(script, "#!/bin/sh\n[ \"$1\" != freeze ] || { echo steering is broken >&2; exit 1; }\n", mode: 0o700)

        // The path is looked at before anything happens: the target is never asked.
        let command = ["migrate", String(pair.server.pid), "--port", port, "--to", "unix:/nowhere/receiver"]
        try world.refuses(.a, command + ["--report", "/nowhere/page.html"] + adopt, naming: "cannot write the report /nowhere/page.html", "ENOENT")
        try world.refuses(.a, command + ["--report", "-"] + adopt, status: 2, naming: "standard output")

        try world.refuses(.a, command + ["--report", "\(folder)/failed.html"] + adopt, naming: "/nowhere/receiver")
        let failed = readText("\(folder)/failed.html")
        for words in ["Not moved", "What failed", "ENOENT", "not reached", ":\(port)", "unix:/nowhere/receiver"] {
            #expect(failed.contains(words), "\(words)")
        }

        // One that fails on the way is told with the stage in which it did.
        try world.refuses(
            .a,
            ["migrate", String(pair.server.pid), "--port", port, "--to", "unix:\(try world.receiver(on: .b))", "--report", "\(folder)/late.html"]
                + ["--steer", "exec:\(script)"] + adopt, naming: "steering")
        let late = readText("\(folder)/late.html")
        for words in ["failed here", "stopped for", "not reached"] { #expect(late.contains(words), "\(words)") }

        let rest = ["--port", port, "--report", "\(folder)/dry.html", "--dry-run"] + adopt
        try world.migrate(pair.server.pid, from: .a, to: .b, rest)
        #expect(readText("\(folder)/dry.html").contains("Dry run: the target would receive 1 session"))

        // A page that is there already is replaced.
        try writeFile("\(folder)/page.html", "old")
        let moved = try world.migrate(pair.server.pid, from: .a, to: .b, ["--port", port, "--report", "\(folder)/page.html"] + adopt)
        #expect(moved.migrated == 1)
        let page = readText("\(folder)/page.html")
        for words in ["Moved 1 session", "blackout", ":\(port)", "ESTABLISHED", "the connections speak"] { #expect(page.contains(words), "\(words)") }
        #expect(!page.contains("not reached") && page.hasSuffix("</html>\n"))
        #expect(!listFolder(folder).contains { $0.hasPrefix(".sc-image-") })
        if let keep = getenv("SC_KEEP_REPORTS").map({ String(cString: $0) }) {
            for name in ["failed", "late", "dry", "page"] { try writeFile("\(keep)/\(name).html", readBytes("\(folder)/\(name).html")) }
        }
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)")
        for pid in Lab.processes(in: world.lab.namespace(.b)) where readText("/proc/\(pid)/comm").hasPrefix("sc-hold") { kill(pid, SIGTERM) }
        try pair.finish(nil)
    }
}
