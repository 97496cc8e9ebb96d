// How a lab is wired: namespaces first, then their settings (so that every link inherits them), then links, addresses and routes.

internal import CSupport
internal import Glibc

extension Lab {
    /// Builds everything with five runs of `ip`.
    func build() throws(LabError) {
        try Lab.ip(nil, Host.allCases.map { "netns add \(namespace($0))" })
        for host in Host.allCases {
            let fd = open("/run/netns/\(namespace(host))", O_RDONLY | O_CLOEXEC)
            guard fd >= 0 else { throw .errno("cannot open namespace \(namespace(host))", errno) }
            state.withLock { $0.handles[host] = fd }
            let result = csupport_write_sysctls(fd, settings(host))
            guard result >= 0 else { throw .errno("cannot write the settings of \(namespace(host))", result) }
        }
        try Lab.ip(namespace(.router), routerLines)
        // Without it a packet that steering holds at the router's ingress is still the client's own buffer, and the client's TCP waits for it
        // instead of retransmitting, which no real network would make it do. (Behind the router's IP layer the kernel has let go of it anyway.)
        // The client also loses its segmentation offload to it, so the wire carries packets of at most 1500 bytes.
        let wire = csupport_attach_xdp_pass(handle(.router), link(.router))
        guard wire == 0 else { throw .errno("cannot attach the wire program to the router", wire) }
        try Lab.ip(namespace(.client), lines(of: .client, gateway: ["10.78.0.1", "fd78::1"]))
        for host in [Host.a, .b] {
            let service = ["address add \(serviceAddress(.ipv4)) dev lo", "address add \(serviceAddress(.ipv6)) dev lo nodad"]
            try Lab.ip(
                namespace(host), lines(of: host, gateway: isSplit && host == .b ? ["10.79.0.1", "fd79::1"] : ["10.77.0.1", "fd77::1"]) + service)
        }
        for host in Host.allCases { try waitForAddress(of: host) }
    }

    /// IPv6 addresses become local on a kernel thread, a little later; what is compared with this moment must not see them come.
    private func waitForAddress(of host: Host) throws(LabError) {
        let own = host == .router ? "fd78::1" : address(host, .ipv6)
        let isLocal = eventually(within: .seconds(5)) {
            (try? self.run(in: host, ["ip", "-6", "route", "show", "table", "local"]).stdout.contains("local \(own) ")) ?? false
        }
        guard isLocal else { throw LabError("\(own) does not become local on \(host.rawValue)") }
    }

    private func settings(_ host: Host) -> String {
        var lines = [
            // Addresses are usable at once: no duplicate address detection, no router advertisements.
            "ipv6/conf/all/accept_dad=0", "ipv6/conf/default/accept_dad=0",
            "ipv6/conf/all/accept_ra=0", "ipv6/conf/default/accept_ra=0",
            "ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0",
        ]
        switch host {
        case .client:
            break
        case .router:
            lines += [
                "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv4/conf/all/send_redirects=0",
                "ipv4/conf/default/send_redirects=0",
            ]
        case .a, .b:
            lines += ["ipv4/conf/all/arp_ignore=1", "ipv4/conf/all/arp_announce=2"]
        }
        return lines.map { $0 + "\n" }.joined()
    }

    /// The router with the switch in it, and the far ends of all links.
    private var routerLines: [String] {
        (isSplit ? ["link add br1 address 02:79:00:00:00:01 type bridge mcast_snooping 0"] : []) + [
            "link set lo up",
            "link add br0 address 02:77:00:00:00:01 type bridge mcast_snooping 0",
            "link add eth1 address 02:78:00:00:00:01 type veth peer name eth0 address 02:78:00:00:00:02 netns \(namespace(.client))",
            "link add port-a address 02:77:00:00:01:11 type veth peer name eth0 address 02:77:00:00:00:11 netns \(namespace(.a))",
            "link add port-b address 02:77:00:00:01:12 type veth peer name eth0 address 02:77:00:00:00:12 netns \(namespace(.b))",
            "link set port-a master br0 up", "link set port-b master \(isSplit ? "br1" : "br0") up", "link set br0 up", "link set eth1 up",
            "address add 10.77.0.1/24 dev br0", "address add fd77::1/64 dev br0 nodad",
            "address add 10.78.0.1/24 dev eth1", "address add fd78::1/64 dev eth1 nodad",
        ] + (isSplit ? ["link set br1 up", "address add 10.79.0.1/24 dev br1", "address add fd79::1/64 dev br1 nodad"] : [])
            + Family.allCases.map { "route add \(serviceAddress($0)) via \(address(.a, $0)) dev br0" }
    }

    /// Loopback, the one link with its addresses, and the default routes.
    private func lines(of host: Host, gateway: [String]) -> [String] {
        [
            "link set lo up", "link set eth0 up",
            "address add \(address(host, .ipv4))/24 dev eth0", "address add \(address(host, .ipv6))/64 dev eth0 nodad",
            "route add default via \(gateway[0]) dev eth0", "route add default via \(gateway[1]) dev eth0",
        ]
    }
}
