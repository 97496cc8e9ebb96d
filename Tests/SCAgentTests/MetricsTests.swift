// The figures as Prometheus' own client reads them, and the small server that gives them out, as curl sees it.

import Glibc
import SCAgent
import SCEngine
import SCImage
import Support
import Testing

@Suite struct MetricsTests {
    @Test func `Prometheus' own parser reads the exposition, and it keeps the rules`() throws {
        let metrics = Metrics()
        metrics.add(.migrations, ["source", "moved"])
        metrics.add(.migrations, ["source", "strange \"outcome\" \\ with\nline"], 2)
        metrics.add(.sessionsMoved, ["source"], 1000)
        metrics.set(.heldSessions, to: 3)
        metrics.add(.connections, ["peer"], -2)
        for nanoseconds in [1, 400_000, 500_000, 500_001, 2_700_000, 60_000_000_000] as [UInt64] {
            metrics.observe(.blackout, nanoseconds: nanoseconds)
        }
        let script = """
            import sys
            from prometheus_client.parser import text_string_to_metric_families as parse
            text = sys.stdin.read()
            assert text.endswith("\\n") and "\\r" not in text
            families = {f.name: f for f in parse(text)}
            value = {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families.values() for s in f.samples}
            assert len(value) == sum(len(f.samples) for f in families.values()), "a series occurs twice"
            for f in families.values():
                assert f.documentation and f.name.startswith("sc_"), f.name
                if f.type == "counter": assert all(s.name.endswith("_total") for s in f.samples)
                if f.type == "histogram":
                    assert f.name.endswith("_seconds")
                    keys = {tuple(sorted((k, v) for k, v in s.labels.items() if k != "le")) for s in f.samples}
                    for key in keys:
                        buckets = [(float(s.labels["le"]), s.value) for s in f.samples
                                   if s.name.endswith("_bucket") and set(key) <= set(s.labels.items())]
                        assert buckets == sorted(buckets) and buckets[-1][0] == float("inf"), buckets
                        assert [c for _, c in buckets] == sorted(c for _, c in buckets), buckets
                        assert buckets[-1][1] == value[(f.name + "_count", key)]
                        value[(f.name + "_sum", key)]
            assert value[("sc_migrations_total", (("outcome", "moved"), ("role", "source")))] == 1
            assert value[("sc_migrations_total", (("outcome", 'strange "outcome" \\\\ with\\nline'), ("role", "source")))] == 2
            assert value[("sc_sessions_moved_total", (("role", "source"),))] == 1000
            assert value[("sc_held_sessions", ())] == 3 and value[("sc_connections", (("kind", "peer"),))] == -2
            assert value[("sc_blackout_seconds_count", ())] == 6 and abs(value[("sc_blackout_seconds_sum", ())] - 60.004100002) < 1e-9
            assert value[("sc_blackout_seconds_bucket", (("le", "0.0005"),))] == 3
            assert value[("sc_blackout_seconds_bucket", (("le", "0.001"),))] == 4
            assert value[("sc_blackout_seconds_bucket", (("le", "5"),))] == 5
            assert value[("sc_refusals_total", (("check", "peer"),))] == 0
            assert value[("sc_stage_duration_seconds_count", (("stage", "capture"),))] == 0
            """
        let result = try runCommand(["/usr/bin/python3", "-c", script], input: metrics.text)
        #expect(result.status == 0, "\(result.errors)")
    }

    @Test func `many threads count together`() async {
        let metrics = Metrics()
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<8 { group.addTask { for _ in 0..<1000 { metrics.add(.peerFailures) } } }
        }
        #expect(metrics.text.contains("\nsc_peer_failures_total 8000\n"))
    }
}

@Suite(.serialized) struct MetricsServerTests {
    private func curl(_ arguments: [String]) throws -> CommandResult {
        try runCommand(["curl", "-sS", "--max-time", "5", "-w", "\\n%{http_code} %{content_type}"] + arguments)
    }

    @Test func `curl reads them over a Unix socket, and nothing else is there`() throws {
        let path = "/tmp/sc-metrics-\(getpid()).sock"
        let metrics = Metrics()
        let server = try MetricsServer(.unix(path), metrics)
        try server.start()
        var status = stat()
        #expect(stat(path, &status) == 0 && status.st_mode & 0o007 == 0)
        let socket = ["--unix-socket", path]
        let answer = try curl(socket + ["http://localhost/metrics"])
        #expect(answer.status == 0 && answer.output == metrics.text + "\n200 text/plain; version=0.0.4; charset=utf-8", "\(answer)")
        for (arguments, code) in [
            (["http://localhost/"], "404"), (["http://localhost/metricsx"], "404"), (["-X", "POST", "http://localhost/metrics"], "405"),
            (["-d", "x=1", "http://localhost/metrics"], "405"), (["-I", "http://localhost/metrics"], "405"),
            (["-H", "X: " + String(repeating: "x", count: 10_000), "http://localhost/metrics"], "431"),
        ] {
            let answer = try curl(socket + arguments)
            #expect(answer.output.contains("\n\(code) "), "\(arguments.last!): \(answer)")
        }
        // A second one does not take its place; after a kill its file is in nobody's way.
        #expect(throws: CheckpointError.self) { try MetricsServer(.unix(path), metrics) }
        server.stop()
        #expect(access(path, F_OK) != 0)
        let left = leaveSocket(path)
        #expect(left)
        let successor = try MetricsServer(.unix(path), metrics)
        try successor.start()
        #expect(try curl(socket + ["http://localhost/metrics"]).output.hasPrefix("# HELP sc_build_info"))
        successor.stop()
    }

    @Test func `a slow client and a rude one do not keep others waiting for long`() throws {
        let server = try MetricsServer(.tcp(SocketAddress(try #require(IPAddress("127.0.0.1")), port: 0)), Metrics(), limit: 300)
        try server.start()
        let address = "127.0.0.1:\(server.port)"
        let script = """
            import socket, sys, time
            host, port = sys.argv[1].split(":")
            def connect(): return socket.create_connection((host, int(port)), 5)
            for said in [b"", b"GET /metr"]:
                slow = connect(); slow.sendall(said); start = time.time()
                answer = slow.makefile("rb").read()
                assert answer.startswith(b"HTTP/1.1 408 "), answer
                assert 0.2 < time.time() - start < 2, time.time() - start
            gone = connect(); gone.sendall(b"GET"); gone.close()
            bad = connect(); bad.sendall(b"\\xff\\x00nonsense\\r\\n\\r\\n")
            assert bad.makefile("rb").read().startswith(b"HTTP/1.1 400 ")
            two = connect(); two.sendall(b"GET /metrics HTTP/1.1\\r\\n\\r\\nGET /metrics HTTP/1.1\\r\\n\\r\\n")
            assert two.makefile("rb").read().count(b"HTTP/1.1 ") == 1
            """
        let result = try runCommand(["python3", "-c", script, address])
        #expect(result.status == 0, "\(result.errors)")
        #expect(try curl(["http://\(address)/metrics"]).output.hasSuffix("\n200 text/plain; version=0.0.4; charset=utf-8"))
        server.stop()
    }
}

/// Leaves a socket's file without a listener, as a killed agent does.
private func leaveSocket(_ path: String) -> Bool {
    let raw = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(raw) }
    return bindUnix(raw, path) && access(path, F_OK) == 0
}
