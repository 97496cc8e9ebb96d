// Hands restored sessions to a new process, by the protocol of sd_listen_fds(3).

import CProc
import Glibc
import SCImage

/// The command finds the channels as descriptors 3, 4, …, and in its environment LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID (sd_listen_fds(3)),
/// SC_STATE_FILE (the application state) and SC_CHANNEL_WRITTEN and SC_CHANNEL_READ (for each channel, the bytes that the application has written and
/// read since the connection began, separated by commas).
package final class ExecHandover: HandoverDriver {
    /// How the command is started.
    package enum Mode: Sendable {
        /// In the place of this process: the terminal, the pid and the exit status become its own.
        case replace
        /// As a child in a session of its own, which outlives this process; `output` becomes its standard output and error (-1: /dev/null).
        case detached(output: Int32)
    }

    private let command: [String]
    private let mode: Mode
    private let namespace: NetworkNamespace
    private let fresh: FreshSockets
    private var stateFile: SharedDescriptor?
    private var pid: Int32 = 0

    package init(_ command: [String], mode: Mode, in namespace: NetworkNamespace) {
        (self.command, self.mode, self.namespace) = (command, mode, namespace)
        fresh = FreshSockets(in: namespace)
    }

    package func prepare(_ offers: [SessionOffer], layout: Session?) throws(CheckpointError) {
        guard let program = command.first else {
            throw CheckpointError("--exec needs a command", why: "none was given", advice: "Write it after --: --exec -- CMD ARGS", outcome: .usage)
        }
        let found = searchPath(program).first { access($0, X_OK) == 0 }
        guard found != nil else {
            throw CheckpointError("cannot start \(program)", why: "no such program in PATH", errno: ENOENT, advice: "Give its full path")
        }
        guard offers.count == 1 || layout != nil || offers.allSatisfy({ $0.stateBytes == 0 }) else {
            throw CheckpointError(
                "cannot hand over the state of \(offers.count) sessions", why: "SC_STATE_FILE holds one", errno: EINVAL,
                advice: "Move them one by one, or use --into")
        }
        try refuseHeldFlows(offers, in: namespace)
        try fresh.checkFiles(layout)
    }

    private func searchPath(_ program: String) -> [String] {
        if program.contains("/") { return [program] }
        let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin"
        return path.split(separator: ":").map { "\($0)/\(program)" }
    }

    package func rebuild(_ session: Session) throws(CheckpointError) {
        try session.requireNoRepetition("a new process")
        try fresh.rebuild(session)
    }

    package func consent() throws(CheckpointError) {
        // One session at most has a state (`prepare`).
        stateFile = try makeStateFile(fresh.sessions.first { !$0.session.state.isEmpty }?.session.state ?? [])
    }

    package func activate() throws(CheckpointError) { try fresh.activate() }

    package func deliver() throws(CheckpointError) -> Int32 {
        let passed = fresh.descriptors + [stateFile!.raw]
        let sessions = fresh.sessions.map(\.session)
        let environment = Self.environment(sessions)
        switch mode {
        case .replace:
            fresh.register(pid: getpid())
            let result = withCStrings(command) { argv in
                withCStrings(environment) { envp in cproc_exec(argv, envp, passed, Int32(passed.count)) }
            }
            throw CheckpointError("cannot start \(command[0])", result: Int(result))
        case .detached(let output):
            pid = try Self.start(command, sessions, passing: passed, output: output, in: namespace)
            return pid
        }
    }

    /// Starts the command with `passed`: the descriptors of the sessions' deliveries, in their order, then the state file.
    static func start(
        _ command: [String], _ sessions: [Session], passing passed: [Int32], output: Int32, in namespace: NetworkNamespace
    ) throws(CheckpointError) -> Int32 {
        try spawn(command, environment: environment(sessions), in: namespace, standard: (-1, output, output), passing: passed, listenPID: true)
    }

    package func cleanUp() { fresh.register(pid: pid) }

    private static func environment(_ sessions: [Session]) -> [String] {
        let deliveries = sessions.flatMap { session in session.deliveries.map { (session, $0) } }
        // What only TCP connections have is 0 for the others.
        let counts = deliveries.map { session, delivery -> (written: UInt64, read: UInt64) in
            guard session.channels.indices.contains(delivery.channel) else { return (0, 0) }
            return (session.channels[delivery.channel].bytesWritten, session.channels[delivery.channel].bytesRead)
        }
        let own = ["LISTEN_FDS=", "LISTEN_PID=", "LISTEN_FDNAMES=", "SC_STATE_FILE=", "SC_CHANNEL_WRITTEN=", "SC_CHANNEL_READ="]
        return currentEnvironment().filter { entry in !own.contains { entry.hasPrefix($0) } } + [
            "LISTEN_FDS=\(deliveries.count)", "LISTEN_FDNAMES=\(deliveries.map(\.1.name).joined(separator: ":"))",
            "SC_STATE_FILE=/proc/self/fd/\(3 + deliveries.count)",
            "SC_CHANNEL_WRITTEN=\(counts.map { String($0.written) }.joined(separator: ","))",
            "SC_CHANNEL_READ=\(counts.map { String($0.read) }.joined(separator: ","))",
        ]
    }

    package var record: HandoverRecord { HandoverRecord(.exec, command) }
    package var processesToStop: [TargetProcess] { [] }
    package var rebuiltSessions: [Session] { fresh.sessions.map(\.session) }
    /// Local channels can be made again from the sessions themselves.
    package var keepsakes: [Int32] { fresh.connections }
    package var isLive: Bool { fresh.isLive }

    package func discard() { fresh.discard() }
}

/// Refuses flows that could not be rebuilt in the namespace, while they still run at the source: no such address here, no route back.
func refuseHeldFlows(_ offers: [SessionOffer], in namespace: NetworkNamespace) throws(CheckpointError) {
    let route = OwnedDescriptor(try namespace.run { () throws(CheckpointError) in try check(cproc_rtnl_open(), "cannot talk to rtnetlink") })
    var checked: Set<IPAddress> = []
    for offer in offers {
        if checked.insert(offer.flow.service.address).inserted {
            var (found, destination) = (cproc_route(), SocketAddress(offer.flow.service.address, port: 0).endpoint)
            guard cproc_route_get(route.raw, &destination, &found) >= 0, found.type == 2 else {
                throw CheckpointError(
                    "\(hostName()) cannot receive \(offer.flow)", why: "it does not have the address \(offer.flow.service.address)",
                    errno: EADDRNOTAVAIL,
                    advice: "Add it: ip address add \(offer.flow.service.address) dev lo")
            }
        }
        if checked.insert(offer.flow.client.address).inserted {
            var (found, destination) = (cproc_route(), SocketAddress(offer.flow.client.address, port: 0).endpoint)
            try check(
                cproc_route_get(route.raw, &destination, &found), "\(hostName()) has no route to the client \(offer.flow.client.address)",
                advice: "Add one, as the source has")
        }
    }
}
