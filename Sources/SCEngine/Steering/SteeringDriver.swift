// How the client's packets come to the target: one small interface, three drivers.

import CProc
import Glibc
import SCImage

/// What the user chose with `--steer`.
package enum SteeringChoice: Sendable, Equatable {
    /// Somebody else switches the path (or the target is in the same namespace).
    case none
    /// The source passes the flows' packets on to the target, for as long as the sessions live.
    case nftForward
    /// A user's program switches the path: `CMD steer` with the flows on its standard input.
    case exec(String)

    /// Parses `none`, `nft-forward`, `exec:CMD`; nil for anything else.
    package init?(_ text: String) {
        switch text {
        case "none": self = .none
        case "nft-forward": self = .nftForward
        default:
            guard text.hasPrefix("exec:"), text.count > 5 else { return nil }
            self = .exec(String(text.dropFirst(5)))
        }
    }

    package var name: String {
        switch self {
        case .none: "none"
        case .nftForward: "nft-forward"
        case .exec(let command): "exec:\(command)"
        }
    }
}

/// The steering of one move, seen from the source. Calls come in the order freeze, steer, release; `rollBack` at any time instead.
package final class Steering {
    private let choice: SteeringChoice
    private let hold: LinkHold?
    /// Instead of `hold` for a flow without a link: while no socket owns its 4-tuple, this host would answer it with RST.
    private let mute: HoldMute?
    private let flows: [Flow]
    private let nextHop: IPAddress?
    /// The flows come back to a host that passes them on today: it parks them itself, and this host leaves nothing behind.
    private let isReturning: Bool
    private let environment: [String]
    private let namespace: NetworkNamespace

    /// Everything that takes milliseconds: rules, devices, the target's link address.
    package init(
        _ choice: SteeringChoice, flows: [Flow], in namespace: NetworkNamespace, targetAddresses: [IPAddress], targetName: String, isReturning: Bool,
        isSameNamespace: Bool
    ) throws(CheckpointError) {
        self.choice = choice
        self.flows = flows
        self.isReturning = isReturning
        self.namespace = namespace
        let nextHop = isSameNamespace ? nil : try Self.nextHop(among: targetAddresses, flows: flows, in: namespace)
        self.nextHop = nextHop
        let service = flows.first?.service.address.description ?? ""
        environment =
            currentEnvironment() + [
                "SC_SOURCE_HOST=\(hostName())", "SC_TARGET_HOST=\(targetName)", "SC_TARGET_ADDRESS=\(nextHop?.description ?? "")",
                "SC_SERVICE_ADDRESS=\(service)",
            ]
        if choice == .nftForward, !isSameNamespace, !isReturning, nextHop == nil {
            throw CheckpointError(
                "cannot pass the flows on to the target", why: "no address of \(targetName) is on a link of this host", errno: EHOSTUNREACH,
                advice: "Name one with --via ADDR, or use --steer exec:CMD")
        }
        if case .exec(let command) = choice {
            let found = try runCommand(["/bin/sh", "-c", "command -v \"$0\"", command], in: namespace)
            guard found.status == 0 else {
                throw CheckpointError("cannot start the steering program \(command)", result: Int(-ENOENT), advice: "Give its full path")
            }
        }
        do throws(CheckpointError) {
            hold = try LinkHold(in: namespace, flows: flows, nextHop: nextHop)
            mute = nil
        } catch {
            // Without a link to hold at (a loopback flow) packets are dropped while it lasts; only forwarding needs the rules.
            if choice == .nftForward, !isSameNamespace { throw error }
            hold = nil
            mute = HoldMute(namespace)
        }
    }

    /// The first target address that is on a link of this namespace and not its own.
    private static func nextHop(among addresses: [IPAddress], flows: [Flow], in namespace: NetworkNamespace) throws(CheckpointError) -> IPAddress? {
        let isIPv6 = flows.first?.isIPv6 ?? false
        let route = OwnedDescriptor(try namespace.run { () throws(CheckpointError) in try check(cproc_rtnl_open(), "cannot talk to rtnetlink") })
        return addresses.first { address in
            guard address.isIPv6 == isIPv6, !address.isLinkLocal, !flows.contains(where: { $0.service.address == address }) else { return false }
            var (found, destination) = (cproc_route(), SocketAddress(address, port: 0).endpoint)
            return cproc_route_get(route.raw, &destination, &found) >= 0 && found.type == 1 && found.gateway.family == 0
        }
    }

    /// Packets of the flows stop in both directions.
    package func freeze() throws(CheckpointError) {
        try hold?.freeze()
        try mute?.add(flows)
        if case .exec(let command) = choice { try run(command, "freeze") }
    }

    /// From now on the client's packets, parked ones and new ones, are meant for the target.
    package func steer() throws(CheckpointError) {
        if nextHop != nil { try hold?.relay() }
        mute?.remove(flows)
        if case .exec(let command) = choice { try run(command, "steer") }
    }

    /// The target is live: what was parked reaches it, in order, and what comes later.
    package func release() throws(CheckpointError) {
        if nextHop == nil { try hold?.unmute() }
        hold?.flush()
        if choice == .nftForward, !isReturning, nextHop != nil {
            try hold?.forward()
            hold?.settle()
        } else {
            if nextHop == nil { try hold?.unhold() }
            hold?.settle()
        }
    }

    /// After the client is served again: removes what nothing needs any longer.
    package func finish() {
        if choice == .nftForward, !isReturning, nextHop != nil { return }
        // Stragglers that were on their way before the path was switched find no RST.
        if nextHop != nil { pause(microseconds: 20_000) }
        hold?.clear()
        if case .exec(let command) = choice { try? run(command, "release") }
    }

    /// The session stays here.
    package func rollBack() {
        if case .exec(let command) = choice { try? run(command, "rollback") }
        hold?.rollBack()
        mute?.remove(flows)
    }

    private func run(_ command: String, _ verb: String) throws(CheckpointError) {
        let lines = flows.map { "\($0.client.address) \($0.client.port) \($0.service.address) \($0.service.port)\n" }.joined()
        let result = try runCommand(["/bin/sh", "-c", "exec \"$0\" \"$1\"", command, verb], input: lines, in: namespace, environment: environment)
        guard result.status == 0 else {
            let line = result.errors.split(separator: "\n").first.map(String.init) ?? "exit status \(result.status)"
            throw CheckpointError(
                "the steering program failed at \"\(verb)\"", why: line, errno: ECANCELED, advice: "It has to end with status 0: \(command)")
        }
    }
}

/// uname(2)'s nodename.
package func hostName() -> String {
    var name = [CChar](repeating: 0, count: 256)
    gethostname(&name, name.count)
    return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
