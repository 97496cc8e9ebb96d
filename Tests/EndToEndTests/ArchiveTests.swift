// A live HTTP session with bytes in both queues: archived, looked at, replayed into a fresh nginx.

import FoundationEssentials
import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct ArchiveTests {
    /// nginx has answered a request, whose answer the client does not acknowledge, and has not read the next one.
    private final class World {
        let hosts: TwoHosts
        let nginx: Nginx
        let socket: Int32
        let image: String
        let archive: String

        init(_ family: Family = .ipv4) throws {
            hosts = try TwoHosts()
            let lab = hosts.lab
            nginx = try Nginx(lab, on: .a)
            try writeFile("\(lab.documentRoot)/first.txt", "the first answer\n", mode: 0o644)
            try writeFile("\(lab.documentRoot)/second.txt", "the second answer, reproduced\n", mode: 0o644)
            socket = try lab.connect(from: .client, to: lab.serviceAddress(family), 80)
            (image, archive) = ("\(lab.folder)/http.sci", "\(lab.folder)/archive")
            try hosts.waitForSession(on: .a, nginx.workerPIDs[0], port: 80)
            // From here on no byte from the server reaches the client, so nothing is acknowledged; bare acknowledgements do.
            try ok(
                lab.run(
                    in: .client, ["nft", "table inet deaf { chain in { type filter hook input priority 0; tcp sport 80 meta length > 120 drop; }; }"])
            )
            try say("GET /first.txt HTTP/1.1\r\nHost: lab\r\n\r\n")
            let worker = nginx.workerPIDs[0]
            try #require(
                eventually(within: .seconds(5)) {
                    (self.hosts.channels(.a, of: worker, port: 80).first { $0.state == "ESTABLISHED" }?.send_queue ?? 0) > 200
                })
            kill(worker, SIGSTOP)
            try say("GET /second.txt HTTP/1.1\r\nHost: lab\r\nUser-Agent: archive-test\r\n\r\n")
            try #require(
                eventually(within: .seconds(5)) {
                    (self.hosts.channels(.a, of: worker, port: 80).first { $0.state == "ESTABLISHED" }?.receive_queue ?? 0) > 50
                })
            try ok(hosts.tool(.a, ["snapshot", String(worker), "--peer", lab.address(.client, family), "-o", image]))
        }

        private func say(_ text: String) throws { #expect(write(socket, text, text.utf8.count) == text.utf8.count) }

        func ok(_ output: Output) throws { try #require(output.status == 0, "\(output.stdout)\(output.stderr)") }

        /// `archive` verbs of host A.
        func run(_ arguments: [String]) throws -> Output { try hosts.tool(.a, ["archive"] + arguments + ["--archive", archive]) }

        func finish() throws {
            _ = try hosts.lab.run(in: .client, ["nft", "delete", "table", "inet", "deaf"])
            close(socket)
            nginx.stop()
            try hosts.finish()
        }
    }

    @Test(arguments: Family.allCases) func `tshark follows the stream of an image`(family: Family) throws {
        let world = try World(family)
        let file = "\(world.hosts.lab.folder)/http.pcapng"
        try world.ok(world.hosts.tool(.a, ["show", world.image, "--pcap", file]))
        func tshark(_ arguments: [String]) throws -> String {
            let output = try world.hosts.lab.run(in: .a, ["tshark", "-n", "-r", file] + arguments)
            try world.ok(output)
            return output.stdout
        }
        let fields = try tshark(
            [
                "-Y", "http", "-T", "fields", "-e", "http.request.method", "-e", "http.request.uri", "-e", "http.user_agent", "-e",
                "http.response.code", "-e", "http.content_length",
            ])
        #expect(fields.contains("GET\t/second.txt\tarchive-test"), "\(fields)")
        #expect(fields.contains("200\t17"), "\(fields)")
        // Checksums are looked at, and nothing is amiss with a single packet.
        let checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
        #expect(
            try tshark(checks + ["-Y", "tcp.checksum.status == \"Bad\" || ip.checksum.status == \"Bad\" || tcp.analysis.flags || _ws.malformed"])
                .isEmpty)
        let followed = try tshark(["-q", "-z", "follow,tcp,ascii,0"])
        #expect(
            followed.contains("GET /second.txt HTTP/1.1") && followed.contains("HTTP/1.1 200 OK") && followed.contains("the first answer"),
            "\(followed)")
        let ends = try tshark([
            "-T", "fields", "-e", family == .ipv4 ? "ip.src" : "ipv6.src", "-e", "tcp.srcport", "-e", "tcp.seq_raw", "-Y", "tcp.len > 0",
        ])
        #expect(
            ends.contains("\(world.hosts.lab.address(.client, family))\t") && ends.contains("\(world.hosts.lab.serviceAddress(family))\t80"),
            "\(ends)")
        try world.finish()
    }

    @Test func `an archived image is listed, shown, sealed and got back`() throws {
        let world = try World()
        let lab = world.hosts.lab
        let added = try world.run(["add", world.image, "--note", "answers twice", "--tag", "bug-1"])
        try world.ok(added)
        let id = String(added.stdout.prefix(12))
        let listed = try world.run(["list", "--peer", "10.78.0.2", "--service", "nginx", "--tag", "bug-1"])
        #expect(listed.stdout.contains(id) && listed.stdout.contains("10.78.0.2:"), "\(listed.stdout)")
        #expect(try world.run(["list", "--peer", "10.78.0.3"]).stdout.split(separator: "\n").count == 1)
        let shown = try world.run(["show", id])
        for text in ["note: answers twice", "HTTP request:", "> GET /second.txt HTTP/1.1", "HTTP response:", "> HTTP/1.1 200 OK", "tcp ESTABLISHED"] {
            #expect(shown.stdout.contains(text), "\(text) is missing in \(shown.stdout)\(shown.stderr)")
        }
        try world.ok(world.run(["get", id, "-o", "\(lab.folder)/copy.sci"]))
        #expect(readBytes("\(lab.folder)/copy.sci") == readBytes(world.image))
        // Sealed: the key opens it, and only the key.
        let key = "\(lab.folder)/archive.key"
        let made = try world.hosts.tool(.a, ["archive", "key", key])
        try world.ok(made)
        let sealed = try world.run(["add", world.image, "--seal-to", String(made.stdout.prefix { $0 != "\n" })])
        try world.ok(sealed)
        let sealedID = String(sealed.stdout.prefix(12))
        try world.hosts.refuses(.a, ["archive", "show", sealedID, "--archive", world.archive], naming: "it is sealed", "ENOKEY")
        try world.ok(world.hosts.tool(.a, ["archive", "key", key + "2"]))
        try world.hosts.refuses(
            .a, ["archive", "get", sealedID, "-o", "\(lab.folder)/no.sci", "--archive", world.archive, "--key", key + "2"],
            naming: "sealed to other keys",
            "EKEYREJECTED")
        #expect(access("\(lab.folder)/no.sci", F_OK) != 0)
        chmod(key, 0o644)
        try world.hosts.refuses(.a, ["archive", "show", sealedID, "--archive", world.archive, "--key", key], naming: "others can read it", "EPERM")
        chmod(key, 0o600)
        #expect(try world.run(["show", sealedID, "--key", key]).stdout.contains("> GET /second.txt HTTP/1.1"))
        // Redacted: the lengths stay.
        try world.ok(world.run(["get", id, "-o", "\(lab.folder)/redacted.sci", "--redact"]))
        let plain = try world.hosts.json(.a, ["show", world.image], as: Queues.self)
        let redacted = try world.hosts.json(.a, ["show", "\(lab.folder)/redacted.sci"], as: Queues.self)
        #expect(redacted.lengths == plain.lengths && redacted.digests != plain.digests)
        #expect(try !lab.run(in: .a, ["grep", "-c", "second.txt", "\(lab.folder)/redacted.sci"]).stdout.hasPrefix("1"))
        #expect(try world.run(["verify"]).stdout.contains("2 images intact"))
        try world.finish()
    }

    private struct Queues: Decodable {
        struct Session: Decodable {
            struct Channel: Decodable {
                var receive_queue, send_queue: Int
                var receive_queue_sha256, send_queue_sha256: String
            }
            var channels: [Channel]
        }
        var sessions: [Session]
        var lengths: [Int] { sessions.flatMap { $0.channels.flatMap { [$0.receive_queue, $0.send_queue] } } }
        var digests: [String] { sessions.flatMap { $0.channels.flatMap { [$0.receive_queue_sha256, $0.send_queue_sha256] } } }
    }

    private struct Replayed: Decodable {
        var sent, answer_bytes: Int
        var end: String
        var exit_status, signal: Int32?
    }

    @Test(arguments: Family.allCases) func `an unread request is answered again by a fresh nginx`(family: Family) throws {
        let world = try World(family)
        let lab = world.hosts.lab
        let added = try world.run(["add", world.image])
        try world.ok(added)
        // A fresh copy with a folder of its own, which listens where the old one did.
        let folder = "\(lab.folder)/fresh"
        try ok(lab.run(in: .a, ["mkdir", "-p", folder]))
        let old = readText("\(lab.folder)/nginx-a-80/nginx.conf")
        try writeFile("\(folder)/nginx.conf", old.replacing("\(lab.folder)/nginx-a-80", with: folder), mode: 0o644)
        let command = ["nginx", "-p", folder, "-e", "\(folder)/error.log", "-c", "\(folder)/nginx.conf"]
        let replayed = try world.hosts.tool(
            .b, ["restore", "archive:\(added.stdout.prefix(12))", "--archive", world.archive, "--replay", "--"] + command)
        try world.ok(replayed)
        #expect(replayed.stdout.hasPrefix("HTTP/1.1 200 OK\r\n") && replayed.stdout.hasSuffix("the second answer, reproduced\n"), "\(replayed)")
        // The fresh server saw the client's own address.
        #expect(readText("\(folder)/access.log").hasPrefix("\(lab.address(.client, family)) "), "\(readText("\(folder)/access.log"))")
        // Nothing of it is left.
        #expect(Lab.processes(in: lab.namespace(.b)).isEmpty)
        #expect(eventually(within: .seconds(2)) { access("\(folder)/nginx.pid", F_OK) != 0 })
        try world.finish()
    }

    @Test func `a replay reproduces a crash, and tells of a server that does not come up`() throws {
        let world = try World()
        let script = """
            import os, signal, socket
            server = socket.socket(); server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("10.77.0.100", 80)); server.listen()
            session, peer = server.accept()
            if b"/second.txt" in session.recv(4096): os.kill(os.getpid(), signal.SIGSEGV)
            """
        let crashed = try world.hosts.json(.b, ["restore", world.image, "--replay", "--", "python3", "-c", script], as: Replayed.self)
        #expect(crashed.signal == SIGSEGV && crashed.exit_status == nil && crashed.answer_bytes == 0 && crashed.end != "silent", "\(crashed)")
        try world.hosts.refuses(.b, ["restore", world.image, "--replay", "--", "/bin/false"], naming: "ended before it accepted", "exit status 1")
        try world.hosts.refuses(.b, ["restore", world.image, "--replay", "--", "/no/such/server"], naming: "cannot start /no/such/server")
        try world.finish()
    }

    @Test func `a full archive and one that cannot be written`() throws {
        let world = try World()
        let lab = world.hosts.lab
        let tool = TwoHosts.program
        try world.ok(world.run(["add", world.image]))
        // A file system of 256 KiB, and an image of more that does not compress.
        let noise = "\(lab.folder)/noise.bin"
        try ok(lab.run(in: .a, ["sh", "-c", "head -c 600000 /dev/urandom >\(noise)"]))
        let big = "\(lab.folder)/big.sci"
        let worker = world.nginx.workerPIDs[0]
        try world.ok(world.hosts.tool(.a, ["snapshot", String(worker), "--peer", "10.78.0.2", "--state", noise, "-o", big]))
        let full = try lab.run(
            in: .a,
            [
                "unshare", "-m", "sh", "-c",
                """
                mkdir -p \(lab.folder)/small && mount -t tmpfs -o size=256k none \(lab.folder)/small || exit 9
                \(tool) archive add \(world.image) --archive \(lab.folder)/small/a || exit 8
                \(tool) archive add \(big) --archive \(lab.folder)/small/a; echo "status $?"
                \(tool) archive verify --archive \(lab.folder)/small/a; ls \(lab.folder)/small/a/new
                \(tool) archive list --archive \(lab.folder)/small/a
                """,
            ])
        #expect(full.stderr.contains("(ENOSPC)") && full.stderr.contains("archive prune"), "\(full.stderr)")
        #expect(full.stdout.contains("status 1") && full.stdout.contains("1 image intact"), "\(full.stdout)")
        let readOnly = try lab.run(
            in: .a,
            [
                "unshare", "-m", "sh", "-c",
                """
                rm -f \(world.archive)/index
                mount --bind \(world.archive) \(world.archive) && mount -o remount,ro,bind \(world.archive) || exit 9
                \(tool) archive add \(big) --archive \(world.archive); echo "status $?"
                \(tool) archive list --archive \(world.archive); \(tool) archive verify --archive \(world.archive)
                """,
            ])
        #expect(readOnly.stderr.contains("(EROFS)") && readOnly.stdout.contains("status 1"), "\(readOnly)")
        #expect(readOnly.stdout.contains("nginx") && readOnly.stdout.contains("1 image intact"), "\(readOnly)")
        chmod(lab.folder, 0o755)
        let stranger = try lab.run(
            in: .a, ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", tool, "archive", "list", "--archive", world.archive])
        #expect(stranger.status == 1 && stranger.stderr.contains("(EACCES)"), "\(stranger)")
        try world.finish()
    }

    @Test func `two images of a session tell what happened between them`() throws {
        let world = try World()
        let lab = world.hosts.lab
        let worker = world.nginx.workerPIDs[0]
        // The server reads the second request and answers it; the client still hears nothing.
        kill(worker, SIGCONT)
        try #require(
            eventually(within: .seconds(5)) {
                (world.hosts.channels(.a, of: worker, port: 80).first { $0.state == "ESTABLISHED" }?.receive_queue ?? 1) == 0
            })
        usleep(200_000)
        let later = "\(lab.folder)/later.sci"
        try world.ok(world.hosts.tool(.a, ["snapshot", String(worker), "--peer", "10.78.0.2", "-o", later]))
        let difference = try world.hosts.tool(.a, ["diff", world.image, later])
        try world.ok(difference)
        for text in [
            "0 bytes came from the client, the server read 65", "HTTP request: GET /second.txt", "the client acknowledged 0",
            "HTTP response: HTTP/1.1 200 OK", "receive queue: 65 -> 0",
        ] {
            #expect(difference.stdout.contains(text), "\(text) is missing in \(difference.stdout)")
        }
        let backwards = try world.hosts.tool(.a, ["diff", later, world.image])
        #expect(backwards.stdout.contains("the second image is the older one"), "\(backwards.stdout)")
        try world.finish()
    }

    private func ok(_ output: Output) throws { try #require(output.status == 0, "\(output.stdout)\(output.stderr)") }
}
