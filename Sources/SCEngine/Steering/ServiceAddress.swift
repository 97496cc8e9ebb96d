// A service address as the kernel has it: interface, prefix length, and the sessions that live on it.

import CProc
import Glibc
import SCImage

/// An address on an interface.
struct ServiceAddress: Equatable {
    var address: IPAddress
    var prefix: Int
    var device: String
    /// Another address of the same subnet came first (IPv4).
    var isSecondary: Bool

    /// `ADDRESS/PREFIX`, as an offer carries it.
    var text: String { "\(address)/\(prefix)" }

    /// Where the namespace has the address, or any address when it is nil.
    static func find(_ address: IPAddress?, in namespace: NetworkNamespace) throws(CheckpointError) -> [ServiceAddress] {
        var found: [ServiceAddress] = []
        // "2: eth0    inet 10.0.0.1/24 brd … scope global secondary eth0\       valid_lft …"
        let text = try runChecked(["ip", "-o", "address", "show"], in: namespace)
        for line in text.split(separator: "\n") {
            let words = line.split { $0 == " " || $0 == "\\" }
            guard words.count > 3, words[2] == "inet" || words[2] == "inet6" else { continue }
            let parts = words[3].split(separator: "/")
            guard let own = IPAddress(parts[0]), address == nil || own == address else { continue }
            let bits = parts.count == 2 ? Int(parts[1]) ?? 0 : own.isIPv6 ? 128 : 32
            found.append(ServiceAddress(address: own, prefix: bits, device: String(words[1]), isSecondary: words.contains("secondary")))
        }
        return found
    }

    func contains(_ other: IPAddress) -> Bool {
        guard other.isIPv6 == address.isIPv6 else { return false }
        let (own, its) = (address.bytes, other.bytes)
        let whole = prefix / 8
        guard own[..<whole] == its[..<whole] else { return false }
        let rest = prefix % 8
        return rest == 0 || (own[whole] ^ its[whole]) >> UInt8(8 - rest) == 0
    }
}

/// The sessions of a namespace on one of the addresses, whichever process has them.
func sessions(on addresses: Set<IPAddress>, in namespace: NetworkNamespace) throws(CheckpointError) -> [Flow] {
    final class Box { var flows: [Flow] = [] }
    let box = Box()
    let netlink = OwnedDescriptor(
        try namespace.run { () throws(CheckpointError) in try check(cproc_diag_open(), "cannot open SOCK_DIAG") })
    // SYN_RECV (3) as well: its client waits for an answer from here.
    let states = TCPState.allCases.filter(\.isMovable).reduce(UInt32(1 << 3)) { $0 | 1 << UInt32($1.rawValue) }
    for family in [AF_INET, AF_INET6] {
        let result = cproc_diag_inet(
            netlink.raw, UInt8(family), 6, states, 0,
            { socket, context in
                if let local = SocketAddress(socket!.pointee.local), let peer = SocketAddress(socket!.pointee.peer) {
                    Unmanaged<Box>.fromOpaque(context!).takeUnretainedValue().flows.append(Flow(client: peer, service: local))
                }
                return 0
            }, { context in Unmanaged<Box>.fromOpaque(context!).takeUnretainedValue().flows = [] }, Unmanaged.passUnretained(box).toOpaque())
        try check(result, "cannot list the TCP sockets")
    }
    return withExtendedLifetime(box) { box.flows.filter { addresses.contains($0.service.address) && !addresses.contains($0.client.address) } }
}
