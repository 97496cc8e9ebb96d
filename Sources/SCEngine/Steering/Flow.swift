// A TCP flow as packets on the wire show it, in the words of steering: the client's end and the service's.

import CProc
import SCImage

extension Flow {
    /// The flow of a connection; IPv4-mapped addresses become IPv4.
    package init(client: SocketAddress, service: SocketAddress) { self.init(local: service.onWire, peer: client.onWire) }

    package init(_ channel: TCPChannel) { self.init(client: channel.peer, service: channel.local) }

    package var client: SocketAddress { peer }
    package var service: SocketAddress { local }
    package var isIPv6: Bool { client.address.isIPv6 }

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

extension Flow: CustomStringConvertible {
    package var description: String { "\(client) -> \(service)" }
}
