// A TCP flow as packets on the wire show it.

import CProc
import SCImage

/// The 4-tuple of one connection, IPv4-mapped addresses unmapped.
package struct Flow: Hashable, Sendable, CustomStringConvertible {
    package let client: SocketAddress
    package let service: SocketAddress

    package init(client: SocketAddress, service: SocketAddress) {
        self.client = client.onWire
        self.service = service.onWire
    }

    package init(_ channel: TCPChannel) { self.init(client: channel.peer, service: channel.local) }

    package var isIPv6: Bool { client.address.isIPv6 }

    package var description: String { "\(client) -> \(service)" }

    /// A change of one element of the set or map `name` (`hold`, `mute`, …; the family's digit is added).
    func change(_ name: String, add: Bool, nextHop: IPAddress? = nil) -> cproc_nft_change {
        var change = cproc_nft_change()
        change.add = add ? 1 : 0
        withUnsafeMutableBytes(of: &change.set) { $0.copyBytes(from: "\(name)\(isIPv6 ? 6 : 4)".utf8) }
        change.client = client.endpoint
        change.service = service.endpoint
        if let nextHop {
            let bytes = nextHop.bytes
            change.data_length = UInt8(bytes.count)
            withUnsafeMutableBytes(of: &change.data) { $0.copyBytes(from: bytes) }
        }
        return change
    }
}
