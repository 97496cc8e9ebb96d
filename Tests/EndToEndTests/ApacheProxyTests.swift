// Apache in front of another server: the client's session moves, and the other Apache asks that server again.

import Glibc
import Support
import Testing

extension ApacheTests {
    /// `/length` and `/chunks` are slow, and the same each time; `/random` is never, `/longer` is longer each time, and `/once` is there once. Says what
    /// it was asked for.
    private static let backend = """
        import collections, http.server, random, sys, time
        asked = collections.Counter()
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def log_message(self, *words): pass
            def do_GET(self):
                print("asked", self.path, flush=True)
                parts = [b"part %06d " % i * 1000 if self.path != "/random" else random.randbytes(12000) for i in range(2000)]
                asked[self.path] += 1
                if self.path == "/longer": parts += [b"more"] * asked[self.path]
                self.send_response(404 if self.path == "/once" and asked[self.path] > 1 else 200)
                self.send_header("Content-Type", "application/octet-stream")
                chunked = self.path in ("/chunks", "/random")
                if chunked: self.send_header("Transfer-Encoding", "chunked")
                else: self.send_header("Content-Length", str(sum(map(len, parts))))
                self.end_headers()
                for index, part in enumerate(parts):
                    self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(part), part) if chunked else part)
                    if index % 4 == 0: time.sleep(0.001)
                if chunked: self.wfile.write(b"0\\r\\n\\r\\n")
        http.server.ThreadingHTTPServer((sys.argv[1], 8080), Handler).serve_forever()
        """

    private func behindBoth(_ mpm: MPM) throws -> (scene: TwoApaches, backend: Child) {
        let scene = try TwoApaches(mpm, lines: ["ProxyPass /app http://10.77.0.1:8080"])
        let lab = scene.world.lab
        let backend = try lab.spawn(in: .router, ["python3", "-c", Self.backend, lab.address(.router, .ipv4)])
        #expect(lab.waitUntilAccepting(.router, lab.address(.router, .ipv4), 8080))
        return (scene, backend)
    }

    @Test(arguments: MPM.allCases, ["length", "chunks"]) func `a proxied response moves, and the backend is asked again`(mpm: MPM, path: String)
        throws
    {
        let (scene, backend) = try behindBoth(mpm)
        let saved = "\(scene.world.lab.folder)/saved"
        let download = try scene.spawn(["curl", "-sS", "--limit-rate", "4M", "-o", saved, scene.here.url("app/\(path)")])
        try scene.moves(3, of: download)
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        let expected = (0..<2000).map { index in
            let number = String(index)
            return String(repeating: "part \(String(repeating: "0", count: 6 - number.count))\(number) ", count: 1000)
        }
        #expect(readText(saved) == expected.joined())
        // Once by each of the Apaches that had not all of it yet; the last ones may be left with what waits in the socket.
        #expect((2...4).contains(backend.stdout.split(separator: "\n").count { $0 == "asked /\(path)" }), "\(backend.stdout)")
        backend.terminate()
        try scene.finish()
    }

    @Test(arguments: [
        ("random", 24_000_000, "the content of the response differs here"), ("longer", 24_000_004, "the response has another length here"),
        ("once", 24_000_000, "the status of the response differs here"),
    ]) func `a backend that answers something else keeps the session where it is`(path: String, bytes: Int, reason: String) throws {
        let (scene, backend) = try behindBoth(.event)
        let saved = "\(scene.world.lab.folder)/saved"
        let download = try scene.spawn(["curl", "-sS", "--limit-rate", "4M", "-o", saved, scene.here.url("app/\(path)")])
        usleep(400_000)
        try scene.expectRefusal(reason)
        #expect(scene.agents.log(.a).contains(reason))
        try #expect(download.wait(timeout: .seconds(30)) == 0, "\(download.stderr)")
        #expect(readBytes(saved).count == bytes)
        backend.terminate()
        try scene.finish()
    }

    /// Announces the length of its answer each second time, from the first one on or not, and sends the others in chunks.
    private static let alternating = """
        import http.server, itertools, sys
        turns = itertools.cycle(["length", "chunks"] if sys.argv[2] == "length" else ["chunks", "length"])
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            def log_message(self, *words): pass
            def do_GET(self):
                body, turn = b"".join(b"%08d\\n" % index for index in range(5000)), next(turns)
                print("asked", turn, flush=True)
                self.send_response(200)
                self.send_header("Content-Type", "text/plain")
                self.send_header(*("Content-Length", str(len(body))) if turn == "length" else ("Transfer-Encoding", "chunked"))
                self.end_headers()
                self.wfile.write(body if turn == "length" else b"%x\\r\\n%s\\r\\n0\\r\\n\\r\\n" % (len(body), body))
        http.server.ThreadingHTTPServer((sys.argv[1], 8080), Handler).serve_forever()
        """

    @Test(arguments: ["length", "chunks"]) func `a response goes on in chunks or without as it began, whatever the other host makes of it`(
        first: String
    ) throws {
        let scene = try TwoApaches(lines: ["ProxyPass /app http://10.77.0.1:8080", "SendBufferSize 4608"])
        let lab = scene.world.lab
        // Most of it waits in Apache.
        let usual = try lab.check(in: .client, ["sysctl", "-n", "net.ipv4.tcp_rmem"])
        try lab.check(in: .client, ["sysctl", "-qw", "net.ipv4.tcp_rmem=4096 8192 8192"])
        let backend = try lab.spawn(in: .router, ["python3", "-c", Self.alternating, lab.address(.router, .ipv4), first])
        #expect(lab.waitUntilAccepting(.router, lab.address(.router, .ipv4), 8080))
        let client = try scene.client()
        try lab.check(in: .client, ["sysctl", "-qw", "net.ipv4.tcp_rmem=\(usual)"])
        try #expect(client.ask("cut 0 /app/") == "cut")
        for _ in 0..<3 {
            usleep(200_000)
            try scene.move()
        }
        let text = (0..<5000).map { String(repeating: "0", count: 8 - String($0).count) + "\($0)\n" }.joined()
        try writeFile("\(lab.folder)/text", text, mode: 0o644)
        let answer = try client.ask("go")
        try #expect(answer.hasPrefix("200 \(lab.sha256("\(lab.folder)/text")) "), "\(answer)\(client.stderr)")
        // The connection is as good as before.
        try #expect(client.ask("get /app/").hasPrefix("200 "), "\(client.stderr)")
        #expect(backend.stdout.split(separator: "\n").count == 5, "\(backend.stdout)")
        try client.send("stop")
        _ = try client.wait()
        backend.terminate()
        try scene.finish()
    }
}
