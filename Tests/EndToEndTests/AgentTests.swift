// Two hosts with agents: joined by one command on each, sessions move between them over mutual TLS, and what the policy does not name does not.

import FoundationEssentials
import Glibc
import Support
import Testing

/// The agents of a lab's two hosts.
final class Agents {
    let world: TwoHosts
    private var running: [Lab.Host: Child] = [:]

    /// Each host has keys and a policy of its own; `services` is the policy's text on both, in which OTHER is the other host's name.
    init(_ world: TwoHosts, services: String, limits: String = "{}") throws {
        self.world = world
        for host in [Lab.Host.a, .b] {
            try world.lab.check(in: nil, ["install", "-d", "-m", "700", configuration(host)])
            let address = world.lab.address(host, .ipv4)
            let services = services.replacing("OTHER", with: host == .a ? "b" : "a")
            try writeFile(
                policy(host), "// the policy of \(host.rawValue)\n{listen: \"\(address):7441\", services: \(services), limits: \(limits)}\n",
                mode: 0o644)
        }
    }

    func configuration(_ host: Lab.Host) -> String { "\(world.lab.folder)/etc-\(host.rawValue)" }
    func policy(_ host: Lab.Host) -> String { "\(configuration(host))/agent.json5" }

    func environment(_ host: Lab.Host, _ more: [String: String] = [:]) -> [String: String] {
        world.environment(host).merging(["SC_CONFIG_DIR": configuration(host)]) { $1 }.merging(more) { $1 }
    }

    @discardableResult
    func start(_ host: Lab.Host, _ more: [String: String] = [:]) throws -> Child {
        let agent = try world.lab.spawn(in: host, [TwoHosts.program, "agent", "--config", policy(host)], environment: environment(host, more))
        running[host] = agent
        try #require(agent.waitForOutputOrError("listening local="), "\(agent.stderr)")
        return agent
    }

    func log(_ host: Lab.Host) -> String { running[host]?.stderr ?? "" }

    /// Ends one of them, which may have been killed.
    func end(_ host: Lab.Host) {
        running[host]?.terminate()
        running[host] = nil
    }

    func stop() {
        for agent in running.values { agent.terminate() }
        running = [:]
    }

    /// As by a crash.
    func kill(_ host: Lab.Host) {
        running[host]?.signal(SIGKILL)
        _ = try? running[host]?.wait()
    }

    @discardableResult
    func tool(_ host: Lab.Host, _ arguments: [String]) throws -> Output {
        try world.lab.run(in: host, [TwoHosts.program] + arguments, environment: environment(host), timeout: .seconds(30))
    }

    /// One command on each host.
    func join() throws {
        for (host, other) in [(Lab.Host.a, Lab.Host.b), (.b, .a)] {
            let output = try tool(host, ["peers", "trust", other.rawValue, "\(world.lab.address(other, .ipv4)):7441", "--yes"])
            try #require(output.status == 0, "\(output.stderr)")
        }
    }
}

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct AgentTests {
    private static func echo(_ more: String = "") -> String {
        "{echo: {ports: [7100], peers: [\"a\", \"b\"], accept: [{exec: [\"\(Lab.program("sc-hold"))\", \"adopt\", \"--echo\"]}]}\(more)}"
    }

    private func expectAlive(_ pair: CarriedTests.Pair, at location: SourceLocation = #_sourceLocation) throws {
        let pong = try Held(pair.client.ask("ping 0"))
        #expect(pong.good == 1, "\(pong)", sourceLocation: location)
    }

    private func endServers(_ world: TwoHosts) {
        for host in [Lab.Host.a, .b] {
            for pid in Lab.processes(in: world.lab.namespace(host)) where readText("/proc/\(pid)/comm").hasPrefix("sc-hold") { kill(pid, SIGTERM) }
        }
    }

    private func finish(_ pair: CarriedTests.Pair, _ agents: Agents, _ capture: Capture?) throws {
        endServers(pair.world)
        agents.stop()
        try pair.finish(capture)
    }

    private func migrate(_ pair: CarriedTests.Pair, _ more: [String] = []) throws -> [String] {
        ["migrate", String(pair.server.pid), "--port", try pair.port, "--to", "tls://b", "--service", "echo"] + more
    }

    @Test func `sessions move over TLS between joined hosts, and the metrics tell`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let agents = try Agents(pair.world, services: Self.echo())
        try agents.start(.a)
        try agents.start(.b)
        try agents.join()
        let output = try agents.tool(.a, migrate(pair, ["--json"]))
        try #require(output.status == 0, "\(output.stderr)\(agents.log(.a))\(agents.log(.b))")
        let moved = try JSONDecoder().decode(Migrated.self, from: Data(output.stdoutBytes))
        #expect(moved.migrated == 1)
        pair.server.terminate()
        try expectAlive(pair)
        #expect(eventually(within: .seconds(5)) { agents.log(.b).contains("migration outcome=moved peer=a") }, "\(agents.log(.b))")
        let metrics = try agents.tool(.b, ["agent", "--metrics"]).stdout
        #expect(metrics.contains("sc_migrations_total{role=\"target\",outcome=\"moved\"} 1"), "\(metrics)")
        let figures = try agents.tool(.a, ["agent", "--metrics"]).stdout
        #expect(figures.contains("sc_blackout_seconds_count 1"), "\(figures)")
        // The session ends; the rules that pass its packets on go with the next look.
        pair.client.terminate()
        endServers(pair.world)
        let collected = eventually(within: .seconds(10)) {
            _ = try? agents.tool(.a, ["recover"])
            return (try? pair.world.lab.run(in: .a, ["nft", "list", "tables"]).stdout.contains("sc_checkpoint")) == false
        }
        let rules = try pair.world.lab.run(in: .a, ["nft", "list", "ruleset"]).stdout
        #expect(collected, "\(rules)")
        try finish(pair, agents, capture)
    }

    @Test func `a host that was not joined is refused, and so is one whose trust was withdrawn`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let agents = try Agents(pair.world, services: Self.echo())
        try agents.start(.a)
        try agents.start(.b)
        // A trusts B; B has never heard of A.
        let trust = try agents.tool(.a, ["peers", "trust", "b", "\(pair.world.lab.address(.b, .ipv4)):7441", "--yes"])
        #expect(trust.status == 0, "\(trust.stderr)")
        let refused = try agents.tool(.a, migrate(pair))
        #expect(refused.status == 1, "\(refused.stderr)")
        #expect(refused.stderr.contains("peers trust"), "\(refused.stderr)")
        try expectAlive(pair)
        try agents.join()
        let withdrawn = try agents.tool(.b, ["peers", "distrust", "a"])
        #expect(withdrawn.status == 0, "\(withdrawn.stderr)")
        let again = try agents.tool(.a, migrate(pair))
        #expect(again.status == 1, "\(again.stderr)")
        try expectAlive(pair)
        try finish(pair, agents, nil)
    }

    @Test func `what the policy does not name is refused before the session is touched`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let capture = try Capture(pair.world.lab)
        let agents = try Agents(
            pair.world,
            services: Self.echo(
                ", other: {ports: [9999], peers: [\"a\"], accept: [{into: \"/nowhere\"}]}, closed: {ports: [7100], peers: [], accept: [{into: \"/nowhere\"}]}"
            ))
        try agents.start(.a)
        try agents.start(.b)
        try agents.join()
        let base = ["migrate", String(pair.server.pid), "--port", try pair.port, "--to", "tls://b"]
        for (arguments, word) in [
            (["--service", "other"], "does not belong to service other"), (["--service", "closed"], "may not send"),
            (["--service", "none"], "no service none"),
            (["--exec", "--", "/bin/sh"], "is not received by"),
        ] {
            let output = try agents.tool(.a, base + arguments)
            #expect(output.status == 1 && output.stderr.contains(word), "\(arguments): \(output.stderr)")
        }
        let metrics = try agents.tool(.b, ["agent", "--metrics"]).stdout
        #expect(metrics.contains("sc_refusals_total{check=\"flow\"} 1"), "\(metrics)")
        try expectAlive(pair)
        try finish(pair, agents, capture)
    }

    @Test func `a flood of silent connections does not keep a peer out`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let agents = try Agents(pair.world, services: Self.echo(), limits: "{connections: 8}")
        try agents.start(.a)
        try agents.start(.b)
        try agents.join()
        let script = """
            import socket, time
            held = []
            print("flooding", flush=True)
            while True:
                held.append(socket.create_connection(("\(pair.world.lab.address(.b, .ipv4))", 7441)))
                held = held[-200:]
                time.sleep(0.02)
            """
        let flood = try pair.world.lab.spawn(in: .router, ["python3", "-c", script])
        try flood.waitForOutput("flooding")
        usleep(1_000_000)
        let output = try agents.tool(.a, migrate(pair))
        #expect(output.status == 0, "\(output.stderr)\(agents.log(.b).suffix(600))")
        pair.server.terminate()
        try expectAlive(pair)
        flood.terminate()
        try finish(pair, agents, nil)
    }

    @Test func `the command may be killed: its agent finishes the move`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let agents = try Agents(pair.world, services: Self.echo())
        // The worker inherits the fault from its agent: it waits in the middle of the move, while the command is killed.
        try agents.start(.a, ["SC_FAULT": "transfer-before:run:sleep 1"])
        try agents.start(.b)
        try agents.join()
        let command = try pair.world.lab.spawn(in: .a, [TwoHosts.program] + migrate(pair), environment: agents.environment(.a))
        usleep(600_000)
        command.signal(SIGKILL)
        #expect(eventually(within: .seconds(10)) { agents.log(.b).contains("migration outcome=moved peer=a") }, "\(agents.log(.a))\(agents.log(.b))")
        pair.server.terminate()
        try expectAlive(pair)
        try finish(pair, agents, nil)
    }

    @Test(arguments: [Lab.Host.a, .b]) func `an agent that is killed in the middle of a move harms nothing, and starts again`(host: Lab.Host) throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let agents = try Agents(pair.world, services: Self.echo())
        let first = try agents.start(.a, ["SC_FAULT": "transfer-before:run:sleep 1"])
        let second = try agents.start(.b)
        try agents.join()
        let command = try pair.world.lab.spawn(in: .a, [TwoHosts.program] + migrate(pair), environment: agents.environment(.a))
        usleep(600_000)
        (host == .a ? first : second).signal(SIGKILL)
        _ = try (host == .a ? first : second).wait()
        // The workers go on by themselves; the command whose agent is gone says so.
        let status = try command.wait(timeout: .seconds(20))
        #expect(status == (host == .a ? 3 : 0), "\(status) \(command.stderr)")
        try agents.start(host)
        #expect(
            eventually(within: .seconds(10)) {
                Lab.processes(in: pair.world.lab.namespace(.b)).contains { readText("/proc/\($0)/comm").hasPrefix("sc-hold") }
            })
        pair.server.terminate()
        try expectAlive(pair)
        try finish(pair, agents, nil)
    }

    @Test func `peers that connect while the service manager restarts the agent are served afterwards`() throws {
        let pair = try CarriedTests.Pair(.ipv4, echo: true)
        let lab = pair.world.lab
        let agents = try Agents(pair.world, services: Self.echo())
        try agents.start(.a)
        let script = #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/manager.py"
        let manager = try lab.spawn(
            in: .b, ["python3", script, "\(lab.folder)/notify", TwoHosts.program, "agent", "--config", agents.policy(.b)], stdin: .pipe,
            environment: agents.environment(.b))
        try #require(manager.waitForOutputOrError("ready, keeping 2"), "\(manager.stdout)\(manager.stderr)")
        try agents.join()
        try manager.send("kill")
        try #require(manager.waitForOutputOrError("killed"))
        let command = try lab.spawn(in: .a, [TwoHosts.program] + migrate(pair), environment: agents.environment(.a))
        usleep(500_000)
        try manager.send("start")
        #expect(manager.waitForOutputOrError("killed\nready, keeping 2"), "\(manager.stdout)\(manager.stderr)")
        let status = try command.wait(timeout: .seconds(20))
        #expect(status == 0, "\(command.stderr)\(manager.stderr)")
        pair.server.terminate()
        try expectAlive(pair)
        try manager.send("kill")
        _ = manager.waitForOutputOrError("killed\nready, keeping 2\nkilled")
        manager.terminate()
        try finish(pair, agents, nil)
    }

    @Test func `a policy that others could write, or that is wrong, is not served`() throws {
        let world = try TwoHosts()
        let agents = try Agents(world, services: Self.echo())
        try #require(chmod(agents.policy(.a), 0o666) == 0)
        let open = try agents.tool(.a, ["agent", "--check", "--config", agents.policy(.a)])
        #expect(open.status == 1 && open.stderr.contains("EPERM"), "\(open.stderr)")
        try #require(chmod(agents.policy(.a), 0o644) == 0)
        try writeFile(agents.policy(.a), "{services: {www: {prots: [80]}}}\n", mode: 0o644)
        let wrong = try agents.tool(.a, ["agent", "--check", "--config", agents.policy(.a)])
        #expect(wrong.status != 0 && wrong.stderr.contains("ports"), "\(wrong.stderr)")
        try world.finish()
    }
}
