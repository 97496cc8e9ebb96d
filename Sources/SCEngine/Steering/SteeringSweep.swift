// Removes steering rules that no flow uses, which a tool that died while it set them up may have left.

import SCImage

/// Removes this tool's tables without elements, and the hold devices when no table is left. Harmless beside a move, whose lock it takes.
package func sweepSteering(in namespace: NetworkNamespace) {
    guard let lock = try? StateLock(namespace: namespace) else { return }
    withExtendedLifetime(lock) {
        func tables() -> [String] {
            let text = (try? runCommand(["nft", "list", "tables"], in: namespace).output) ?? ""
            return text.split(separator: "\n").filter { $0.hasPrefix("table netdev sc_checkpoint_") }.map { String($0.dropFirst(13)) }
        }
        for table in tables() {
            guard let text = try? runCommand(["nft", "list", "table", "netdev", table], in: namespace).output, !text.contains("elements = {")
            else { continue }
            _ = try? runCommand(["nft", "delete", "table", "netdev", table], in: namespace)
        }
        if tables().isEmpty { _ = try? runCommand(["ip", "link", "delete", LinkRules.holdDevice], in: namespace) }
    }
}
