// Options that several verbs share.

import ArgumentParser
import Glibc
import SCAgent
import SCEngine
import SCImage

/// Which sessions of the process are meant.
struct FilterOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("Sessions of this client.", valueName: "ADDR[:PORT]"))
    var peer: [String] = []
    @Option(name: .long, help: ArgumentHelp("Sessions with this local or remote port.", valueName: "PORT"))
    var port: [UInt16] = []
    @Option(
        name: .long, help: ArgumentHelp("The session on this descriptor of the process; with --with-ipc, any of its channels.", valueName: "[PID:]N"))
    var fd: [DescriptorName] = []

    func filter(all: Bool = false) throws -> SessionFilter {
        var filter = try Self.filter(peer: peer, port: port)
        filter.descriptors = fd.map(\.fd)
        filter.all = all
        return filter
    }

    static func filter(peer: [String], port: [UInt16]) throws -> SessionFilter {
        var filter = SessionFilter()
        filter.peers = try peer.map { text in
            guard let peer = PeerFilter(text) else {
                throw CheckpointError(
                    "--peer \(text) is no address", why: "ADDR or ADDR:PORT is expected, IPv6 in brackets", errno: EINVAL,
                    advice: "For example --peer 192.0.2.7:40112 or --peer [2001:db8::7]:40112", outcome: .usage)
            }
            return peer
        }
        filter.ports = port
        return filter
    }
}

/// Who gets the restored channels, and with `--exec` the command.
struct HandoverOptions: ParsableArguments {
    @OptionGroup var receiver: ReceiverOptions
    @Argument(help: ArgumentHelp("With --exec: the command.", valueName: "CMD"))
    var command: [String] = []

    func handover() throws -> Handover { try receiver.handover(command: command) }
}

/// Who gets the restored channels.
struct ReceiverOptions: ParsableArguments {
    @Flag(name: .customLong("exec"), help: "Hand over to a new process: --exec -- CMD ARGS (LISTEN_FDS, SC_STATE_FILE).")
    var isExec = false
    @Option(name: .long, help: ArgumentHelp("Hand over to the acceptor that listens on this Unix socket.", valueName: "SOCKET"))
    var into: String?
    @Option(name: .long, help: ArgumentHelp("Hand over to this unmodified server, in place.", valueName: "PID"))
    var onto: Int32?
    @Option(name: .long, help: "With --onto or --service: what knows the server's protocol, http or raw.")
    var adapter: String?
    @Option(name: .long, help: ArgumentHelp("Hand over to whom the target's policy names for this service.", valueName: "NAME"))
    var service: String?

    func handover(command: [String]) throws -> Handover {
        let given = [isExec, into != nil, onto != nil, service != nil].filter { $0 }.count
        guard given == 1 else {
            throw CheckpointError(
                "say who gets the session", why: given == 0 ? "none of --exec, --into, --onto and --service was given" : "more than one was given",
                errno: EINVAL,
                advice: "Choose one: --exec -- CMD, --into SOCKET, --onto PID --adapter NAME, or --service NAME", outcome: .usage)
        }
        if let service {
            guard let adapter else { return .service(name: service) }
            _ = try SCEngine.adapter(named: adapter)
            // The target's policy knows the process.
            return .onto(pid: 0, adapter: adapter, options: [])
        }
        if let into { return .into(path: Array(into.utf8)) }
        if let onto {
            guard let adapter else {
                throw CheckpointError(
                    "--onto needs an adapter", why: "--adapter was not given", errno: EINVAL, advice: "Add --adapter http (or raw)", outcome: .usage)
            }
            _ = try SCEngine.adapter(named: adapter)
            return .onto(pid: onto, adapter: adapter, options: [])
        }
        guard !command.isEmpty else {
            throw CheckpointError(
                "--exec needs a command", why: "none was given", errno: EINVAL, advice: "Write it last: --exec -- CMD ARGS", outcome: .usage)
        }
        return .exec(arguments: command.map { Array($0.utf8) })
    }
}

/// How servers that take part by libsc are brought to hold still.
struct ParkingOptions: ParsableArguments {
    @Option(name: .long, help: ArgumentHelp("Milliseconds that a server has to park its sessions.", valueName: "MS")) var parkDeadline = 1000
    @Flag(name: .long, help: "Do not ask such a server: stop it, and move its sessions without their state.") var force = false

    var parking: (@Sendable (Set<UInt64>) throws(CheckpointError) -> (any SessionParking)?)? {
        if force { return nil }
        let deadline = parkDeadline
        return { sockets throws(CheckpointError) in try ServerParking.find(sockets, deadline: deadline) }
    }
}

/// What an adapter cannot find out by itself.
struct AdapterOptions: ParsableArguments {
    @Option(
        name: .customLong("option"),
        help: ArgumentHelp("Tell the adapter, e.g. target=/big.iso and host=example.org for http.", valueName: "KEY=VALUE"))
    var options: [String] = []

    func values() throws -> [String: String] {
        var result: [String: String] = [:]
        for option in options {
            let parts = option.split(separator: "=", maxSplits: 1)
            guard parts.count == 2 else {
                throw CheckpointError("--option \(option) is malformed", why: "KEY=VALUE is expected", errno: EINVAL, outcome: .usage)
            }
            result[String(parts[0])] = String(parts[1])
        }
        return result
    }
}

/// The application state that `--state FILE` adds.
func readState(_ path: String?) throws -> [UInt8] {
    guard let path else { return [] }
    guard let bytes = readBytes(path) else {
        throw CheckpointError("cannot read the state \(path)", result: Int(-errno))
    }
    return bytes
}
