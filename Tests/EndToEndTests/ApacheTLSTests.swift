// TLS 1.3 connections of mod_ssl move: the clients' TLS libraries check every record.

import Glibc
import Support
import Testing

extension ApacheTests {
    private static let environment = """
        import os
        print("Content-Type: text/plain\\n")
        print(*[os.environ.get(name, "-") for name in ["HTTPS", "SSL_PROTOCOL", "SSL_CIPHER", "SSL_TLS_SNI", "SERVER_NAME"]])
        """

    @Test(arguments: [
        (MPM.event, "TLS_AES_128_GCM_SHA256"), (.event, "TLS_CHACHA20_POLY1305_SHA256"), (.worker, "TLS_AES_256_GCM_SHA384"),
        (.prefork, "TLS_AES_128_GCM_SHA256"),
    ]) func `a download over TLS moves, whatever its cipher suite`(mpm: MPM, suite: String) throws {
        let scene = try TwoApaches(mpm) { try TwoApaches.tls($0) }
        let lab = scene.world.lab
        let file = try lab.makeFile("big.bin", bytes: 25_000_000)
        let download = try scene.spawn([
            "curl", "-k", "-sS", "--http1.1", "--tls13-ciphers", suite, "--limit-rate", "8M", "-o", "\(lab.folder)/saved",
            "https://10.77.0.100/big.bin",
        ])
        try scene.moves(TwoApaches.moves(3), of: download)
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        try #expect(lab.sha256("\(lab.folder)/saved") == file.sha256)
        try scene.finish()
    }

    @Test(arguments: MPM.allCases) func `a TLS connection is used again after each move, and cut requests are completed`(mpm: MPM) throws {
        let scene = try TwoApaches(mpm) { try TwoApaches.tls($0) }
        let file = try scene.world.lab.makeFile("small.bin", bytes: 20_000)
        let client = try scene.client(tls: "lab")
        var answers: Set<String> = []
        for _ in 0..<TwoApaches.moves(6) {
            try answers.insert(client.ask("get /small.bin"))
            try scene.move()
        }
        for length in [1, 15, 40] {
            try #expect(client.ask("cut \(length) /small.bin") == "cut")
            usleep(50_000)
            try scene.move()
            try scene.move()
            try answers.insert(client.ask("go"))
        }
        #expect(answers.count == 1 && answers.first?.hasPrefix("200 \(file.sha256) ") == true, "\(answers)")
        try client.send("stop")
        _ = try client.wait()
        try scene.finish()
    }

    @Test func `pipelined responses move inside TLS`() throws {
        let scene = try TwoApaches { try TwoApaches.tls($0) }
        var sums: [String] = []
        for index in 0..<20 { sums.append(try scene.world.lab.makeFile("t\(index)", bytes: UInt64(index) * 4997 + 1, seed: UInt64(index)).sha256) }
        let client = try scene.client(tls: "lab")
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

    @Test func `programs and access rules find the same TLS connection on the other host`() throws {
        let scene = try TwoApaches {
            let options = ["SSLOptions +StdEnvVars", "<Location />", "SSLRequireSSL", "</Location>"]
            return try TwoApaches.tls($0, hosts: [("lab", options), ("other", options + ["SSLStrictSNIVHostCheck on"])])
        }
        try scene.writeProgram("environment", Self.environment)
        let client = try scene.client(tls: "other")
        try client.send("text /cgi/environment other")
        #expect(client.waitForOutputOrError("on TLSv1.3 TLS_AES_256_GCM_SHA384 other other"), "\(client.stdout)\(client.stderr)")
        for count in 2...4 {
            try scene.move()
            try client.send("text /cgi/environment other")
            let isSame = eventually(within: .seconds(5), every: .milliseconds(20)) {
                client.stdout.split(separator: "\n").count { $0 == "on TLSv1.3 TLS_AES_256_GCM_SHA384 other other" } == count
            }
            #expect(isSame, "\(client.stdout)\(client.stderr)")
        }
        try client.send("stop")
        _ = try client.wait()
        try scene.finish()
    }

    @Test(arguments: [MPM.event, .prefork]) func `TLS downloads of a process that is killed go on in another one`(mpm: MPM) throws {
        let scene = try TwoApaches(mpm) { try TwoApaches.tls($0) }
        let lab = scene.world.lab
        let file = try lab.makeFile("big.bin", bytes: 30_000_000)
        let download = try scene.spawn(["curl", "-k", "-sS", "--limit-rate", "5M", "-o", "\(lab.folder)/saved", "https://10.77.0.100/big.bin"])
        try scene.moves(2, of: download) {
            let victim = try #require(try scene.here.serving())
            kill(victim, SIGKILL)
            let isServed = eventually(within: .seconds(5), every: .milliseconds(20)) {
                (try? scene.here.serving()).flatMap { $0 }.map { $0 != victim } ?? false
            }
            #expect(isServed, "\(scene.here.errorLog)")
        }
        try #expect(download.wait(timeout: .seconds(60)) == 0, "\(download.stderr)")
        try #expect(lab.sha256("\(lab.folder)/saved") == file.sha256)
        try scene.finish()
    }

    @Test(arguments: [
        ("version", "it is a TLS connection of a version below 1.3"),
        ("certificate", "it is a TLS connection, and the client has shown a certificate"), ("h2", "it does not speak HTTP/1"),
    ]) func `what of TLS cannot move is refused by its reason, and served on`(what: String, reason: String) throws {
        let scene = try TwoApaches {
            let more = ["SCTLS on", "LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so", "Protocols h2 http/1.1"]
            return try TwoApaches.tls($0, hosts: [("lab", ["SSLVerifyClient optional_no_ca"])], more: more)
        }
        let lab = scene.world.lab
        let file = try lab.makeFile("big.bin", bytes: 12_000_000)
        let arguments =
            switch what {
            case "version": ["--http1.1", "--tls-max", "1.2"]
            case "certificate": ["--http1.1", "--cert", "\(lab.folder)/tls.crt", "--key", "\(lab.folder)/tls.key"]
            default: ["--http2"]
            }
        let download = try scene.spawn(
            ["curl", "-k", "-sS"] + arguments + ["--limit-rate", "6M", "-o", "\(lab.folder)/saved", "https://10.77.0.100/big.bin"])
        usleep(600_000)
        try scene.expectRefusal(reason)
        #expect(eventually(within: .seconds(3), every: .milliseconds(50)) { (try? scene.sessions().first?.reason) == reason })
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        try #expect(lab.sha256("\(lab.folder)/saved") == file.sha256)
        try scene.finish()
    }

    /// `moves` before the client changes its keys: on the first host that is OpenSSL's matter, on the next one ours.
    @Test(arguments: [0, 1]) func `a client that changes its keys is served, and stays`(moves: Int) throws {
        let scene = try TwoApaches { try TwoApaches.tls($0) }
        try writeFile("\(scene.world.lab.documentRoot)/text", "what was asked for\n", mode: 0o644)
        let client = try scene.spawn(["openssl", "s_client", "-connect", "10.77.0.100:443", "-tls1_3", "-crlf"], stdin: .pipe)
        func ask(_ count: Int) throws {
            try client.send("GET /text HTTP/1.1\nHost: lab\n")
            let isAnswered = eventually(within: .seconds(5), every: .milliseconds(20)) {
                client.stdout.split(separator: "what was asked for").count > count
            }
            #expect(isAnswered, "\(client.stdout.suffix(500))\(client.stderr)\(scene.here.errorLog)")
        }
        try ask(1)
        for _ in 0..<moves { try scene.move() }
        try client.send("K")
        usleep(100_000)
        try ask(2)
        try client.send("k")
        usleep(100_000)
        try ask(3)
        try scene.expectRefusal("the client has changed its keys")
        try ask(4)
        try client.send("Q")
        _ = try client.wait()
        try scene.finish()
    }

    @Test func `a server without TLS, or without the cipher suite, refuses, and the session stays`() throws {
        let scene = try TwoApaches { try TwoApaches.tls($0) }
        let lab = scene.world.lab
        let file = try lab.makeFile("small.bin", bytes: 20_000)
        let client = try scene.client(tls: "lab")
        var answers = Set([try client.ask("get /small.bin")])
        try scene.restart(.b) { ["Listen \($0.serviceAddress(.ipv4)):443"] }
        try scene.expectRefusal("this Apache speaks no TLS on the connection's address, or SCTLS is off")
        try scene.restart(.b) { try TwoApaches.tls($0, more: ["SCTLS on", "SSLCipherSuite TLSv1.3 TLS_AES_128_GCM_SHA256"]) }
        try scene.expectRefusal("this Apache does not take its TLS parameters")
        try answers.insert(client.ask("get /small.bin"))
        #expect(answers.count == 1 && answers.first?.hasPrefix("200 \(file.sha256) ") == true, "\(answers)")
        try client.send("stop")
        _ = try client.wait()
        try scene.finish()
    }
}
