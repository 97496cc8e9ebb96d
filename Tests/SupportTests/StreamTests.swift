// sc-stream and sc-hold: the programs whose verdict the end-to-end tests rely on.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct StreamTests {
    let stream = Lab.program("sc-stream")
    let hold = Lab.program("sc-hold")

    @Test(arguments: Family.allCases) func `50 MB go both ways and every byte is verified`(family: Family) throws {
        let lab = try Lab()
        defer { lab.down() }
        let address = lab.serviceAddress(family)
        let server = try lab.spawn(in: .a, [stream, "server", address, "9000", "--seed", "7"])
        try server.waitForOutput("listening")
        let result = try lab.check(in: .client, [stream, "client", address, "9000", "--seed", "7", "--bytes", "50000000"])
        #expect(try server.wait() == 0)
        #expect(number("sent", in: result) == 50_000_000)
        #expect(try #require(number("received", in: result)) >= 50_000_000)
        #expect(number("received", in: server.stdout) == 50_000_000)
        #expect(number("sent", in: server.stdout) == number("received", in: result))
        #expect(number("mismatch", in: result) == -1)
        #expect(number("mismatch", in: server.stdout) == -1)
        #expect(result.contains("\"errors\":[]"))
    }

    @Test func `a wrong byte is found at its offset`() throws {
        let lab = try Lab()
        defer { lab.down() }
        let server = try lab.spawn(in: .a, [stream, "server", lab.serviceAddress(.ipv4), "9000"])
        try server.waitForOutput("listening")
        let client = ["client", lab.serviceAddress(.ipv4), "9000", "--bytes", "2000000", "--corrupt-at", "1234567"]
        #expect(try lab.run(in: .client, [stream] + client).status == 0)
        #expect(try server.wait() == 1)
        #expect(number("mismatch", in: server.stdout) == 1_234_567)
    }

    @Test(arguments: [[], ["--no-read"], ["--rate", "3000000"], ["--period-us", "500", "--chunk", "700"]])
    func `a server can be stopped at any instant and continued by an adopter from the kernel's numbers`(pace: [String]) throws {
        let lab = try Lab()
        defer { lab.down() }
        let listener = try lab.listen(on: .a, lab.serviceAddress(.ipv6), 9000)
        defer { close(listener) }
        let client = try lab.spawn(
            in: .client, [stream, "client", lab.serviceAddress(.ipv6), "9000", "--seed", "5", "--seconds", "1"] + pace)
        let connection = try Lab.accept(listener)
        defer { close(connection) }
        try writeFile(lab.folder + "/state", "seed=5\nrate=4000000\n")
        for turn in 0..<6 {
            let (written, read) = try Lab.position(connection)
            let adopter = try lab.spawn(
                in: turn % 2 == 0 ? .a : .b, [stream, "adopt"],
                environment: [
                    "SC_STATE_FILE": lab.folder + "/state", "SC_CHANNEL_WRITTEN": String(written), "SC_CHANNEL_READ": String(read),
                ], passing: [connection])
            if turn == 5 {
                #expect(try client.wait() == 0)
                #expect(try adopter.wait() == 0)
                #expect(number("sent", in: adopter.stdout) == number("received", in: client.stdout))
                #expect(number("received", in: adopter.stdout) == number("sent", in: client.stdout))
                break
            }
            usleep(UInt32.random(in: 20_000...40_000))
            adopter.signal(SIGSTOP)
            #expect(eventually(within: .seconds(1)) { readText("/proc/\(adopter.pid)/stat").contains(") T ") })
            adopter.signal(SIGKILL)
            try adopter.wait()
        }
        #expect(try #require(number("received", in: client.stdout)) > 100_000)
    }

    @Test func `many held connections answer, fill, drain and close halfway`() throws {
        let lab = try Lab()
        defer { lab.down() }
        let address = lab.serviceAddress(.ipv4)
        let server = try lab.spawn(in: .a, [hold, "server", address, "9000", "--echo"])
        let quiet = try lab.spawn(in: .a, [hold, "server", address, "9001"], stdin: .pipe)
        for child in [server, quiet] { try child.waitForOutput("listening") }
        let many = try lab.spawn(in: .client, [hold, "client", address, "9000", "300"], stdin: .pipe)
        #expect(try number("good", in: many.ask("ping all")) == 300)
        #expect(try number("good", in: many.ask("ping 7")) == 1)

        let client = try lab.spawn(in: .client, [hold, "client", address, "9001", "2"], stdin: .pipe)
        try client.waitForOutput("connected")
        #expect(eventually(within: .seconds(1)) { (try? number("count", in: quiet.ask("count"))) == 2 })
        let sent = try #require(try number("sent", in: client.ask("fill 0")))
        #expect(sent > 100_000)
        let drained = try quiet.ask("drain 0")
        #expect(number("received", in: drained) == sent)
        #expect(number("mismatch", in: drained) == -1)
        #expect(try client.ask("shutwr 1").contains("\"done\":1"))
        #expect(eventually(within: .seconds(1)) { (try? quiet.ask("state 1").contains("CLOSE_WAIT")) == true })
        // The ACK of the FIN may be a delayed one.
        #expect(eventually(within: .seconds(1)) { (try? client.ask("state 1").contains("FIN_WAIT2")) == true })
        #expect(try quiet.ask("write 1 still here").contains("\"done\":1"))
        #expect(try client.ask("read 1 10").contains("still here"))
        #expect(try quiet.ask("read 1 1").contains("\"eof\":true"))
        #expect(try client.ask("nonsense 1").contains("no such command"))
    }
}
