// What `migrate` and `drain` have in common: how sessions travel, and what the agent hears of it.

import ArgumentParser
import Glibc
import SCAgent
import SCEngine
import SCImage

/// How sessions come to a target, whoever gets them there.
struct MoveOptions: ParsableArguments {
    @OptionGroup var adapterOptions: AdapterOptions
    @Option(
        name: .long,
        help: ArgumentHelp(
            "How the client's packets come to the target: none, nft-forward, tunnel, arp-takeover[,force], router:WHERE or exec:CMD.",
            valueName: "DRIVER"))
    var steer = "nft-forward"
    @Option(name: .long, help: ArgumentHelp("The target's address on the link to it, when its own answer is not right.", valueName: "ADDR")) var via:
        String?
    @Option(name: .long, help: ArgumentHelp("The remote shell.", valueName: "COMMAND")) var rsh = "ssh"
    @Option(name: .long, help: ArgumentHelp("The tool on the target.", valueName: "PROGRAM")) var remoteProgram = "sc-checkpoint"
    @Option(
        name: .long, help: ArgumentHelp("An etcd in which the target takes the sessions before it serves them.", valueName: "etcd://HOST:PORT/PREFIX")
    )
    var fence: String?
    @OptionGroup var parking: ParkingOptions
    @Flag(name: .long, help: "Ask the target, and move nothing.") var dryRun = false
    @OptionGroup var failures: FailureOptions

    /// The request; `silence` is the milliseconds that the target may be silent.
    func request(to target: TargetAddress, _ handover: Handover, silence: Int) throws -> MigrationRequest {
        guard let steering = SteeringChoice(steer) else {
            throw CheckpointError("there is no steering driver \(steer)", why: SteeringChoice.known, errno: EINVAL, outcome: .usage)
        }
        var request = MigrationRequest(target: target, handover: handover)
        // On this host it is not for a policy to say who else serves: the servers that have registered do.
        if target == .own, case .service(let name) = handover { request.handover = registeredServers(of: name) }
        request.steering = steering
        request.via = try via.map { text in
            guard let address = IPAddress(text) else {
                throw CheckpointError("--via \(text) is no address", why: "an IPv4 or IPv6 address is expected", errno: EINVAL, outcome: .usage)
            }
            return address
        }
        request.adapterOptions = try adapterOptions.values()
        request.deadline = silence
        request.dryRun = dryRun
        if let fence { _ = try EtcdAddress(fence) }
        request.fence = fence
        request.shell = rsh.split(separator: " ").map(String.init)
        request.program = remoteProgram
        request.parking = parking.parking
        return request
    }

    /// An agent has the keys for TLS, and goes on when this command is killed: it runs the command in this one's place, whose status is its status.
    static func leaveToAgent() throws {
        if getenv("SC_WORKER") == nil, let status = try AgentClient.run(Array(CommandLine.arguments.dropFirst())) { Glibc.exit(status) }
    }
}

/// Whether sessions that do not get where they were to go are archived.
struct FailureOptions: ParsableArguments {
    @Option(
        name: .long,
        help: ArgumentHelp("Archive there what is refused, rolled back or lost; without it as the agent's policy says.", valueName: "DIR"))
    var archiveFailed: String?

    /// From here on.
    func begin() {
        let archive = archiveFailed.map { FailureArchive(path: $0) } ?? FailureArchive.ofAgent()
        archive?.install { Terminal.note($0) }
    }
}

extension WorkerReport {
    /// One move, seen from its source, for the agent's log and metrics.
    init(_ outcome: Result<MigrationResult, CheckpointError>, _ timeline: Timeline, dryRun: Bool) {
        switch outcome {
        case .success(let result):
            self.init(role: "source", outcome: dryRun ? "answered" : "moved")
            (sessions, blackout) = (result.migrated.count, dryRun ? nil : result.blackout)
        case .failure(let error):
            let isUntouched = !timeline.entries.contains { $0.stage == .park }
            self.init(role: "source", outcome: error.outcome == .needsRecovery ? "needs_recovery" : isUntouched ? "refused" : "rolled_back")
            message = error.description
        }
        stages = timeline.entries.map { .init(name: $0.stage.rawValue, nanoseconds: $0.duration) }
    }
}
