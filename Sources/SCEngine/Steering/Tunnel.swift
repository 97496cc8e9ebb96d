// The two ends of a VXLAN tunnel, for a target that is not on a link of the source.
//
//   source: sctXXXXXXXX  remote = the target's address, one device for each target; packets go in by `fwd … device`
//   target: sctunnel     receives only, as the answers take the target's own route to the client; one device for all sources
//
// Both ends have fixed link and network addresses, so neither needs a reply of the other before packets flow.

import CProc
import Glibc
import SCImage

enum Tunnel {
    /// The network of this tool's tunnels, and the port that IANA gave VXLAN (RFC 7348 section 8).
    static let network = 0x5c_5c5c
    static let port = 4789
    static let endMAC = "02:77:aa:00:01:01"
    static let endMACBytes: [UInt8] = [0x02, 0x77, 0xaa, 0, 1, 1]
    static let endIPv4 = IPAddress("169.254.78.1")!
    static let endIPv6 = IPAddress("fe80::78")!

    static func index(of device: String, in namespace: NetworkNamespace) throws(CheckpointError) -> Int32 {
        try namespace.run { () throws(CheckpointError) in cproc_ifindex(device) }
    }
}

/// The source's end of the way to one target.
struct TunnelStart {
    let device: String
    let nextHop: IPAddress
    private static let prefix = "sct"

    /// Makes the device, unless an earlier move has. `target` is the target's address on the network between the hosts.
    init(to target: IPAddress, for flows: [Flow], in namespace: NetworkNamespace) throws(CheckpointError) {
        // FNV-1a: the same target gives the same device, in every process.
        let hash = target.bytes.reduce(UInt32(2_166_136_261)) { ($0 ^ UInt32($1)) &* 16_777_619 }
        device = Self.prefix + String(hash | 0x8000_0000, radix: 16)
        nextHop = flows.first?.isIPv6 == true ? Tunnel.endIPv6 : Tunnel.endIPv4
        if try Tunnel.index(of: device, in: namespace) < 0 {
            let device = device
            try runChecked(
                ["ip", "-batch", "-"],
                input: "link add \(device) type vxlan id \(Tunnel.network) dstport \(Tunnel.port) nolearning remote \(target)\n", in: namespace)
            try namespace.run { () throws(CheckpointError) in writeSysctl("net/ipv6/conf/\(device)/accept_dad", "0") }
            try runChecked(["ip", "link", "set", device, "up"], in: namespace)
        }
        let index = try check(Tunnel.index(of: device, in: namespace), "the device \(device) is missing")
        let route = OwnedDescriptor(try namespace.run { () throws(CheckpointError) in try check(cproc_rtnl_open(), "cannot talk to rtnetlink") })
        var hop = SocketAddress(nextHop, port: 0).endpoint
        try check(cproc_neigh_set(route.raw, index, &hop, Tunnel.endMACBytes), "cannot set the link address of the tunnel's other end")
    }

    /// Removes the devices of this kind that no table sends packets to.
    static func removeUnused(in namespace: NetworkNamespace) {
        guard let tables = try? LinkHold.tables(in: namespace),
            let links = try? runCommand(["ip", "-o", "link", "show", "type", "vxlan"], in: namespace)
        else { return }
        for line in links.output.split(separator: "\n") {
            // "7: sct8d8b5a16: <BROADCAST,…"
            guard let device = line.split(whereSeparator: { $0 == " " || $0 == ":" || $0 == "@" }).dropFirst().first.map(String.init),
                device.hasPrefix(prefix), device != TunnelEnd.device, !tables.contains(where: { $0.egress == device })
            else { continue }
            _ = try? runCommand(["ip", "link", "delete", device], in: namespace)
        }
    }
}

/// The target's end: a device that takes in the packets of known flows and drops all others, whoever sends them.
struct TunnelEnd {
    static let device = "sctunnel"
    private static let table = "sc_checkpoint_tunnel"
    private static var rules: String {
        """
        table netdev \(table) {
          set flow4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; }
          set flow6 { type ipv6_addr . inet_service . ipv6_addr . inet_service; }
          chain in { type filter hook ingress device "\(device)" priority -400; policy drop;
            ip saddr . tcp sport . ip daddr . tcp dport @flow4 accept
            ip6 saddr . tcp sport . ip6 daddr . tcp dport @flow6 accept
          }
        }

        """
    }

    /// Makes the device, unless an earlier move has, and lets the flows' packets in. Returns whether it let them in already.
    /// `own` is this host's address on the network between the hosts.
    static func admit(_ flows: [Flow], at own: IPAddress, in namespace: NetworkNamespace) throws(CheckpointError) -> Bool {
        if try Tunnel.index(of: device, in: namespace) < 0 {
            // Without an address of the family the device would listen on IPv4 only.
            let local = own.isIPv6 ? " local \(own)" : ""
            try runChecked(
                ["ip", "-batch", "-"],
                input: """
                    link add \(device) address \(Tunnel.endMAC) type vxlan id \(Tunnel.network) dstport \(Tunnel.port) nolearning\(local)
                    address add \(Tunnel.endIPv4)/32 dev \(device)

                    """, in: namespace)
            // The larger of a device's rp_filter and that for all counts: loose is what a strict host lets through.
            try namespace.run { () throws(CheckpointError) in
                writeSysctl("net/ipv4/conf/\(device)/rp_filter", "2")
                writeSysctl("net/ipv4/conf/\(device)/arp_ignore", "8")
                for name in ["accept_dad", "accept_ra"] { writeSysctl("net/ipv6/conf/\(device)/\(name)", "0") }
            }
            try runChecked(["nft", "-f", "-"], input: "add table netdev \(table)\ndelete table netdev \(table)\n" + rules, in: namespace)
            try runChecked(["ip", "link", "set", device, "up"], in: namespace)
        }
        if try carries(flows, in: namespace) { return true }
        try change(flows, add: true, in: namespace)
        return false
    }

    /// Whether the flows come in through the tunnel. Throws when only some of them do.
    static func carries(_ flows: [Flow], in namespace: NetworkNamespace) throws(CheckpointError) -> Bool {
        guard try Tunnel.index(of: device, in: namespace) >= 0 else { return false }
        let elements = try LinkHold.elements(of: "flow", isMap: false, in: table, namespace)
        let count = flows.filter { elements[$0.key] != nil }.count
        guard count == 0 || count == flows.count else {
            throw CheckpointError(
                "cannot hold these flows together", why: "\(count) of the \(flows.count) come in through a tunnel", errno: EOPNOTSUPP,
                advice: "Move them apart, with --peer")
        }
        return count > 0
    }

    /// Lets the flows' packets in no longer; without any flow the device goes.
    static func forget(_ flows: [Flow], in namespace: NetworkNamespace) {
        guard (try? carries(flows, in: namespace)) == true else { return }
        try? change(flows, add: false, in: namespace)
        removeIfUnused(in: namespace)
    }

    /// Removes the device when no flow comes in.
    static func removeIfUnused(in namespace: NetworkNamespace) {
        guard let text = try? runCommand(["nft", "list", "table", "netdev", table], in: namespace).output, !text.contains("elements = {") else {
            return
        }
        _ = try? runCommand(["ip", "link", "delete", device], in: namespace)
        _ = try? runCommand(["nft", "delete", "table", "netdev", table], in: namespace)
    }

    private static func change(_ flows: [Flow], add: Bool, in namespace: NetworkNamespace) throws(CheckpointError) {
        let nft = OwnedDescriptor(try namespace.run { () throws(CheckpointError) in try check(cproc_nft_open(), "cannot talk to nf_tables") })
        let changes = flows.map { $0.change("flow", add: add) }
        try check(cproc_nft_apply(nft.raw, table, changes, UInt32(changes.count)), "cannot change the tunnel's rules (table \(table))")
    }
}
