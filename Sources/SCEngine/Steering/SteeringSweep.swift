// Removes steering rules that no flow uses, which a tool that died while it set them up may have left.

import SCImage

/// Removes this tool's tables without elements, the tunnels that no flow uses, and the hold devices when no table is left. Harmless beside a move, whose lock it takes.
package func sweepSteering(in namespace: NetworkNamespace) {
    guard let lock = try? StateLock(namespace: namespace) else { return }
    withExtendedLifetime(lock) {
        for rules in (try? LinkHold.tables(in: namespace)) ?? [] {
            guard let text = try? runCommand(["nft", "list", "table", "netdev", rules.table], in: namespace).output, !text.contains("elements = {")
            else { continue }
            _ = try? runCommand(["nft", "delete", "table", "netdev", rules.table], in: namespace)
        }
        TunnelStart.removeUnused(in: namespace)
        if (try? Tunnel.index(of: TunnelEnd.device, in: namespace)) ?? -1 >= 0 { TunnelEnd.removeIfUnused(in: namespace) }
        if (try? LinkHold.tables(in: namespace))?.isEmpty == true {
            _ = try? runCommand(["ip", "link", "delete", LinkRules.holdDevice], in: namespace)
        }
    }
}
