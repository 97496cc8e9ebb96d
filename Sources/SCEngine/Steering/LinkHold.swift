// Holds a flow's packets at the source's link and lets them go, to the target or to this host, in order and without losing one.

import CProc
import Glibc
import SCImage

/// The rules of one namespace for the flows of one move. Names of its states are those of the sets (`LinkRules`).
package final class LinkHold {
    private let namespace: NetworkNamespace
    private let flows: [Flow]
    private let rules: LinkRules
    private let nft: OwnedDescriptor
    private let route: OwnedDescriptor
    private let lock: StateLock
    private let holdIndex: Int32
    private let nextHop: IPAddress?
    private var present: Set<String> = []
    private var isFlushed = false
    /// Where an earlier move has sent the flows.
    private var formerHop: IPAddress?

    /// Loads rules and devices into the namespace, where they are not there yet. `nextHop` is the target's address on the link.
    /// Nothing happens to any packet before `freeze`.
    ///
    /// `egressOfExisting`: use the table that an earlier move has left for these flows, whichever device it sends them to.
    package init(
        in namespace: NetworkNamespace, flows: [Flow], nextHop: IPAddress?, egressOfExisting: Bool = false
    ) throws(CheckpointError) {
        self.namespace = namespace
        self.flows = flows
        self.nextHop = nextHop
        lock = try StateLock(namespace: namespace)
        nft = OwnedDescriptor(
            try namespace.run { () throws(CheckpointError) in try check(cproc_nft_open(), "cannot talk to nf_tables") })
        let route = OwnedDescriptor(
            try namespace.run { () throws(CheckpointError) in try check(cproc_rtnl_open(), "cannot talk to rtnetlink") })
        var rules = try Self.devices(for: flows, nextHop: nextHop, in: namespace, route: route.raw)
        if egressOfExisting, let table = try Self.tables(in: namespace).first(where: { $0.hasPrefix("sc_checkpoint_\(rules.ingress)_") }) {
            rules = LinkRules(ingress: rules.ingress, egress: String(table.dropFirst("sc_checkpoint_\(rules.ingress)_".count)))
        }
        self.rules = rules
        self.route = route
        holdIndex = try Self.load(rules, in: namespace)
        if let nextHop { Self.resolve(nextHop, in: namespace) }
    }

    /// The names of this tool's tables in the namespace.
    private static func tables(in namespace: NetworkNamespace) throws(CheckpointError) -> [String] {
        try runCommand(["nft", "list", "tables"], in: namespace).output.split(separator: "\n")
            .filter { $0.hasPrefix("table netdev sc_checkpoint_") }.map { String($0.dropFirst("table netdev ".count)) }
    }

    /// An earlier move has left its rules in the namespace.
    package static func isInUse(in namespace: NetworkNamespace) -> Bool { ((try? tables(in: namespace)) ?? []).isEmpty == false }

    private static func devices(
        for flows: [Flow], nextHop: IPAddress?, in namespace: NetworkNamespace, route: Int32
    ) throws(CheckpointError) -> LinkRules {
        func device(toward address: IPAddress) throws(CheckpointError) -> String {
            var (found, destination) = (cproc_route(), SocketAddress(address, port: 0).endpoint)
            try check(cproc_route_get(route, &destination, &found), "no route to \(address)", advice: "Check ip route")
            let index = found.ifindex
            return try namespace.run { () throws(CheckpointError) in
                var name = [CChar](repeating: 0, count: 16)
                try check(cproc_ifname(index, &name), "interface \(index) has no name")
                return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            }
        }
        var ingress: Set<String> = []
        for client in Set(flows.map(\.client.address)) { ingress.insert(try device(toward: client)) }
        guard ingress.count == 1, let only = ingress.first else {
            throw CheckpointError(
                "cannot hold these flows together", why: "their clients are reached over \(ingress.sorted().joined(separator: ", "))",
                errno: EOPNOTSUPP,
                advice: "Move the sessions of one interface at a time (--peer)")
        }
        guard only != "lo" else {
            throw CheckpointError(
                "cannot hold a flow of the loopback device", why: "its packets never cross a link", errno: EOPNOTSUPP, advice: "Use --steer none")
        }
        return LinkRules(ingress: only, egress: try nextHop.map(device(toward:)) ?? only)
    }

    private static func load(_ rules: LinkRules, in namespace: NetworkNamespace) throws(CheckpointError) -> Int32 {
        func index() throws(CheckpointError) -> Int32 {
            try namespace.run { () throws(CheckpointError) in cproc_ifindex(LinkRules.holdDevice) }
        }
        if try index() < 0 {
            try runChecked(["ip", "-batch", "-"], input: LinkRules.devices, in: namespace)
            try namespace.run { () throws(CheckpointError) in
                for (name, value) in LinkRules.sysctls { writeSysctl(name, value) }
            }
        }
        if try runCommand(["nft", "list", "table", "netdev", rules.table], in: namespace).status != 0 {
            try runChecked(["nft", "-f", "-"], input: rules.text, in: namespace)
        }
        return try check(index(), "the device \(LinkRules.holdDevice) is missing")
    }

    /// Makes the kernel learn the target's link address now: a discarded datagram is enough.
    private static func resolve(_ address: IPAddress, in namespace: NetworkNamespace) {
        let family = address.isIPv6 ? AF_INET6 : AF_INET
        guard let socket = try? namespace.socket(family: family, type: Int32(SOCK_DGRAM.rawValue)) else { return }
        var endpoint = SocketAddress(address, port: 9).endpoint
        if cproc_connect(socket.raw, &endpoint) >= 0 { _ = send(socket.raw, "", 0, Int32(MSG_DONTWAIT)) }
    }

    // MARK: Changes, each one transaction

    /// Packets of the flows stop in both directions: the client's are parked, this host's answers vanish.
    package func freeze() throws(CheckpointError) { try apply(add: ["mute", "hold"]) }

    /// What comes out of the parking goes to the target.
    package func relay() throws(CheckpointError) { try apply(add: ["relay"]) }

    /// New packets go straight to the target, from now on and after this tool has ended.
    package func forward() throws(CheckpointError) { try apply(add: ["fwd"]) }

    /// This host may answer again.
    package func unmute() throws(CheckpointError) { try apply(remove: ["mute"]) }

    /// New packets go to this host again.
    package func unhold() throws(CheckpointError) { try apply(remove: ["hold"]) }

    /// Stops passing the flows on: they are parked here again (a session that comes back).
    package func retake() throws(CheckpointError) { try apply(remove: ["fwd", "relay"]) }

    /// The flows that this namespace passes on today, from an earlier move.
    package func findForwarded() throws(CheckpointError) -> Bool {
        var text = ""
        for family in ["4", "6"] {
            text += try runCommand(["nft", "list", "map", "netdev", rules.table, "fwd\(family)"], in: namespace).output
        }
        let found = flows.allSatisfy {
            text.contains("\($0.client.address) . \($0.client.port) . \($0.service.address) . \($0.service.port) ")
        }
        if found {
            present = ["mute", "hold", "fwd", "relay"]
            formerHop = Self.hop(in: text)
        }
        return found
    }

    /// The first next hop in the text of a map: `a . p . b . q : HOP`.
    private static func hop(in text: String) -> IPAddress? {
        // The types of the map stand before its elements and have a " : " of their own; nft prints no address there.
        let words = text.split { " ,\n{}".contains($0) }
        let hops = zip(words, words.dropFirst()).filter { $0.0 == ":" }.compactMap { IPAddress($0.1) }
        return hops.first
    }

    /// Passes the flows on again as before `retake`, what was parked meanwhile first.
    package func resumeForwarding() {
        try? apply(add: ["relay"])
        flush()
        try? apply(add: ["fwd"])
        settle()
    }

    /// Sends everything parked on its way, in order; later arrivals pass without a stop until `settle`.
    package func flush() {
        for family in families {
            var address = family.endpoint
            _ = cproc_neigh_set(route.raw, holdIndex, &address, LinkRules.holdMAC)
        }
        isFlushed = true
    }

    /// The parking is empty and closed again.
    package func settle() {
        guard isFlushed else { return }
        for family in families {
            var address = family.endpoint
            _ = cproc_neigh_delete(route.raw, holdIndex, &address)
        }
        isFlushed = false
    }

    /// Gives the flows back to this host: answers first (an ACK that vanished would cost the client a timeout), then what was parked.
    package func rollBack() {
        if present.contains("fwd") || present.contains("relay") { try? retake() }
        try? unmute()
        flush()
        try? unhold()
        settle()
        removeIfUnused()
    }

    /// Forgets the flows.
    package func clear() {
        try? apply(remove: Array(present))
        settle()
        removeIfUnused()
    }

    private var families: [SocketAddress] {
        var result: [SocketAddress] = []
        if flows.contains(where: { !$0.isIPv6 }) { result.append(SocketAddress(IPAddress(LinkRules.holdIPv4)!, port: 0)) }
        if flows.contains(where: \.isIPv6) { result.append(SocketAddress(IPAddress(LinkRules.holdIPv6)!, port: 0)) }
        return result
    }

    private func apply(add: [String] = [], remove: [String] = []) throws(CheckpointError) {
        let added = add.filter { !present.contains($0) }
        let removed = remove.filter { present.contains($0) }
        var changes: [cproc_nft_change] = []
        // Set by set: neighbouring changes of one set share a netlink message.
        for name in added {
            let hop = name == "fwd" || name == "relay" ? nextHop ?? formerHop : nil
            changes += flows.map { $0.change(name, add: true, nextHop: hop) }
        }
        for name in removed { changes += flows.map { $0.change(name, add: false) } }
        guard !changes.isEmpty else { return }
        try check(
            cproc_nft_apply(nft.raw, rules.table, changes, UInt32(changes.count)), "cannot change the steering rules (table \(rules.table))",
            advice: "Is the table still there? nft list table netdev \(rules.table)")
        present.formUnion(added)
        present.subtract(removed)
    }

    /// Removes the table once no flow is in it, and the hold devices once no table uses them.
    package func removeIfUnused() {
        guard present.isEmpty, let text = try? runCommand(["nft", "list", "table", "netdev", rules.table], in: namespace).output,
            !text.contains("elements = {")
        else { return }
        _ = try? runCommand(["nft", "delete", "table", "netdev", rules.table], in: namespace)
        let tables = (try? runCommand(["nft", "list", "tables"], in: namespace).output) ?? ""
        if !tables.contains("netdev sc_checkpoint_") {
            _ = try? runCommand(["ip", "link", "delete", LinkRules.holdDevice], in: namespace)
        }
    }
}

/// Runs a program that must succeed.
@discardableResult
func runChecked(_ arguments: [String], input: String = "", in namespace: NetworkNamespace) throws(CheckpointError) -> String {
    let result = try runCommand(arguments, input: input, in: namespace)
    guard result.status == 0 else {
        let line = result.errors.split(separator: "\n").first.map(String.init) ?? "exit status \(result.status)"
        throw CheckpointError(
            "\(arguments.prefix(2).joined(separator: " ")) failed", why: line,
            advice: "It needs CAP_NET_ADMIN and nf_tables (see sc-checkpoint check)")
    }
    return result.output
}

/// Writes a value below /proc/sys, in the calling thread's network namespace; a kernel without the setting is left as it is.
func writeSysctl(_ name: String, _ value: String) {
    let fd = open("/proc/sys/\(name)", O_WRONLY | O_CLOEXEC)
    guard fd >= 0 else { return }
    _ = write(fd, value, value.utf8.count)
    close(fd)
}
