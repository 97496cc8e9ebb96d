// `agent`: the per-host daemon.

import ArgumentParser
import Glibc
import SCAgent
import SCEngine

struct AgentVerb: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "agent",
        abstract: "Runs the agent of this host: peers over mutual TLS, programs of this host over a Unix socket.",
        discussion: """
            The policy names the services that are received here, from which peers and by whom. SIGHUP reads it again. Needs no systemd; under systemd it says
            when it is ready, and its listening sockets survive a restart.

            EXAMPLE
              sc-checkpoint agent --config /etc/sc-checkpoint/agent.json5
              sc-checkpoint agent --check
            """)

    @Option(name: .long, help: ArgumentHelp("The policy.", valueName: "FILE")) var config = Policy.defaultPath
    @Flag(name: .long, help: "Only check the policy, and the keys if peers are listened for.") var check = false
    @Flag(name: .long, help: "Show what a running agent is doing.") var status = false
    @Flag(name: .long, help: "Show a running agent's metrics (Prometheus text).") var metrics = false
    @Flag(name: .long, help: "With --status: one JSON document.") var json = false

    func run() throws {
        if status { return try showStatus() }
        if metrics { return Terminal.write(try AgentClient.metrics() ?? { throw Self.noAgent }(), to: 1) }
        if check {
            let policy = try Policy.load(config)
            if policy.listen != nil { try PeerStore().identity.checkValidity() }
            return Terminal.print("\(config): \(policy.services.count) service\(policy.services.count == 1 ? "" : "s"), good")
        }
        let agent = try Agent(policyPath: config) { line in
            // systemd reads the level from <n>; a terminal gets the plain line.
            Terminal.write("\(Terminal.isInteractive ? "" : "<6>")sc-checkpoint agent: \(Terminal.clean(line))\n", to: 2)
        }
        try agent.run()
    }

    private static var noAgent: CheckpointError {
        CheckpointError(
            "no agent runs on this host", why: "nobody listens on \(AgentClient.path)", errno: ECONNREFUSED, advice: "Start it: sc-checkpoint agent")
    }

    private func showStatus() throws {
        guard let status = try AgentClient.status() else { throw Self.noAgent }
        if json { return Terminal.json(status) }
        Terminal.print("agent \(status.pid), policy \(status.policy), listening on \(status.listen ?? "no address")")
        for server in status.servers {
            let more = server.isDead ? ", dead" : server.accepts ? ", takes more" : ""
            Terminal.print("server \(server.pid) of \(server.service), \(server.sessions) sessions\(more)")
        }
        Terminal.table(
            ["PID", "KIND", "PEER", "SESSIONS", "SECONDS"],
            status.work.map { [String($0.pid), $0.kind, $0.peer ?? "-", String($0.sessions), String(Int($0.seconds))] }, right: [0, 3, 4])
    }
}
