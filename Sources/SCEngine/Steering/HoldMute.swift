// Drops a flow's packets in both directions, where they cannot be held: sessions taken by hand, and flows of the loopback device.

import CProc
import SCImage

/// Drops what this host would say on held flows (retransmissions of a socket whose client's answers are dropped), and what arrives for
/// them, for as long as they are held. Afterwards stragglers are answered with RST: the client's path has to be switched before `release`.
package struct HoldMute {
    private let namespace: NetworkNamespace
    private static let table = "sc_checkpoint_held"

    package init(_ namespace: NetworkNamespace) { self.namespace = namespace }

    package func add(_ flows: [Flow]) throws(CheckpointError) {
        let rules = """
            table inet \(Self.table) {
              set held4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; }
              set held6 { type ipv6_addr . inet_service . ipv6_addr . inet_service; }
              chain in { type filter hook prerouting priority -500; policy accept;
                ip saddr . tcp sport . ip daddr . tcp dport @held4 drop
                ip6 saddr . tcp sport . ip6 daddr . tcp dport @held6 drop
              }
              chain out { type filter hook output priority -500; policy accept;
                ip daddr . tcp dport . ip saddr . tcp sport @held4 drop
                ip6 daddr . tcp dport . ip6 saddr . tcp sport @held6 drop
              }
            }

            """
        let isLoaded = try runCommand(["nft", "list", "table", "inet", Self.table], in: namespace).status == 0
        try runChecked(["nft", "-f", "-"], input: (isLoaded ? "" : rules) + elements("add", flows), in: namespace)
    }

    package func remove(_ flows: [Flow]) {
        _ = try? runCommand(["nft", "-f", "-"], input: elements("delete", flows), in: namespace)
        let text = (try? runCommand(["nft", "list", "table", "inet", Self.table], in: namespace).output) ?? ""
        if !text.contains("elements = {") { _ = try? runCommand(["nft", "delete", "table", "inet", Self.table], in: namespace) }
    }

    private func elements(_ verb: String, _ flows: [Flow]) -> String {
        flows.map {
            "\(verb) element inet \(Self.table) held\($0.isIPv6 ? 6 : 4) { \($0.client.address) . \($0.client.port) . \($0.service.address) . \($0.service.port) }\n"
        }.joined()
    }
}
