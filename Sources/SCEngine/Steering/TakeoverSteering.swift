// The source's half of the driver `arp-takeover`: the whole service address leaves this host.

import CProc
import Glibc
import SCImage

/// What an offer says of the addresses that would move, after making sure that they can leave: they are on a link, nothing else goes with
/// them, and every session on them is in the move (or `force`).
func takeoverOffer(_ flows: [Flow], force: Bool, in namespace: NetworkNamespace) throws(CheckpointError) -> [ServiceAddress] {
    let wanted = Set(flows.map(\.service.address))
    let all = try ServiceAddress.find(nil, in: namespace)
    let result = try wanted.sorted { $0.description < $1.description }.map { address throws(CheckpointError) -> ServiceAddress in
        guard let own = all.first(where: { $0.address == address && $0.device != "lo" }) else {
            throw CheckpointError(
                "cannot take \(address) to another host", why: "it is on no link of this host, so nobody asks for it by ARP", errno: EADDRNOTAVAIL,
                advice: "Use --steer nft-forward")
        }
        // The kernel deletes the later addresses of a subnet with its first one, unless it is told to promote them (inet_del_ifa).
        let others = all.filter { $0.isSecondary && $0.device == own.device && $0.prefix == own.prefix && own.contains($0.address) }
        if !own.isSecondary, !others.isEmpty, !promotes(own.device, in: namespace) {
            throw CheckpointError(
                "cannot take \(address) to another host", why: "\(others[0].address) would be deleted with it", errno: EBUSY,
                advice: "Set net.ipv4.conf.\(own.device).promote_secondaries to 1")
        }
        return own
    }
    guard !force else { return result }
    let moved = Set(flows)
    let left = try sessions(on: wanted, in: namespace).filter { !moved.contains($0) }
    if let first = left.first {
        throw CheckpointError(
            "cannot take \(first.service.address) to another host",
            why: "\(left.count) of its sessions would be cut off here, the first of \(first.client)", errno: EBUSY,
            advice: "Move them all (--all), use --steer nft-forward, or say arp-takeover,force")
    }
    return result
}

private func promotes(_ device: String, in namespace: NetworkNamespace) -> Bool {
    let value = try? namespace.run { () throws(CheckpointError) in
        ["all", device].contains { readText("/proc/sys/net/ipv4/conf/\($0)/promote_secondaries")?.hasPrefix("1") == true }
    }
    return value ?? false
}

/// Adds, removes and announces addresses on interfaces, without starting a program.
final class AddressKeeper {
    private let route: OwnedDescriptor
    private let packet: OwnedDescriptor
    private let namespace: NetworkNamespace

    init(in namespace: NetworkNamespace) throws(CheckpointError) {
        self.namespace = namespace
        route = OwnedDescriptor(try namespace.run { () throws(CheckpointError) in try check(cproc_rtnl_open(), "cannot talk to rtnetlink") })
        packet = try namespace.socket(family: AF_PACKET, type: Int32(SOCK_RAW.rawValue))
    }

    func index(_ device: String) throws(CheckpointError) -> Int32 {
        try namespace.run { () throws(CheckpointError) in try check(cproc_ifindex(device), "there is no interface \(device)") }
    }

    /// No error when it is there already.
    func add(_ address: IPAddress, prefix: Int, to index: Int32) throws(CheckpointError) {
        var endpoint = SocketAddress(address, port: 0).endpoint
        let result = cproc_address_add(route.raw, index, &endpoint, Int32(prefix))
        if result != -EEXIST { try check(result, "cannot add the address \(address)/\(prefix)") }
        // An IPv6 address becomes local on a kernel thread, a little later (addrconf_dad_work); it waits for the lock that the end of any
        // network namespace holds for a long time.
        let deadline = Deadline(milliseconds: 5000)
        while !isLocal(address), !deadline.hasPassed { pause(microseconds: 100) }
    }

    private func isLocal(_ address: IPAddress) -> Bool {
        var (found, destination) = (cproc_route(), SocketAddress(address, port: 0).endpoint)
        return cproc_route_get(route.raw, &destination, &found) >= 0 && found.type == 2
    }

    /// No error when it is gone already.
    func remove(_ address: IPAddress, prefix: Int, from index: Int32) throws(CheckpointError) {
        var endpoint = SocketAddress(address, port: 0).endpoint
        let result = cproc_address_delete(route.raw, index, &endpoint, Int32(prefix))
        if result != -EADDRNOTAVAIL { try check(result, "cannot remove the address \(address)/\(prefix)") }
    }

    func announce(_ address: IPAddress, on index: Int32) throws(CheckpointError) {
        var endpoint = SocketAddress(address, port: 0).endpoint
        try check(cproc_announce(packet.raw, index, &endpoint), "cannot announce the address \(address)")
    }
}

/// Holds as every driver, and gives the address up in `steer`.
final class TakeoverSteering: SourceSteering {
    private let inner: LinkSteering
    private let keeper: AddressKeeper
    private let addresses: [(text: ServiceAddress, index: Int32)]
    private var isGone = false

    init(_ move: SteeringMove, force: Bool) throws(CheckpointError) {
        guard !move.isSameNamespace, try LinkSteering.nextHop(for: move) != nil else {
            throw CheckpointError(
                "cannot take the address over to \(move.targetName)", why: "none of the target's own addresses is on a link of this host",
                errno: EHOSTUNREACH, advice: "Use --steer tunnel, or name one with --via ADDR")
        }
        let keeper = try AddressKeeper(in: move.namespace)
        addresses = try takeoverOffer(move.flows, force: force, in: move.namespace).map { own throws(CheckpointError) in
            (own, try keeper.index(own.device))
        }
        self.keeper = keeper
        inner = try LinkSteering(move, lasting: false)
    }

    init(adopting record: [String: String], flows: [Flow], in namespace: NetworkNamespace) throws(CheckpointError) {
        let keeper = try AddressKeeper(in: namespace)
        var isGone = false
        addresses = try (record["addresses"] ?? "").split(separator: " ").map { word throws(CheckpointError) in
            // ADDRESS/PREFIX@DEVICE
            let parts = word.split(separator: "@")
            guard parts.count == 2, let (address, prefix) = parsePrefix(parts[0]) else {
                throw CheckpointError("cannot take over the steering", why: "\"\(word)\" is no address", errno: EBADMSG)
            }
            let own = ServiceAddress(address: address, prefix: prefix, device: String(parts[1]), isSecondary: false)
            if try !ServiceAddress.find(address, in: namespace).contains(where: { $0.device == own.device }) { isGone = true }
            return (own, try keeper.index(own.device))
        }
        self.isGone = isGone
        self.keeper = keeper
        inner = try LinkSteering(adopting: record, flows: flows, in: namespace)
    }

    var record: [String: String] {
        let text = addresses.map { "\($0.text.text)@\($0.text.device)" }.joined(separator: " ")
        return inner.record.merging(["driver": "arp-takeover", "addresses": text]) { $1 }
    }

    func freeze() throws(CheckpointError) { try inner.freeze() }

    func steer() throws(CheckpointError) {
        try inner.steer()
        isGone = true
        for (own, index) in addresses { try keeper.remove(own.address, prefix: own.prefix, from: index) }
    }

    func release() throws(CheckpointError) { try inner.release() }

    /// Of ended ones only: they are not worth a word to whoever switches the path.
    func leave(_ flows: [Flow]) throws(CheckpointError) { try inner.leave(flows) }
    func adopt(left: [Flow]) throws(CheckpointError) { try inner.adopt(left: left) }

    func finish() { inner.finish() }

    /// The address is back before the sockets are, and the link hears of it.
    func rollBack() {
        if isGone {
            for (own, index) in addresses {
                try? keeper.add(own.address, prefix: own.prefix, to: index)
                try? keeper.announce(own.address, on: index)
            }
            isGone = false
        }
        inner.rollBack()
    }
}

/// `ADDRESS/PREFIX`; nil for anything else.
func parsePrefix(_ text: some StringProtocol) -> (IPAddress, Int)? {
    let parts = text.split(separator: "/")
    guard parts.count == 2, let address = IPAddress(parts[0]), let prefix = Int(parts[1]), (0...(address.isIPv6 ? 128 : 32)).contains(prefix)
    else { return nil }
    return (address, prefix)
}
