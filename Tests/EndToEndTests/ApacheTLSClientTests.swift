// What clients may do inside TLS 1.3 and few of them do: small records, an end of one direction, certificates shown late.

import Glibc
import Support
import Testing

extension ApacheTests {
    /// A client that negotiates small records (RFC 6066, 4) ends the connection at the first larger one.
    @Test func `a client with small records gets small records from the other host`() throws {
        let scene = try TwoApaches { try TwoApaches.tls($0) }
        let line = "a line of the text that was asked for\n"
        try writeFile("\(scene.world.lab.documentRoot)/text", String(repeating: line, count: 600) + "its end\n", mode: 0o644)
        let client = try scene.spawn(
            ["openssl", "s_client", "-connect", "10.77.0.100:443", "-tls1_3", "-crlf", "-maxfraglen", "512"], stdin: .pipe)
        for count in 1...4 {
            try client.send("GET /text HTTP/1.1\nHost: lab\n")
            let isAnswered = eventually(within: .seconds(5), every: .milliseconds(20)) {
                client.stdout.split(separator: "its end\n", omittingEmptySubsequences: false).count > count
            }
            try #require(isAnswered, "\(client.stdout.suffix(500))\(client.stderr)\(scene.here.errorLog)")
            try scene.move()
        }
        #expect(client.stdout.split(separator: line, omittingEmptySubsequences: false).count == 2401)
        try client.send("Q")
        _ = try client.wait()
        try scene.finish()
    }

    @Test func `a virtual host without SCTLS keeps its connections, beside one that has it`() throws {
        let scene = try TwoApaches { try TwoApaches.tls($0, hosts: [("lab", []), ("other", ["SCTLS off"])]) }
        _ = try scene.world.lab.makeFile("small.bin", bytes: 20_000)
        let reason = "it is a TLS connection, and SCTLS is off"
        let clients = try ["lab", "other"].map { try scene.client(tls: $0) }
        try #expect(clients[0].ask("get /small.bin").hasPrefix("200 "))
        // The second one has not asked for anything yet. The first one goes.
        let output = try scene.agents.tool(.a, scene.arguments() + ["--all"])
        #expect(output.status == 1 && output.stdout.contains(reason), "\(output.stdout)\(output.stderr)")
        try #expect(clients[0].ask("get /small.bin").hasPrefix("200 "))
        let isTold = eventually(within: .seconds(4), every: .milliseconds(100)) { (try? scene.sessions().compactMap(\.reason)) == [reason] }
        #expect(isTold, "\((try? scene.sessions()) ?? [])")
        for client in clients {
            try client.send("stop")
            _ = try client.wait()
        }
        try scene.finish()
    }

    @Test(arguments: [0, 1]) func `a client that ends the TLS session is told its end`(moves: Int) throws {
        let scene = try TwoApaches { try TwoApaches.tls($0) }
        _ = try scene.world.lab.makeFile("small.bin", bytes: 20_000)
        let client = try scene.client(tls: "lab")
        try #expect(client.ask("get /small.bin").hasPrefix("200 "))
        for _ in 0..<moves { try scene.move() }
        try #expect(client.ask("end") == "ended", "\(client.stderr)")
        try client.send("stop")
        try #expect(client.wait() == 0, "\(client.stderr)")
        try scene.finish()
    }

    /// The end of the response is that of the TLS session; curl tells it from one that was cut.
    @Test func `a response without a length ends with the TLS session`() throws {
        let scene = try TwoApaches { try TwoApaches.tls($0) }
        let lab = scene.world.lab
        try scene.writeProgram("lines", Self.lines)
        let download = try scene.spawn([
            "curl", "-k", "-sS", "--http1.0", "--no-alpn", "-o", "\(lab.folder)/lines", "https://10.77.0.100/cgi/lines?1000,5",
        ])
        try scene.moves(2, of: download)
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        #expect(readBytes("\(lab.folder)/lines") == Self.lines(1000))
        try scene.finish()
    }

    @Test func `a client that is asked for a certificate later stays, from the question on`() throws {
        let scene = try TwoApaches {
            try TwoApaches.tls($0, hosts: [("lab", ["<Location /asked.bin>", "SSLVerifyClient optional_no_ca", "</Location>"])])
        }
        let lab = scene.world.lab
        let file = try lab.makeFile("asked.bin", bytes: 20_000)
        _ = try lab.makeFile("small.bin", bytes: 30_000)
        let client = try scene.client(tls: "lab", certificate: "\(lab.folder)/tls")
        try #expect(client.ask("get /small.bin").hasPrefix("200 "))
        try #expect(client.ask("cut 0 /asked.bin") == "cut")
        usleep(100_000)
        try scene.expectRefusal("it is a TLS connection, and its client is asked for a certificate")
        try #expect(client.ask("go").hasPrefix("200 \(file.sha256) "), "\(client.stderr)\(scene.here.errorLog)")
        try scene.expectRefusal("it is a TLS connection, and")
        try #expect(client.ask("get /small.bin").hasPrefix("200 "))
        try client.send("stop")
        _ = try client.wait()
        try scene.finish()
    }

    @Test(arguments: [MPM.event, .prefork]) func `an upload moves inside TLS`(mpm: MPM) throws {
        let scene = try TwoApaches(mpm) { try TwoApaches.tls($0, more: ["SCTLS on", "<Location /cgi/again>", "SCRepeat all", "</Location>"]) }
        let lab = scene.world.lab
        try scene.writeProgram("again", Self.sum)
        let file = try lab.makeFile("up.bin", bytes: 50_000)
        let up = try scene.spawn(
            ["curl", "-k", "-sS", "--limit-rate", "12k", "--data-binary", "@\(lab.documentRoot)/up.bin", "https://10.77.0.100/cgi/again"])
        try scene.moves(2, of: up)
        try #expect(up.wait(timeout: .seconds(30)) == 0, "\(up.stderr)")
        #expect(up.stdout == file.sha256 + "\n")
        try scene.finish()
    }
}
