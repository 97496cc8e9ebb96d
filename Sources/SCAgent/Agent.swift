// The agent: one process for each host that lets peers and local programs in, and starts a worker for each conversation.
//
//   peer ══TLS══> terminator (nobody, confined) ──socketpair──> worker `receive` ──SCM_RIGHTS──> acceptor
//   command ──agent.sock──> worker `migrate` ──socketpair──> terminator ══TLS══> peer
//
// The agent itself parses nothing that a peer sends: it sees a name, from its own terminator. Everything that moves sessions is in workers, whose
// journals and keepers outlive them and this process.

import CProc
import Glibc
import SCEngine
import SCImage

package final class Agent {
    let policyPath: String
    var policy: Policy
    let store: PeerStore
    let metrics = Metrics()
    var workers: [Worker] = []
    var pending: [Handshake] = []
    private var local: [SharedDescriptor] = []
    var rates: [String: RateLimit] = [:]
    private let localListener: SharedDescriptor
    let peerListener: SharedDescriptor?
    private let signals: SignalPipe
    private var metricsServer: MetricsServer?
    private let report: (String) -> Void
    private var isStopping = false
    private(set) var servers: Servers!
    private var nextCollection = monotonicNanoseconds()

    /// Listens; recovers what a crash has left. `report` gets one line for each event: its name,
    /// then `key=value` for each fact.
    package init(policyPath: String, report: @escaping (String) -> Void) throws(CheckpointError) {
        self.policyPath = policyPath
        self.report = report
        policy = try Policy.load(policyPath)
        store = try PeerStore()
        signals = try SignalPipe([SIGTERM, SIGINT, SIGHUP, SIGCHLD])
        if geteuid() == 0 {
            try check(cproc_keep_capabilities(agentCapabilities.reduce(0) { $0 | 1 << UInt64($1) }), "cannot give up capabilities")
        }
        let passed = ServiceManager.takeDescriptors()
        if let kept = passed["sc-local"]?.first { localListener = kept } else { localListener = try AgentListeners.local() }
        if let address = policy.listen {
            _ = try store.identity
            if let kept = passed["sc-peers"]?.first { peerListener = kept } else { peerListener = try AgentListeners.peers(address) }
        } else {
            peerListener = nil
        }
        if let address = policy.metrics {
            let server = try MetricsServer(address, metrics)
            try server.start()
            metricsServer = server
        }
        metrics.set(Metrics.Family.buildInfo, [toolVersion], to: 1)
        servers = try Servers(
            policy: { [unowned self] in policy }, start: { [unowned self] in startCommand($0) },
            isRunning: { [unowned self] pid in workers.contains { $0.pid == pid } }, log: { [unowned self] in log($0, $1) })
        keepFailures()
        recover()
    }

    /// What the policy says to workers, and through them to their keepers.
    var workerEnvironment: [String] {
        ["SC_HOLD_SECONDS=\(policy.limits.holdSeconds)"] + (policy.archive == nil ? [] : ["\(FailureArchive.variable)=\(policyPath)"])
    }

    func log(_ event: String, _ fields: [String: String] = [:]) {
        let words = fields.sorted { $0.key < $1.key }.map { key, value in
            value.contains(where: { " \"=".contains($0) }) ? "\(key)=\"\(value.replacing("\"", with: "'"))\"" : "\(key)=\(value)"
        }
        report(([event] + words).joined(separator: " "))
    }

    private func keepFailures() {
        FailedMove.keep = nil
        policy.archive?.install { [unowned self] in log("archive", ["result": $0]) }
    }

    private func recover() {
        for (migration, role) in Journal.list() {
            // Those whose keepers are at it are busy.
            guard let outcome = Recovery.recover(migration, role, within: Deadline(milliseconds: 0)) else { continue }
            log("recovery", ["migration": migration.description, "role": role.rawValue, "outcome": outcome.rawValue])
        }
        Recovery.sweep()
    }

    /// Serves until SIGTERM or SIGINT. Workers that are at it go on without it.
    package func run() throws(CheckpointError) {
        var stored = ["sc-local": localListener]
        stored["sc-peers"] = peerListener
        for (name, listener) in stored { ServiceManager.notify("FDSTORE=1\nFDNAME=\(name)", descriptors: [listener.raw]) }
        ServiceManager.notify("READY=1\nSTATUS=Serving \(policy.services.count) service\(policy.services.count == 1 ? "" : "s")")
        log("listening", ["local": AgentClient.path, "peers": policy.listen?.description ?? "-", "services": String(policy.services.count)])
        while !isStopping { try turn() }
        ServiceManager.notify("STOPPING=1")
        metricsServer?.stop()
        unlink(AgentClient.path)
        servers.close()
        log("stopped", ["conversations": String(workers.count)])
    }

    private func turn() throws(CheckpointError) {
        var entries = [pollfd(fd: signals.raw, events: Int16(POLLIN), revents: 0), pollfd(fd: localListener.raw, events: Int16(POLLIN), revents: 0)]
        // With all places taken, peers wait in the listener's queue. Strangers in their handshake take none: the one that has waited longest gives way.
        let canAccept = workers.count < policy.limits.connections
        entries.append(pollfd(fd: canAccept ? peerListener?.raw ?? -1 : -1, events: Int16(POLLIN), revents: 0))
        entries += pending.map { pollfd(fd: $0.peer.outcome.raw, events: Int16(POLLIN), revents: 0) }
        entries += workers.map { pollfd(fd: $0.reports.raw, events: Int16(POLLIN), revents: 0) }
        entries += local.map { pollfd(fd: $0.raw, events: Int16(POLLIN), revents: 0) }
        let firstServer = entries.count
        entries += servers.entries
        let ready = poll(&entries, nfds_t(entries.count), servers.patience)
        guard ready > 0 || errno == EINTR || ready == 0 else { throw CheckpointError("cannot wait for events", result: Int(-errno)) }
        let isReady = { (index: Int) in ready > 0 && entries[index].revents != 0 }
        let (pendingCount, workerCount, localCount) = (pending.count, workers.count, local.count)
        for index in (0..<localCount).reversed() where isReady(3 + pendingCount + workerCount + index) { serve(local.remove(at: index)) }
        for index in 0..<workerCount where isReady(3 + pendingCount + index) { hear(workers[index]) }
        for index in (0..<pendingCount).reversed() where isReady(3 + index) { conclude(pending.remove(at: index).peer) }
        servers.handle { isReady(firstServer + $0) }
        if isReady(0) { handleSignals() }
        if isReady(1) { acceptLocal() }
        if isReady(2) { acceptPeerConnection() }
        reap()
        collect()
    }

    // MARK: Local programs

    private func acceptLocal() {
        let raw = cproc_accept(localListener.raw)
        guard raw >= 0 else { return }
        let connection = SharedDescriptor(raw)
        metrics.add(Metrics.Family.connectionsAccepted, ["local"])
        if local.count < 256 { local.append(connection) }
    }

    private func serve(_ connection: SharedDescriptor) {
        do throws(CheckpointError) {
            if let answer = try LocalService(self).answer(connection) { LocalService.send(answer, on: connection) }
        } catch {
            LocalService.send(LocalAnswer(error: error.description), on: connection)
        }
    }

    // MARK: Workers and time

    /// One of this host's commands, of the agent's own accord.
    private func startCommand(_ arguments: [String]) -> Int32? {
        guard
            let worker = try? Worker(
                .command, arguments, standard: (-1, -1, 2), passing: [], environment: workerEnvironment + ["SC_WORKER=1"])
        else { return nil }
        workers.append(worker)
        return worker.pid
    }

    private func hear(_ worker: Worker) {
        for report in worker.readReports() {
            metrics.note(report)
            var fields = ["role": report.role, "outcome": report.outcome, "sessions": String(report.sessions), "pid": String(worker.pid)]
            if case .peer(let name) = worker.kind { fields["peer"] = name }
            fields["reason"] = report.message
            fields["blackout_us"] = report.blackout.map { String($0 / 1000) }
            log("migration", fields)
        }
    }

    private func reap() {
        workers.removeAll { worker in
            var status: Int32 = 0
            guard waitpid(worker.pid, &status, WNOHANG) == worker.pid else { return false }
            hear(worker)
            if let client = worker.client {
                let code = status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f)
                LocalService.send(LocalAnswer(status: code), on: client)
            }
            return true
        }
    }

    private func handleSignals() {
        for signal in signals.take() {
            switch signal {
            case SIGTERM, SIGINT: isStopping = true
            case SIGHUP:
                do throws(CheckpointError) {
                    policy = try Policy.load(policyPath)
                    keepFailures()
                    log("policy-read", ["services": String(policy.services.count)])
                } catch {
                    log("policy-kept", ["reason": error.description])
                }
            default: break
            }
        }
    }

    /// Every half minute: flows that are passed on to other hosts and have ended there.
    private func collect() {
        metrics.set(Metrics.Family.connections, ["peer"], to: Double(pending.count + workers.count { $0.kind != .command }))
        metrics.set(Metrics.Family.connections, ["local"], to: Double(local.count + workers.count { $0.kind == .command }))
        metrics.set(Metrics.Family.sessionsInFlight, to: Double(workers.reduce(0) { $0 + $1.sessions }))
        let now = monotonicNanoseconds()
        guard now >= nextCollection else { return }
        nextCollection = now + 30_000_000_000
        metrics.set(Metrics.Family.heldSessions, to: Double(HoldRecord.count))
        guard ForwardRecord.exist else { return }
        if let worker = try? Worker(.command, ["recover", "--forwards"], standard: (-1, -1, 2), passing: []) { workers.append(worker) }
    }

    var status: AgentStatus {
        AgentStatus(
            pid: getpid(), listen: policy.listen?.description, policy: policyPath,
            work: workers.map { worker in
                var name: String?
                if case .peer(let peer) = worker.kind { name = peer }
                return .init(
                    kind: name == nil ? "command" : "peer", peer: name, pid: worker.pid, sessions: worker.sessions,
                    seconds: Double(monotonicNanoseconds() - worker.started) / 1e9)
            }, connections: pending.count, servers: servers.status)
    }
}
