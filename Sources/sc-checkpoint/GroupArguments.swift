// Options of sessions that several processes serve, and how such a session is shown.

import ArgumentParser
import Glibc
import SCEngine
import SCImage

extension DescriptorName: ExpressibleByArgument {
    package init?(argument: String) { self.init(argument) }
}

/// `--with-ipc` and what belongs to it.
struct GroupArguments: ParsableArguments {
    @Flag(name: .long, help: "The pipes, Unix sockets, UDP sockets and files of the processes that serve the session as well.") var withIpc = false
    @Flag(name: .customLong("tree"), help: "With --with-ipc: all children of the process are of the session.") var tree = false
    @Option(name: .long, help: ArgumentHelp("With --with-ipc: leave this descriptor behind.", valueName: "[PID:]N")) var leave: [DescriptorName] = []
    @Option(
        name: .long, help: ArgumentHelp("With --with-ipc: ask the processes to stop themselves at a safe point, by this signal.", valueName: "SIGNAL")
    )
    var parkSignal: String?
    @Flag(name: .long, help: "With --with-ipc: compare files by their content (SHA-256), not by the time of their last change.") var digest = false

    /// Nil without `--with-ipc`. Of the descriptors that were named, connections become the filter's and the others channels of the group.
    func options(
        _ root: TargetProcess, named: [DescriptorName], _ filter: inout SessionFilter, statePath: String?, parkDeadline: Int
    ) throws -> GroupOptions? {
        guard withIpc else {
            guard !tree, leave.isEmpty, parkSignal == nil, !digest, !named.contains(where: { $0.pid != nil && $0.pid != root.pid }) else {
                throw CheckpointError(
                    "--tree, --leave, --park-signal, --digest and --fd PID:N go with --with-ipc", why: "it was not given", errno: EINVAL,
                    outcome: .usage)
            }
            return nil
        }
        var options = GroupOptions()
        (options.request.leave, options.request.tree) = (leave, tree)
        filter.descriptors = []
        for name in named {
            let isConnection = (name.pid ?? root.pid) == root.pid && (try? Prober().channel(name.fd, of: root).kind) == .tcp
            if isConnection { filter.descriptors.append(name.fd) } else { options.request.channels.append(name) }
        }
        options.request.connections = filter.descriptors
        options.parkSignal = try parkSignal.map(signalNumber)
        (options.parkDeadline, options.statePath, options.digests) = (parkDeadline, statePath, digest)
        return options
    }
}

/// `USR1`, `SIGUSR1` or `10`.
private func signalNumber(_ text: String) throws -> Int32 {
    let names: [String: Int32] = [
        "HUP": SIGHUP, "USR1": SIGUSR1, "USR2": SIGUSR2, "WINCH": SIGWINCH, "URG": SIGURG, "TSTP": SIGTSTP, "PWR": SIGPWR, "STOP": SIGSTOP,
    ]
    let name = text.uppercased()
    if let number = names[name.hasPrefix("SIG") ? String(name.dropFirst(3)) : name] { return number }
    guard let number = Int32(text), (1...64).contains(number) else {
        throw CheckpointError(
            "--park-signal \(text) is no signal", why: "a name such as USR1, or a number from 1 to 64, is expected", errno: EINVAL, outcome: .usage)
    }
    return number
}

/// A session of several processes in `snapshot --json` and `migrate --json`.
struct GroupJSON: Encodable {
    struct Process: Encodable {
        var role: String
        var pid: Int32
    }
    struct Descriptor: Encodable {
        var name, kind: String
        var pid, fd: Int32
        /// The same for descriptors that share one open file description.
        var channel: Int
        /// Bytes that waited to be read in the cut; null for connections.
        var queue: Int?
    }
    var processes: [Process]
    var descriptors: [Descriptor]
    var left_out: [String]

    init(_ capture: GroupCapture) {
        let group = capture.group
        processes = group.members.map { Process(role: $0.role, pid: $0.process.pid) }
        descriptors = group.members.flatMap { member in
            member.descriptors.map { descriptor in
                let end = descriptor.channel - group.connections.count
                return Descriptor(
                    name: "\(member.role).\(descriptor.name)", kind: end < 0 ? "tcp" : group.ends[end].kind.rawValue, pid: member.process.pid,
                    fd: descriptor.fd, channel: descriptor.channel, queue: end < 0 ? nil : capture.channels[end].queue.count)
            }
        }
        left_out = group.leftOut
    }
}

/// What was chosen, for a person.
func printGroup(_ capture: GroupCapture) {
    let document = GroupJSON(capture)
    for text in document.left_out { Terminal.note("left out \(text)") }
    Terminal.print("session of \(document.processes.count) process\(document.processes.count == 1 ? "" : "es")")
    Terminal.table(
        ["NAME", "KIND", "PID", "FD", "CHANNEL", "QUEUE"],
        document.descriptors.map { [$0.name, $0.kind, String($0.pid), String($0.fd), String($0.channel), $0.queue.map { String($0) } ?? "-"] },
        right: [2, 3, 4, 5])
}

/// An adapter brings one connection of an unmodified server to its place, so it has no use for what is beside it.
var groupWithAdapter: CheckpointError {
    CheckpointError(
        "--with-ipc and an adapter exclude each other", why: "an unmodified server can be given connections only", errno: EINVAL,
        advice: "Use --exec or --into, or leave --with-ipc out", outcome: .usage)
}
