// What a hold needs before anything is frozen: devices, rules, the next hop's link address; and what an earlier process left of it.

import CProc
import Glibc
import SCImage

extension LinkRules {
    /// The devices that the flows' clients, and the next hop, are reached over.
    init(for flows: [Flow], nextHop: IPAddress?, egress: String? = nil, in namespace: NetworkNamespace, route: Int32) throws(CheckpointError) {
        var ingress: Set<String> = []
        for client in Set(flows.map(\.client.address)) { ingress.insert(try deviceToward(client, in: namespace, route: route)) }
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
        let egress: String = if let egress { egress } else if let nextHop { try deviceToward(nextHop, in: namespace, route: route) } else { only }
        // An earlier move's source may send them through a tunnel; the answers take the route.
        let isTunnelled = try TunnelEnd.carries(flows, in: namespace)
        self.init(ingress: isTunnelled ? TunnelEnd.device : only, egress: egress, answers: only)
    }
}

/// The name of the device over which the namespace reaches an address. `route` is an rtnetlink socket of the namespace.
func deviceToward(_ address: IPAddress, in namespace: NetworkNamespace, route: Int32) throws(CheckpointError) -> String {
    var (found, destination) = (cproc_route(), SocketAddress(address, port: 0).endpoint)
    try check(cproc_route_get(route, &destination, &found), "no route to \(address)", advice: "Check ip route")
    let index = found.ifindex
    return try namespace.run { () throws(CheckpointError) in
        var name = [CChar](repeating: 0, count: 16)
        try check(cproc_ifname(index, &name), "interface \(index) has no name")
        return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

extension LinkHold {
    /// The rules of earlier moves that the namespace has today.
    static func tables(in namespace: NetworkNamespace) throws(CheckpointError) -> [LinkRules] {
        try runCommand(["nft", "list", "tables"], in: namespace).output.split(separator: "\n")
            .compactMap { $0.hasPrefix("table netdev ") ? LinkRules(table: $0.dropFirst("table netdev ".count)) : nil }
    }

    static func load(_ rules: LinkRules, in namespace: NetworkNamespace) throws(CheckpointError) -> Int32 {
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
    static func resolve(_ address: IPAddress, in namespace: NetworkNamespace) {
        let family = address.isIPv6 ? AF_INET6 : AF_INET
        guard let socket = try? namespace.socket(family: family, type: Int32(SOCK_DGRAM.rawValue)) else { return }
        var endpoint = SocketAddress(address, port: 9).endpoint
        if cproc_connect(socket.raw, &endpoint) >= 0 { _ = send(socket.raw, "", 0, Int32(MSG_DONTWAIT)) }
    }

    /// Which of the flows the namespace passes on today, from an earlier move, and by which rules.
    static func forwarded(_ flows: [Flow], in namespace: NetworkNamespace) throws(CheckpointError) -> (rules: LinkRules, flows: [Flow])? {
        for rules in try tables(in: namespace) {
            let elements = try elements(of: "fwd", isMap: true, in: rules.table, namespace)
            let found = flows.filter { elements[$0.key] != nil }
            if !found.isEmpty { return (rules, found) }
        }
        return nil
    }

    /// Finds out from the kernel which sets the flows are in, where they are sent, and whether the parking is open.
    func discover() throws(CheckpointError) {
        (present, missing) = ([], [:])
        for name in LinkRules.sets {
            let elements = try Self.elements(of: name, isMap: name == "fwd" || name == "relay", in: rules.table, namespace)
            let found = flows.filter { elements[$0.key] != nil }
            guard let first = found.first else { continue }
            present.insert(name)
            missing[name] = Set(flows).subtracting(found)
            if let hop = elements[first.key].flatMap({ IPAddress($0) }) { formerHop = hop }
        }
        let neighbours =
            try runCommand(["ip", "neigh", "show", "dev", LinkRules.holdDevice, "nud", "permanent"], in: namespace).output
            + runCommand(["ip", "-6", "neigh", "show", "dev", LinkRules.holdDevice, "nud", "permanent"], in: namespace).output
        isFlushed = neighbours.contains(LinkRules.holdIPv4) || neighbours.contains(LinkRules.holdIPv6)
    }

    /// As `leave`, after a process that had left these: those whose parking has not ended yet, by itself or because a later move has them.
    func adopt(staying left: [Flow]) throws(CheckpointError) {
        let held = try Self.elements(of: "hold", isMap: false, in: rules.table, namespace)
        let elsewhere = try Self.elements(of: "fwd", isMap: true, in: rules.table, namespace)
        staying = left.filter { held[$0.key] != nil && elsewhere[$0.key] == nil }
    }

    /// The elements of a set or map for both families: key and value (empty in a set) as nft prints them.
    static func elements(
        of name: String, isMap: Bool, in table: String, _ namespace: NetworkNamespace
    ) throws(CheckpointError) -> [Substring: Substring] {
        var result: [Substring: Substring] = [:]
        for family in ["4", "6"] {
            let text = try runCommand(["nft", "list", isMap ? "map" : "set", "netdev", table, name + family], in: namespace).output
            guard let start = text.firstRange(of: "elements = {")?.upperBound else { continue }
            for element in text[start...].prefix(while: { $0 != "}" }).split(separator: ",") {
                let words = element.split { $0 == " " || $0 == "\n" || $0 == "\t" }
                guard words.count >= 7 else { continue }
                let key = words[..<7].joined(separator: " ")
                result[Substring(key)] = words.count == 9 ? words[8] : ""
            }
        }
        return result
    }

    /// Removes the table once no flow is in it, and the hold devices once no table uses them.
    package func removeIfUnused() {
        guard present.isEmpty, let text = try? runCommand(["nft", "list", "table", "netdev", rules.table], in: namespace).output,
            !text.contains("elements = {")
        else { return }
        _ = try? runCommand(["nft", "delete", "table", "netdev", rules.table], in: namespace)
        guard let left = try? Self.tables(in: namespace) else { return }
        TunnelStart.removeUnused(in: namespace)
        guard left.isEmpty else { return }
        _ = try? runCommand(["ip", "link", "delete", LinkRules.holdDevice], in: namespace)
    }
}

extension Flow {
    /// The flow as nft prints a key of the sets.
    var key: Substring { "\(client.address) . \(client.port) . \(service.address) . \(service.port)" }
}
