// Unmodified clients and unmodified nginx: downloads and idle connections moved between two servers, in place.

import FoundationEssentials
import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct NginxTests {
    private struct Servers {
        let world: TwoHosts
        let a, b: Nginx

        init(_ options: NginxOptions = NginxOptions()) throws {
            world = try TwoHosts()
            a = try Nginx(world.lab, on: .a, options)
            b = try Nginx(world.lab, on: .b, options)
        }

        func move(from source: Lab.Host, to target: Lab.Host, _ family: Family, more: [String] = []) throws -> Migrated {
            let (old, new) = source == .a ? (a, b) : (b, a)
            return try world.migrate(
                old.masterPID, from: source, to: target,
                ["--peer", world.lab.address(.client, family), "--onto", String(new.masterPID), "--adapter", "http"] + more)
        }

        func finish() throws {
            a.stop()
            b.stop()
            try world.finish()
        }
    }

    @Test(arguments: Family.allCases, ["curl", "wget"]) func `a download moves to the other nginx and back`(family: Family, client: String) throws {
        let servers = try Servers()
        let lab = servers.world.lab
        let file = try lab.makeFile("big.bin", bytes: 60_000_000)
        let capture = try Capture(lab)
        let saved = "\(lab.folder)/saved"
        let url = servers.a.url("big.bin", family)
        let command =
            client == "curl"
            ? ["curl", "-sS", "--limit-rate", "20M", "-o", saved, url] : ["wget", "-q", "--limit-rate=20m", "-O", saved, url]
        let download = try lab.spawn(in: .client, command)
        try servers.world.waitForSession(on: .a, servers.a.workerPIDs[0], port: 80)
        usleep(500_000)
        try #expect(servers.move(from: .a, to: .b, family).migrated == 1)
        usleep(400_000)
        try #expect(servers.move(from: .b, to: .a, family).migrated == 1)
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        try #expect(lab.sha256(saved) == file.sha256)
        let packets = capture.stop()
        #expect(packets.resetsToClient == 0 && packets.resetsFromClient == 0)
        // curl and wget close first; nginx answers that once.
        #expect(packets.endsFromServer <= 1, "\(packets)")
        #expect(servers.b.accessLog.contains { $0.hasPrefix("\(lab.address(.client, family)) ") && $0.contains(" 206 ") }, "\(servers.b.accessLog)")
        try servers.finish()
    }

    @Test func `of several downloads one that is aborted during the move is left out, and the others move`() throws {
        let servers = try Servers()
        let lab = servers.world.lab
        let file = try lab.makeFile("big.bin", bytes: 60_000_000)
        let downloads = try (0..<3).map { number in
            try lab.spawn(
                in: .client, ["curl", "-sS", "--limit-rate", "15M", "-o", "\(lab.folder)/saved-\(number)", servers.a.url("big.bin")])
        }
        usleep(700_000)
        // With unread data it ends by RST, which the server's socket still hears; the other server has accepted its prelude by then.
        var environment = servers.world.environment(.a)
        environment["SC_FAULT"] = "park-after:run:kill -9 \(downloads[1].pid); sleep 0.1"
        let output = try lab.run(
            in: .a,
            [TwoHosts.program, "migrate", String(servers.a.masterPID), "--peer", lab.address(.client, .ipv4), "--json"]
                + ["--to", "unix:\(servers.world.receiver(on: .b))", "--onto", String(servers.b.masterPID), "--adapter", "http"],
            environment: environment)
        #expect(output.status == 0, "\(output.stderr)")
        let moved = try JSONDecoder().decode(Migrated.self, from: Data(output.stdoutBytes))
        #expect(moved.migrated == 2 && moved.refused == 1, "\(output.stdout)")
        for number in [0, 2] {
            try #expect(downloads[number].wait(timeout: .seconds(30)) == 0, "\(downloads[number].stderr)")
            try #expect(lab.sha256("\(lab.folder)/saved-\(number)") == file.sha256)
        }
        try servers.finish()
    }

    @Test func `a keep-alive connection is reused after its move`() throws {
        let servers = try Servers()
        let lab = servers.world.lab
        let file = try lab.makeFile("small.bin", bytes: 20_000)
        let capture = try Capture(lab)
        let socket = try lab.connect(from: .client, to: lab.serviceAddress(.ipv4), 80)
        defer { close(socket) }
        try #expect(get("small.bin", socket) == file.content(at: 0, count: 20_000))
        try #expect(get("small.bin", socket) == file.content(at: 0, count: 20_000))
        try #expect(servers.move(from: .a, to: .b, .ipv4).migrated == 1)
        try #expect(get("small.bin", socket) == file.content(at: 0, count: 20_000))
        #expect(eventually(within: .seconds(2)) { servers.b.accessLog.contains { $0.hasPrefix("10.78.0.2 ") && $0.contains("GET") } })
        try #expect(servers.move(from: .b, to: .a, .ipv4).migrated == 1)
        try #expect(get("small.bin", socket) == file.content(at: 0, count: 20_000))
        let packets = capture.stop()
        #expect(packets.resetsToClient == 0 && packets.endsFromServer == 0, "\(packets)")
        try servers.finish()
    }

    @Test func `a connection that downloads its second file moves`() throws {
        let servers = try Servers()
        let lab = servers.world.lab
        _ = try lab.makeFile("small.bin", bytes: 20_000)
        let file = try lab.makeFile("big.bin", bytes: 40_000_000)
        let saved = "\(lab.folder)/saved"
        let download = try lab.spawn(
            in: .client,
            ["curl", "-sS", "--limit-rate", "15M", "-o", "\(lab.folder)/first", servers.a.url("small.bin"), "-o", saved, servers.a.url("big.bin")])
        usleep(900_000)
        try #expect(servers.move(from: .a, to: .b, .ipv4).migrated == 1)
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        try #expect(lab.sha256(saved) == file.sha256)
        try servers.finish()
    }

    @Test func `a ranged download moves and ends at the end of its range`() throws {
        let servers = try Servers()
        let lab = servers.world.lab
        let file = try lab.makeFile("big.bin", bytes: 60_000_000)
        let saved = "\(lab.folder)/saved"
        let download = try lab.spawn(
            in: .client, ["curl", "-sS", "--limit-rate", "20M", "-r", "5000000-44999999", "-o", saved, servers.a.url("big.bin")])
        try servers.world.waitForSession(on: .a, servers.a.workerPIDs[0], port: 80)
        usleep(500_000)
        try #expect(servers.move(from: .a, to: .b, .ipv4).migrated == 1)
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        #expect(readBytes(saved) == file.content(at: 5_000_000, count: 40_000_000))
        try servers.finish()
    }

    @Test func `a server that has another file refuses, and the download goes on`() throws {
        let servers = try Servers()
        let lab = servers.world.lab
        let file = try lab.makeFile("big.bin", bytes: 30_000_000)
        let saved = "\(lab.folder)/saved"
        let download = try lab.spawn(in: .client, ["curl", "-sS", "--limit-rate", "15M", "-o", saved, servers.a.url("big.bin")])
        try servers.world.waitForSession(on: .a, servers.a.workerPIDs[0], port: 80)
        // B serves the same folder; a second instance with an empty one stands for a host without the file.
        servers.b.stop()
        try lab.check(in: .b, ["mkdir", "-p", "\(lab.folder)/empty"])
        var options = NginxOptions()
        options.serverLines = ["location / { root \(lab.folder)/empty; }"]
        let other = try Nginx(lab, on: .b, options)
        try servers.world.refuses(
            .a,
            [
                "migrate", String(servers.a.masterPID), "--peer", lab.address(.client, .ipv4), "--to", "unix:\(servers.world.receiver(on: .b))",
                "--onto",
                String(other.masterPID), "--adapter", "http",
            ], naming: "cannot continue /big.bin", "ENOENT")
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        try #expect(lab.sha256(saved) == file.sha256)
        other.stop()
        try servers.finish()
    }

    /// One GET on an open connection; the body.
    private func get(_ name: String, _ socket: Int32) throws -> [UInt8] {
        let request = Array("GET /\(name) HTTP/1.1\r\nHost: lab\r\n\r\n".utf8)
        #expect(write(socket, request, request.count) == request.count)
        var reply: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            let text = String(decoding: reply.prefix(1024), as: UTF8.self)
            let headers = text.split(separator: "\r\n", omittingEmptySubsequences: false)
            if let length = headers.compactMap({ $0.hasPrefix("Content-Length: ") ? Int($0.dropFirst(16)) : nil }).first,
                let end = headers.firstIndex(of: "")
            {
                let head = headers[..<end].reduce(0) { $0 + $1.utf8.count + 2 } + 2
                if reply.count == head + length { return Array(reply[head...]) }
            }
            var waiting = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
            guard poll(&waiting, 1, 5000) == 1 else { throw LabError("no response within 5 s, \(reply.count) bytes so far") }
            let count = read(socket, &buffer, buffer.count)
            guard count > 0 else { throw LabError("the connection ended after \(reply.count) bytes") }
            reply += buffer.prefix(count)
        }
    }
}
