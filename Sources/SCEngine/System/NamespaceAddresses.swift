// The addresses of a network namespace.

import CProc
import Glibc
import SCImage

extension NetworkNamespace {
    /// The addresses of its interfaces that are up, without those of loopback.
    package func addresses() throws(CheckpointError) -> [AddressPrefix] {
        final class Box { var found: [AddressPrefix] = [] }
        let box = Box()
        let netlink = OwnedDescriptor(try run { () throws(CheckpointError) in try check(cproc_rtnl_open(), "cannot talk to rtnetlink") })
        let result = cproc_addresses(
            netlink.raw,
            { endpoint, prefix, index, context in
                guard index != 1, let address = SocketAddress(endpoint!.pointee) else { return 0 }
                Unmanaged<Box>.fromOpaque(context!).takeUnretainedValue().found.append(
                    AddressPrefix(address.address, length: UInt8(clamping: prefix)))
                return 0
            }, Unmanaged.passUnretained(box).toOpaque())
        try check(result, "cannot list the addresses")
        return box.found
    }
}
