// Tries what the tool needs of the kernel and the user, without leaving a trace.

import CProc
import Glibc

/// One feature and what follows when it is missing.
package struct Feature: Sendable {
    package var name: String
    package var isAvailable: Bool
    package var isRequired: Bool
    package var blocks: String
    package var remedy: String
}

/// Tries every feature on own sockets and processes.
package func probeFeatures() -> [Feature] {
    let namespace = try? NetworkNamespace.current()
    let tcp = OwnedDescriptor(socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0))
    let canRepair = cproc_repair(tcp.raw, Int32(CPROC_REPAIR_ON)) >= 0
    var window = cproc_window()
    let hasWindow = canRepair && cproc_window(tcp.raw, &window) >= 0
    if canRepair { _ = cproc_repair(tcp.raw, Int32(CPROC_REPAIR_OFF_NO_PROBE)) }
    let program = cproc_drop_program()
    if program >= 0 { close(program) }
    let hasNft = namespace.map { (try? runCommand(["nft", "list", "tables"], in: $0).status) == 0 } ?? false
    let hasIP = namespace.map { (try? runCommand(["ip", "-V"], in: $0).status) == 0 } ?? false
    let pidfd = cproc_pidfd_open(getpid())
    let copied = pidfd >= 0 ? cproc_pidfd_getfd(pidfd, tcp.raw) : pidfd
    for fd in [pidfd, copied] where fd >= 0 { close(fd) }
    let newNamespace = cproc_new_netns()
    if newNamespace >= 0 { close(newNamespace) }
    let root = "Run as root, or grant the capability"
    func capability(_ name: String, _ number: Int32, _ blocks: String) -> Feature {
        Feature(name: name, isAvailable: cproc_has_capability(number) == 1, isRequired: true, blocks: blocks, remedy: root)
    }
    return [
        capability("CAP_NET_ADMIN", 12, "capture and restore of TCP"), capability("CAP_SYS_PTRACE", 19, "taking copies of other users' descriptors"),
        capability("CAP_SYS_ADMIN", 21, "sockets in other network namespaces"), capability("CAP_NET_RAW", 13, "half-closed connections"),
        Feature(
            name: "pidfd_getfd", isAvailable: copied >= 0, isRequired: true, blocks: "everything", remedy: "A kernel of at least 5.6"),
        Feature(
            name: "TCP_REPAIR", isAvailable: canRepair, isRequired: true, blocks: "everything", remedy: "CAP_NET_ADMIN; CONFIG_CHECKPOINT_RESTORE"),
        Feature(name: "TCP_REPAIR_WINDOW", isAvailable: hasWindow, isRequired: true, blocks: "restore", remedy: "A kernel of at least 4.8"),
        Feature(
            name: "eBPF socket filter", isAvailable: program >= 0, isRequired: true, blocks: "locking a socket", remedy: "CAP_BPF; CONFIG_BPF_SYSCALL"
        ),
        Feature(
            name: "new network namespaces", isAvailable: newNamespace >= 0, isRequired: false, blocks: "restore --dry-run",
            remedy: "CAP_SYS_ADMIN; CONFIG_NET_NS"),
        Feature(
            name: "nftables (nft)", isAvailable: hasNft, isRequired: false, blocks: "--steer nft-forward, snapshot --take",
            remedy: "apt-get install nftables; CONFIG_NF_TABLES_NETDEV"),
        Feature(
            name: "iproute2 (ip)", isAvailable: hasIP, isRequired: false, blocks: "--steer nft-forward, restore --dry-run",
            remedy: "apt-get install iproute2"),
    ]
}
