// The lab itself: it comes up whole, routes to one host or the other, and leaves nothing behind.

import Glibc
import Support
import Testing

/// A result document of sc-stream, read without a JSON library: the number behind a key.
func number(_ key: String, in document: String) -> Int? {
    guard let range = document.firstRange(of: "\"\(key)\":") else { return nil }
    return Int(document[range.upperBound...].prefix { $0 == "-" || $0.isNumber })
}

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct LabTests {
    @Test func `a lab comes up quickly and leaves nothing`() throws {
        let started = ContinuousClock.now
        let lab = try Lab()
        #expect(ContinuousClock.now - started < .milliseconds(500))
        #expect(listFolder("/run/netns").filter { $0.hasPrefix(lab.prefix) }.count == 4)
        let child = try lab.spawn(in: .a, ["sleep", "60"])
        lab.down()
        #expect(child.poll() == 128 + SIGKILL)
        #expect(listFolder("/run/netns").filter { $0.hasPrefix(lab.prefix) } == [])
        #expect(!Lab.existing().contains(lab.prefix))
        #expect(!listFolder("/tmp").contains(lab.prefix))
    }

    @Test(arguments: Family.allCases) func `the client reaches the service on the host it is routed to`(family: Family) throws {
        let lab = try Lab()
        defer { lab.down() }
        for host in [Lab.Host.a, .b, .a] {
            try lab.routeService(to: host)
            let server = try lab.spawn(in: host, [Lab.program("sc-stream"), "server", lab.serviceAddress(family), "9000"])
            try server.waitForOutput("listening")
            try lab.check(in: .client, [Lab.program("sc-stream"), "client", lab.serviceAddress(family), "9000", "--bytes", "1000"])
            #expect(try server.wait() == 0)
        }
    }

    @Test func `a line to a child that has ended is an error`() throws {
        let lab = try Lab()
        defer { lab.down() }
        let child = try lab.spawn(in: .a, ["sh", "-c", "echo over >&2"], stdin: .pipe)
        try #expect(child.wait() == 0)
        let error = #expect(throws: LabError.self) { try child.send("hello") }
        #expect(error.map { "\($0)".contains("over") } == true, "\(String(describing: error))")
    }

    @Test func `a command gets its input and gives back output, errors and status`() throws {
        let lab = try Lab()
        defer { lab.down() }
        let output = try lab.run(in: .b, ["sh", "-c", "cat; echo bad >&2; exit 3"], stdin: .text("hello"))
        #expect(output.status == 3)
        #expect(output.stdout == "hello")
        #expect(output.stderr == "bad\n")
        #expect(throws: LabError.self) { try lab.run(in: .b, ["sleep", "20"], timeout: .milliseconds(50)) }
        #expect(throws: LabError.self) { try lab.run(in: .b, ["/no/such/program"]) }
    }
}
