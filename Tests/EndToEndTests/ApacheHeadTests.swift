// Heads of responses that come in pieces: interim responses (100, 103), and what two servers make differently of them.

import Glibc
import Support
import Testing

extension ApacheTests {
    /// Waits for the interim response before it sends more than the head, and sends half.
    private static let patient = """
        import hashlib, http.client, socket, sys
        body, connection = b"line\\n" * 4000, socket.create_connection((sys.argv[1], 80))
        connection.sendall(b"PUT /later/again HTTP/1.1\\r\\nHost: lab\\r\\nExpect: 100-continue\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body))
        interim = connection.recv(1000)
        connection.sendall(body[:10000])
        print("interim", interim, flush=True)
        sys.stdin.readline()
        connection.sendall(body[10000:])
        response = http.client.HTTPResponse(connection, method="PUT")
        response.begin()
        answer = response.read(32)
        print("half", flush=True)
        answer += response.read()
        print("result", response.status, answer.decode().strip() == hashlib.sha256(body).hexdigest(), flush=True)
        """

    private static let halves = """
        import hashlib, os, sys, time
        sum = hashlib.sha256(sys.stdin.buffer.read(int(os.environ["CONTENT_LENGTH"]))).hexdigest()
        print("Content-Type: text/plain\\n\\n" + sum[:32], end="", flush=True)
        time.sleep(1)
        print(sum[32:])
        """

    enum Fate: CaseIterable { case movesOn, itsProcessDies }

    @Test(arguments: Fate.allCases) func `what a client has of a head is known until the other host has produced it too`(fate: Fate) throws {
        let scene = try TwoApaches { lab in
            let slow = "import sys, time\nfor line in sys.stdin:\n    time.sleep(1)\n    print(line.strip(), flush=True)"
            try writeFile("\(lab.folder)/slow.py", "#!/usr/bin/python3\n" + slow, mode: 0o755)
            return [
                "LoadModule rewrite_module /usr/lib/apache2/modules/mod_rewrite.so", "RewriteEngine on", "RewriteMap slow prg:\(lab.folder)/slow.py",
                "RewriteRule ^/later/(.*)$ /cgi/${slow:$1} [PT]", "<Location /cgi/again>", "SCRepeat all", "</Location>",
            ]
        }
        try scene.writeProgram("again", Self.halves)
        let client = try scene.spawn(["python3", "-c", Self.patient, scene.world.lab.serviceAddress(.ipv4)], stdin: .pipe)
        #expect(client.waitForOutputOrError("interim b'HTTP/1.1 100 Continue\\r\\n\\r\\n'"), "\(client.stdout)\(client.stderr)")
        try scene.move()
        // The other host is still looking for the program that will answer.
        switch fate {
        case .movesOn: try scene.move()
        case .itsProcessDies: for process in try scene.here.servingEach() { kill(process, SIGKILL) }
        }
        try client.send("go")
        #expect(client.waitForOutputOrError("half"), "\(client.stdout)\(client.stderr)")
        try scene.move()
        try #expect(client.wait() == 0, "\(client.stderr)\(scene.here.errorLog)")
        #expect(client.stdout.contains("result 200 True"), "\(client.stdout)")
        try scene.finish()
    }

    @Test(arguments: [Lab.Host.a, .b]) func `an interim response that only one of the hosts sends does no harm`(host: Lab.Host) throws {
        let scene = try TwoApaches()
        let lab = scene.world.lab, flag = "\(lab.folder)/hints"
        let file = try lab.makeFile("body.bin", bytes: 20_000_000)
        try scene.writeProgram(
            "nph-hints",
            """
            import os, shutil, sys
            out = sys.stdout.buffer
            if os.path.exists("\(flag)"): out.write(b"HTTP/1.1 103 Early Hints\\r\\nLink: </style.css>\\r\\n\\r\\n")
            out.flush()
            out.write(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\nContent-Length: 20000000\\r\\n\\r\\n")
            shutil.copyfileobj(open("\(lab.documentRoot)/body.bin", "rb"), out)
            """)
        if host == .a { try writeFile(flag, "", mode: 0o644) }
        let download = try scene.spawn(["python3", TwoApaches.paced, "curl", "-sS", scene.here.url("cgi/nph-hints")], stdin: .pipe)
        try #require(download.waitForOutputOrError("reading"), "\(download.stderr)")
        if host == .a { unlink(flag) } else { try writeFile(flag, "", mode: 0o644) }
        try scene.move()
        try scene.move()
        try download.send("go")
        _ = try download.wait(timeout: .seconds(60))
        #expect(download.stdout.contains("\n0 \(file.sha256)\n"), "\(download.stdout)\(download.stderr)")
        try scene.finish()
    }
}
