// The addresses of a session's channels: IPv4, IPv6, and the port beside them.

/// An IPv4 or IPv6 address, held inline so that 10,000 sessions cost no allocation for it.
package struct IPAddress: Hashable, Sendable {
    /// The 16 address bytes in network order, as two big-endian halves. An IPv4 address is the low 32 bits of `low`.
    package let high: UInt64
    package let low: UInt64
    package let isIPv6: Bool

    package init(ipv4: UInt32) {
        (high, low, isIPv6) = (0, UInt64(ipv4), false)
    }

    package init(ipv6High: UInt64, low: UInt64) {
        (high, self.low, isIPv6) = (ipv6High, low, true)
    }

    /// Reads 4 or 16 bytes in network order; nil for any other length.
    package init?(bytes: some Collection<UInt8>) {
        switch bytes.count {
        case 4: self.init(ipv4: bytes.reduce(0) { $0 << 8 | UInt32($1) })
        case 16:
            self.init(
                ipv6High: bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) },
                low: bytes.dropFirst(8).reduce(0) { $0 << 8 | UInt64($1) })
        default: return nil
        }
    }

    /// The address in network order: 4 or 16 bytes.
    package var bytes: [UInt8] {
        let low = (0..<8).map { UInt8(truncatingIfNeeded: self.low >> (56 - 8 * $0)) }
        guard isIPv6 else { return Array(low.suffix(4)) }
        return (0..<8).map { UInt8(truncatingIfNeeded: high >> (56 - 8 * $0)) } + low
    }

    /// `::ffff:a.b.c.d`, which a dual-stack IPv6 socket shows for an IPv4 peer (RFC 4291 section 2.5.5.2).
    package var isIPv4Mapped: Bool { isIPv6 && high == 0 && low >> 32 == 0xffff }

    /// The IPv4 address inside an IPv4-mapped one; the address itself otherwise.
    package var unmapped: IPAddress {
        isIPv4Mapped ? IPAddress(ipv4: UInt32(truncatingIfNeeded: low)) : self
    }

    /// `fe80::/10`: meaningful on one link only, so it travels with a scope.
    package var isLinkLocal: Bool { isIPv6 && high >> 54 == 0x3fa }
}

/// An address and a port, and the scope of a link-local address.
package struct SocketAddress: Hashable, Sendable {
    package var address: IPAddress
    package var port: UInt16
    /// The interface index of a link-local IPv6 address on the host it was read on; 0 elsewhere.
    package var scope: UInt32

    package init(_ address: IPAddress, port: UInt16, scope: UInt32 = 0) {
        (self.address, self.port, self.scope) = (address, port, scope)
    }

    /// The same end as a packet on the wire carries it: an IPv4-mapped address becomes IPv4.
    package var onWire: SocketAddress { SocketAddress(address.unmapped, port: port, scope: scope) }
}
