// Connections that the tool itself opens to a server of this host, as an ordinary client of it.

import CProc
import Glibc
import SCImage

/// A server of a namespace, reachable at the service's address.
package struct ServerAccess: Sendable {
    package let namespace: NetworkNamespace
    package let service: SocketAddress

    /// Sends `request` on a connection of its own and reads until `isComplete` or the end of the stream.
    package func exchange(_ request: [UInt8], limit: Int = 1 << 20, timeout: Int = 3000, until isComplete: ([UInt8]) -> Bool) throws(CheckpointError)
        -> [UInt8]
    {
        let prelude = try Prelude(to: service, in: namespace, as: nil, timeout: timeout)
        try prelude.write(request)
        let deadline = Deadline(milliseconds: timeout)
        var reply: [UInt8] = []
        while !isComplete(reply) {
            guard reply.count < limit, let more = try prelude.read(deadline) else { break }
            reply += more
        }
        return reply
    }
}

/// A client connection of this tool to a server; with a client's address as its own, so that the server logs and checks the real client.
package final class Prelude {
    private let descriptor: OwnedDescriptor
    /// The address the server sees.
    package let local: SocketAddress
    package let service: SocketAddress
    package var raw: Int32 { descriptor.raw }

    /// The mark that keeps the packets of preludes on this host (`MarkedRoute`).
    static let mark: Int32 = 0x5c5c

    /// Connects; `client` nil speaks under the host's own address. A small receive buffer keeps the server from writing far ahead.
    package init(to service: SocketAddress, in namespace: NetworkNamespace, as client: SocketAddress?, timeout: Int = 3000) throws(CheckpointError) {
        self.service = service.onWire
        let isIPv6 = self.service.address.isIPv6
        descriptor = try namespace.socket(
            family: isIPv6 ? AF_INET6 : AF_INET, type: Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), protocol: 6)
        let raw = descriptor.raw
        if let client {
            try check(
                isIPv6 ? cproc_setsockopt_int(raw, 41, 75 /* IPV6_TRANSPARENT */, 1) : cproc_setsockopt_int(raw, 0, 19 /* IP_TRANSPARENT */, 1),
                "cannot speak under the client's address", advice: "IP_TRANSPARENT needs CAP_NET_ADMIN")
            try check(cproc_setsockopt_int(raw, SOL_SOCKET, SO_MARK, Self.mark), "cannot mark the prelude connection")
            _ = cproc_setsockopt_int(raw, SOL_SOCKET, SO_REUSEADDR, 1)
            // When it is given up, a RST ends the server's side at once. Its farewell would come after the marked route is gone, and reach the real client.
            var linger = linger(l_onoff: 1, l_linger: 0)
            _ = cproc_setsockopt(raw, SOL_SOCKET, SO_LINGER, &linger, UInt32(MemoryLayout<Glibc.linger>.size))
            var endpoint = client.onWire.endpoint
            try check(
                cproc_bind(raw, &endpoint), "cannot speak under the client's address \(client)",
                advice: "Is the session still on this host?")
        }
        _ = cproc_setsockopt_int(raw, SOL_SOCKET, SO_RCVBUF, 32768)
        _ = cproc_setsockopt_int(raw, IPPROTO_TCP_, 1 /* TCP_NODELAY */, 1)
        var endpoint = self.service.endpoint
        let result = cproc_connect(raw, &endpoint)
        if result < 0, result != -EINPROGRESS { throw Self.refused(service, Int(result)) }
        guard cproc_poll(raw, Int16(POLLOUT), Int32(timeout)) > 0 else { throw Self.refused(service, -Int(ETIMEDOUT)) }
        let error = SocketView(raw).option(SOL_SOCKET, SO_ERROR) ?? 0
        if error != 0 { throw Self.refused(service, -Int(error)) }
        guard let local = SocketView(raw).local else { throw Self.refused(service, -Int(ENOTCONN)) }
        self.local = local
    }

    private static func refused(_ service: SocketAddress, _ result: Int) -> CheckpointError {
        CheckpointError("cannot connect to the server at \(service)", result: result, advice: "Does it listen there, in that network namespace?")
    }

    package func write(_ bytes: [UInt8]) throws(CheckpointError) {
        var offset = 0
        while offset < bytes.count {
            let count = bytes.withUnsafeBytes { send(raw, $0.baseAddress! + offset, bytes.count - offset, Int32(MSG_NOSIGNAL)) }
            if count < 0 {
                guard errno == EAGAIN, cproc_poll(raw, Int16(POLLOUT), 3000) > 0 else {
                    throw CheckpointError("cannot speak to the server at \(service)", result: Int(-errno))
                }
                continue
            }
            offset += count
        }
    }

    /// Some bytes; nil at the end of the stream or of the time.
    package func read(_ deadline: Deadline) throws(CheckpointError) -> [UInt8]? {
        guard cproc_poll(raw, Int16(POLLIN), deadline.remainingMilliseconds) > 0 else { return nil }
        var buffer = [UInt8](repeating: 0, count: 65536)
        let count = recv(raw, &buffer, buffer.count, 0)
        return count > 0 ? Array(buffer.prefix(count)) : nil
    }

    /// Everything that has arrived, without waiting.
    package func readAvailable() throws(CheckpointError) -> [UInt8] {
        var result: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 262_144)
        while true {
            let count = recv(raw, &buffer, buffer.count, Int32(MSG_DONTWAIT))
            if count > 0 {
                result += buffer.prefix(count)
            } else if count == 0 {
                throw CheckpointError(
                    "the server closed the prelude connection", why: "end of stream", errno: ECONNRESET, advice: "Look into its log")
            } else {
                guard errno == EAGAIN else { throw CheckpointError("cannot read from the server at \(service)", result: Int(-errno)) }
                return result
            }
        }
    }

    /// Leaves the connection without a packet; the server's end has been turned into the session meanwhile.
    package func vanish() {
        _ = cproc_repair(raw, Int32(CPROC_REPAIR_ON))
        _ = cproc_disconnect(raw)
    }
}

/// While it lives, packets that carry the preludes' mark stay on this host whatever their addresses, and accepted sockets inherit the mark.
package final class MarkedRoute {
    private let netlink: OwnedDescriptor
    private let namespace: NetworkNamespace
    let families: [UInt16]
    let formerAccept: String
    private static let table: UInt32 = 0x5c5c
    private static let priority: UInt32 = 0
    private static let sysctl = "net/ipv4/tcp_fwmark_accept"

    package init(in namespace: NetworkNamespace, families: Set<Int32>) throws(CheckpointError) {
        self.namespace = namespace
        self.families = families.map { UInt16($0) }
        netlink = OwnedDescriptor(try namespace.run { () throws(CheckpointError) in try check(cproc_rtnl_open(), "cannot talk to rtnetlink") })
        formerAccept = try namespace.run { () throws(CheckpointError) in
            let former = readText("/proc/sys/\(Self.sysctl)").map { String($0.prefix { $0 != "\n" }) } ?? "0"
            writeSysctl(Self.sysctl, "1")
            return former
        }
        for family in self.families {
            try check(
                cproc_mark_local_add(netlink.raw, family, UInt32(Prelude.mark), Self.table, Self.priority),
                "cannot route the prelude connections to this host",
                advice: "Policy routing (CONFIG_IP_MULTIPLE_TABLES) is needed")
        }
    }

    deinit { Self.remove(families, formerAccept, in: namespace, netlink.raw) }

    /// Removes what a process that died has left.
    static func remove(_ record: HandoverRecord, in namespace: NetworkNamespace) {
        guard let formerAccept = record.formerAccept,
            let raw = try? namespace.run({ () throws(CheckpointError) in try check(cproc_rtnl_open(), "cannot talk to rtnetlink") })
        else { return }
        remove(record.families, formerAccept, in: namespace, raw)
        close(raw)
    }

    private static func remove(_ families: [UInt16], _ formerAccept: String, in namespace: NetworkNamespace, _ netlink: Int32) {
        for family in families { _ = cproc_mark_local_delete(netlink, family, UInt32(Prelude.mark), table, priority) }
        _ = try? namespace.run { () throws(CheckpointError) in writeSysctl(sysctl, formerAccept) }
    }
}
