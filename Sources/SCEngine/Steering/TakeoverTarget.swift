// The target's half of the driver `arp-takeover`: the service address comes to this host.

import CProc
import Glibc
import SCImage

/// Has the address at once, as sockets must be bound to it, but does not say so on the link before the sockets live.
final class TakeoverTarget: TargetSteering {
    private struct Arrival {
        var address: IPAddress
        /// The source's: with it the address keeps its on-link route.
        var prefix: Int
        var device: String
        var index: Int32
        /// lo did not have it (as a host behind a load balancer does): it goes from there in the end.
        var isNewOnLoopback: Bool
    }

    private static let loopback: Int32 = 1
    private static let table = "sc_checkpoint_takeover"
    private let namespace: NetworkNamespace
    private let keeper: AddressKeeper
    private let lock: StateLock
    private let arrivals: [Arrival]
    private let inner: ReturningSteering
    var addresses: [AddressPrefix] { inner.addresses }
    var isReturning: Bool { inner.isReturning }

    /// `texts` are the source's addresses with their prefix lengths.
    init(_ flows: [Flow], moving texts: [Substring], in namespace: NetworkNamespace) throws(CheckpointError) {
        self.namespace = namespace
        inner = try ReturningSteering(flows, in: namespace, search: true)
        guard !inner.isReturning else {
            throw CheckpointError(
                "cannot take the address over to \(hostName())", why: "it passes these flows on today, so it is not the source that they reach first",
                errno: EBUSY, advice: "Use --steer nft-forward for the way back")
        }
        let keeper = try AddressKeeper(in: namespace)
        let here = try ServiceAddress.find(nil, in: namespace)
        arrivals = try texts.map { text throws(CheckpointError) in
            guard let (address, prefix) = parsePrefix(text) else {
                throw CheckpointError("the offer is malformed", why: "\"\(text)\" is no address", errno: EBADMSG)
            }
            if let other = here.first(where: { $0.address == address && $0.device != "lo" }) {
                throw CheckpointError(
                    "cannot take \(address) over", why: "\(hostName()) has it on \(other.device) already", errno: EADDRINUSE,
                    advice: "Two hosts on one link cannot both have it")
            }
            // The link of the subnet that the address belongs to.
            guard let device = here.first(where: { $0.device != "lo" && $0.prefix > 0 && $0.contains(address) })?.device else {
                throw CheckpointError(
                    "cannot take \(address) over", why: "no interface of \(hostName()) is in its subnet", errno: EADDRNOTAVAIL,
                    advice: "Use --steer tunnel")
            }
            return Arrival(
                address: address, prefix: prefix, device: device, index: try keeper.index(device),
                isNewOnLoopback: !here.contains { $0.address == address })
        }
        self.keeper = keeper
        lock = try StateLock(namespace: namespace)
        do throws(CheckpointError) {
            try loadSilence()
            for arrival in arrivals where arrival.isNewOnLoopback {
                try keeper.add(arrival.address, prefix: arrival.address.isIPv6 ? 128 : 32, to: Self.loopback)
            }
        } catch {
            giveBack()
            throw error
        }
    }

    init(adopting record: [String: String], flows: [Flow], in namespace: NetworkNamespace) throws(CheckpointError) {
        self.namespace = namespace
        inner = try ReturningSteering(flows, in: namespace, search: false)
        let keeper = try AddressKeeper(in: namespace)
        lock = try StateLock(namespace: namespace)
        arrivals = try (record["addresses"] ?? "").split(separator: " ").map { word throws(CheckpointError) in
            // ADDRESS/PREFIX@DEVICE, with a "+" when lo had it before
            let parts = word.split(separator: "@")
            guard parts.count == 2, let (address, prefix) = parsePrefix(parts[0]) else {
                throw CheckpointError("cannot take over the steering", why: "\"\(word)\" is no address", errno: EBADMSG)
            }
            let device = parts[1].filter { $0 != "+" }
            return Arrival(
                address: address, prefix: prefix, device: device, index: try keeper.index(device), isNewOnLoopback: !parts[1].hasSuffix("+"))
        }
        self.keeper = keeper
    }

    var record: [String: String] {
        let text = arrivals.map { "\($0.address)/\($0.prefix)@\($0.device)\($0.isNewOnLoopback ? "" : "+")" }.joined(separator: " ")
        return ["driver": "arp-takeover", "addresses": text]
    }

    /// A host answers ARP for an address of any of its interfaces (arp_ignore 0); neighbour discovery asks the interface alone, and needs no rule.
    private func loadSilence() throws(CheckpointError) {
        let devices = Set(arrivals.filter { !$0.address.isIPv6 }.map(\.device))
        guard !devices.isEmpty else { return }
        var text = "add table netdev \(Self.table)\ndelete table netdev \(Self.table)\ntable netdev \(Self.table) {\n"
        for (number, device) in devices.sorted().enumerated() {
            text += "  chain in\(number) { type filter hook ingress device \"\(device)\" priority -400; policy accept;\n"
            for arrival in arrivals where arrival.device == device && !arrival.address.isIPv6 {
                text += "    arp operation request arp daddr ip \(arrival.address) drop\n"
            }
            text += "  }\n"
        }
        try runChecked(["nft", "-f", "-"], input: text + "}\n", in: namespace)
    }

    private func endSilence() { _ = try? runCommand(["nft", "delete", "table", "netdev", Self.table], in: namespace) }

    func park() throws(CheckpointError) {}

    func activate() throws(CheckpointError) {
        for arrival in arrivals { try keeper.add(arrival.address, prefix: arrival.prefix, to: arrival.index) }
    }

    func release() throws(CheckpointError) {
        for arrival in arrivals { try keeper.announce(arrival.address, on: arrival.index) }
    }

    /// Once more, for a host that has missed it.
    func finish() {
        endSilence()
        for arrival in arrivals {
            try? keeper.announce(arrival.address, on: arrival.index)
            if arrival.isNewOnLoopback {
                try? keeper.remove(arrival.address, prefix: arrival.address.isIPv6 ? 128 : 32, from: Self.loopback)
            }
        }
    }

    func giveBack() {
        for arrival in arrivals {
            try? keeper.remove(arrival.address, prefix: arrival.prefix, from: arrival.index)
            if arrival.isNewOnLoopback {
                try? keeper.remove(arrival.address, prefix: arrival.address.isIPv6 ? 128 : 32, from: Self.loopback)
            }
        }
        endSilence()
    }
}
