// Which flows still have a socket on this host: what a host that passes their packets on wants to know.

import CProc
import Glibc
import SCImage

enum LivingFlows {
    /// The indexes of those that have one in this process's network namespace, or in that of a process that a session was restored into.
    static func indexes(_ flows: [Flow]) -> [Int] {
        var namespaces: [NetworkNamespace] = (try? [NetworkNamespace.current()]) ?? []
        for pid in SessionRegistry.pids() {
            guard let namespace = try? NetworkNamespace.of(pid: pid), !namespaces.contains(where: { $0.isSame(as: namespace) }) else { continue }
            namespaces.append(namespace)
        }
        var alive: Set<Flow> = []
        for namespace in namespaces { alive.formUnion((try? established(in: namespace)) ?? []) }
        return flows.indices.filter { alive.contains(flows[$0]) }
    }

    /// Refuses flows that a socket of the namespace has already (TIME_WAIT as well), and queues for which the kernel's TCP memory does not suffice.
    static func refuseConflicts(_ offer: Offer, in namespace: NetworkNamespace) throws(CheckpointError) {
        let taken = try established(in: namespace)
        if let flow = offer.flows.first(where: taken.contains) {
            throw CheckpointError(
                "\(hostName()) cannot receive \(flow)", why: "a socket there has its addresses and ports already", errno: EADDRINUSE,
                advice: "Look for it there: ss -tan; one in TIME-WAIT goes within a minute")
        }
        let (used, limits) = try namespace.run { () throws(CheckpointError) in
            (readText("/proc/thread-self/net/sockstat") ?? "", readText("/proc/sys/net/ipv4/tcp_mem") ?? "")
        }
        let words = used.split(separator: "\n").first { $0.hasPrefix("TCP:") }?.split(separator: " ") ?? []
        guard let place = words.firstIndex(of: "mem"), place + 1 < words.count, let pages = UInt64(words[place + 1]),
            let limit = limits.split(whereSeparator: \.isWhitespace).last.flatMap({ UInt64($0) })
        else { return }
        // An skb takes about twice its bytes.
        let needed = offer.queueBytes / 2048 + UInt64(offer.flows.count)
        guard pages + needed <= limit else {
            throw CheckpointError(
                "\(hostName()) has no memory for \(offer.queueBytes) bytes of queues", why: "TCP uses \(pages) of \(limit) pages", errno: ENOBUFS,
                advice: "Raise net.ipv4.tcp_mem there, or move fewer sessions at once")
        }
    }

    /// The flows of all TCP sockets that have a peer; those in TIME_WAIT answer the last packets of their flow and count as well.
    private static func established(in namespace: NetworkNamespace) throws(CheckpointError) -> Set<Flow> {
        // /proc/net is the reading thread's own namespace.
        let text = try namespace.run { () throws(CheckpointError) in
            ["tcp", "tcp6"].map { readText("/proc/thread-self/net/\($0)") ?? "" }
        }
        var flows: Set<Flow> = []
        for line in text.flatMap({ $0.split(separator: "\n").dropFirst() }) {
            let words = line.split(separator: " ", omittingEmptySubsequences: true)
            guard words.count > 3, let local = end(words[1]), let peer = end(words[2]), peer.port != 0 else { continue }
            flows.insert(Flow(client: peer, service: local))
        }
        return flows
    }

    /// `0100007F:1F90`: the address in 32-bit words of the host's byte order, the port in plain hexadecimal.
    private static func end(_ text: Substring) -> SocketAddress? {
        let parts = text.split(separator: ":")
        guard parts.count == 2, let port = UInt16(parts[1], radix: 16), let digits = bytes(hexadecimal: String(parts[0])) else { return nil }
        let network = stride(from: 0, to: digits.count, by: 4).flatMap { Array(digits[$0..<min($0 + 4, digits.count)].reversed()) }
        return IPAddress(bytes: network).map { SocketAddress($0, port: port) }
    }
}
