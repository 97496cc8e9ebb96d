// What `sc-checkpoint steer-router` does on a front router: holds the flows at its link to the clients, and passes them on to the target.

import CProc
import Glibc
import SCImage

/// Serves one conversation (`LineLink`). The end of the stream before `steer` means roll back, after it keep: a source that has decided and
/// dies has given the sessions away.
package final class RouterService {
    private let input: Int32
    private let output: Int32
    private let namespace: NetworkNamespace
    private var pending: [UInt8] = []
    private var rules: RouterRules?
    private var isSteered = false
    private var isEnded = false

    /// The descriptors are borrowed.
    package init(input: Int32, output: Int32) throws(CheckpointError) {
        (self.input, self.output) = (input, output)
        namespace = try NetworkNamespace.current()
    }

    /// Ends with the stream.
    package func run() {
        // Rules are left in one of two ways only; a signal waits for it.
        let signals = BlockedSignals()
        defer { signals.restore() }
        var (targets, flows): ([AddressPrefix], [Flow]) = ([], [])
        while let line = readLine() {
            do throws(CheckpointError) {
                if rules != nil {
                    try obey(line)
                } else if let flow = Flow(line: line) {
                    flows.append(flow)
                } else if line.hasPrefix("target "), let address = IPAddress(line.dropFirst(7)) {
                    targets.append(AddressPrefix(address, length: 0))
                } else if line.isEmpty, !flows.isEmpty {
                    rules = try RouterRules(flows, targets: targets, in: namespace)
                    say("ok")
                } else {
                    throw CheckpointError("the source lost its place in the conversation", why: "\"\(line)\"", errno: EPROTO)
                }
            } catch {
                say("error \(error.description.split(whereSeparator: \.isNewline).joined(separator: " "))")
                if rules == nil { return }
            }
        }
        if !isEnded {
            if isSteered { try? rules?.release() } else { rules?.rollBack() }
        }
        rules?.finish(isMoved: isSteered)
    }

    private func obey(_ verb: String) throws(CheckpointError) {
        switch verb {
        case "freeze": try rules?.freeze()
        case "steer":
            try rules?.steer()
            isSteered = true
        case "release":
            try rules?.release()
            isEnded = true
        case "rollback":
            rules?.rollBack()
            (isSteered, isEnded) = (false, true)
        default: throw CheckpointError("there is no verb \(verb)", why: "freeze, steer, release and rollback exist", errno: EPROTO)
        }
        say("ok")
    }

    private func say(_ text: String) {
        let bytes = Array((text + "\n").utf8)
        _ = write(output, bytes, bytes.count)
    }

    private func readLine() -> String? {
        while true {
            if let end = pending.firstIndex(of: 10) {
                defer { pending.removeSubrange(...end) }
                return String(decoding: pending[..<end], as: UTF8.self)
            }
            var part = [UInt8](repeating: 0, count: 4096)
            let count = read(input, &part, part.count)
            if count < 0 && errno == EINTR { continue }
            guard count > 0, pending.count < 1 << 16 else { return nil }
            pending += part[..<count]
        }
    }
}

/// The router's rules for the flows of one move.
final class RouterRules {
    private let hold: LinkHold
    /// The flows are passed on today by the rules of another table, to another device.
    private let former: LinkHold?
    /// The router's own routes lead the flows to the target: nothing has to be passed on once they do.
    private let isHome: Bool

    init(_ flows: [Flow], targets: [AddressPrefix], in namespace: NetworkNamespace) throws(CheckpointError) {
        let move = SteeringMove(flows: flows, namespace: namespace, targetAddresses: targets, targetName: "the target")
        guard let nextHop = try LinkSteering.nextHop(for: move) else {
            throw CheckpointError(
                "the router cannot pass the flows on", why: "no address of the target is on a link of \(hostName())", errno: EHOSTUNREACH,
                advice: "Name one with --via ADDR")
        }
        let lock = try StateLock(namespace: namespace)
        let found = try LinkHold.forwarded(flows, in: namespace)
        hold = try LinkHold(in: namespace, flows: flows, nextHop: nextHop, lock: lock)
        if let found, found.rules != hold.rules {
            let former = try LinkHold(in: namespace, flows: found.flows, nextHop: nil, lock: lock, rules: found.rules)
            try former.discover()
            self.former = former
        } else {
            former = nil
        }
        if found != nil { try hold.discover() }
        let route = OwnedDescriptor(try namespace.run { () throws(CheckpointError) in try check(cproc_rtnl_open(), "cannot talk to rtnetlink") })
        isHome = flows.allSatisfy { flow in
            var (found, destination) = (cproc_route(), SocketAddress(flow.service.address, port: 0).endpoint)
            guard cproc_route_get(route.raw, &destination, &found) >= 0 else { return false }
            return SocketAddress(found.gateway)?.address == nextHop
        }
    }

    func freeze() throws(CheckpointError) {
        try hold.park()
        try former?.retake()
        try hold.retake()
    }

    func steer() throws(CheckpointError) { try hold.relay() }

    func release() throws(CheckpointError) {
        hold.flush()
        if isHome { try hold.unhold() } else { try hold.forward() }
        former?.clear()
        hold.settle()
    }

    /// Tidies up; `isMoved`: after a release. Takes tens of milliseconds.
    func finish(isMoved: Bool) {
        if isMoved, isHome {
            pause(microseconds: 20_000)
            hold.clear()
        }
        for hold in [hold, former] { hold?.removeIfUnused() }
    }

    /// What an earlier move has set up goes on; what this one has, perhaps in a process that died after `steer`, goes.
    func rollBack() {
        if let former {
            former.resumeForwarding()
            hold.clear()
        } else if let hop = hold.formerHop, hop != hold.nextHop {
            hold.resumeForwarding()
        } else {
            hold.rollBack()
        }
    }
}
