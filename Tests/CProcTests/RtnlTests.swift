// Neighbours, routes, addresses and policy rules, compared with what the ip program sees.

import CProc
import Glibc
import Testing

extension KernelCalls {
    @Suite(.enabled(if: isRoot)) struct Routing {
        /// A namespace with two interfaces, sccp-a (10.77.1.1/24, fd77:1::1/64) and its other end sccp-b.
        private func withLinks(_ body: (_ netns: Int32, _ netlink: Int32, _ ifindex: Int32) throws -> Void) throws {
            try withNetns { netns in
                let script = """
                    ip link add sccp-a type veth peer name sccp-b && ip link set sccp-a up && ip link set sccp-b up &&
                    ip addr add 10.77.1.1/24 dev sccp-a && ip addr add fd77:1::1/64 dev sccp-a nodad &&
                    ip route add default via 10.77.1.254 && ip link add sccp-down type veth peer name sccp-peer &&
                    ip addr add 10.77.9.1/24 dev sccp-down
                    """
                try #require(try run(["sh", "-c", script], netns: netns).status == 0)
                let netlink = try check(inNetns(netns) { cproc_rtnl_open() })
                defer { close(netlink) }
                try body(netns, netlink, try check(inNetns(netns) { cproc_ifindex("sccp-a") }))
            }
        }

        @Test(arguments: ["10.77.1.5", "fd77:1::5"]) func `a neighbour becomes permanent and goes again`(address: String) throws {
            try withLinks { netns, netlink, ifindex in
                var neighbour = endpoint(address)
                func listed() throws -> String { try run(["ip", "neigh", "show", "to", address], netns: netns).output }
                for last: UInt8 in [1, 2] {
                    try check(cproc_neigh_set(netlink, ifindex, &neighbour, [2, 0x77, 0xaa, 0, 0, last]))
                    let line = try listed()
                    #expect(line.contains("dev sccp-a lladdr 02:77:aa:00:00:0\(last)") && line.contains("PERMANENT"))
                }
                try check(cproc_neigh_delete(netlink, ifindex, &neighbour))
                #expect(try listed() == "")
                try check(cproc_neigh_delete(netlink, ifindex, &neighbour))
                #expect(cproc_neigh_set(netlink, 9999, &neighbour, [2, 0, 0, 0, 0, 1]) == -ENODEV)
            }
        }

        @Test func `a packet that waits for its neighbour is released by it`() throws {
            try withLinks { netns, netlink, ifindex in
                let sender = try check(cproc_socket_in(netns, AF_INET, datagram, 0))
                // AF_PACKET with ETH_P_IP in network order sees what arrives on the other end.
                let tap = try check(cproc_socket_in(netns, AF_PACKET, datagram, Int32(UInt16(0x0800).bigEndian)))
                defer { closeAll([sender, tap]) }
                var neighbour = endpoint("10.77.1.5", 9)
                try check(cproc_connect(sender, &neighbour))
                try write(sender, "waits")
                #expect(cproc_poll(tap, Int16(POLLIN), 50) == 0)
                try check(cproc_neigh_set(netlink, ifindex, &neighbour, [2, 0x77, 0xaa, 0, 0, 1]))
                #expect(try read(tap).hasSuffix("waits"))
            }
        }

        @Test func `routes tell type, interface, gateway and source`() throws {
            try withLinks { _, netlink, ifindex in
                func route(_ address: String) throws -> cproc_route {
                    var (destination, route) = (endpoint(address), cproc_route())
                    try check(cproc_route_get(netlink, &destination, &route))
                    return route
                }
                let local = try route("10.77.1.1")
                #expect(local.type == 2 && local.ifindex == 1)
                let neighbour = try route("10.77.1.5")
                #expect(neighbour.type == 1 && neighbour.ifindex == ifindex && neighbour.gateway.family == 0)
                #expect(neighbour.preferred_source.host == "10.77.1.1")
                let far = try route("203.0.113.9")
                #expect(far.type == 1 && far.ifindex == ifindex && far.gateway.host == "10.77.1.254")
                let six = try route("fd77:1::5")
                #expect(six.type == 1 && six.ifindex == ifindex && six.preferred_source.host == "fd77:1::1")
                #expect(try route("::1").type == 2)
                var (unreachable, none) = (endpoint("2001:db8::1"), cproc_route())
                #expect(cproc_route_get(netlink, &unreachable, &none) == -ENETUNREACH)
            }
        }

        @Test func `an IPv4 route may lead through an IPv6 gateway`() throws {
            try withLinks { netns, netlink, ifindex in
                try run(["ip", "route", "add", "198.51.100.0/24", "via", "inet6", "fe80::1", "dev", "sccp-a"], netns: netns)
                var (destination, route) = (endpoint("198.51.100.1"), cproc_route())
                try check(cproc_route_get(netlink, &destination, &route))
                #expect(route.gateway.host == "fe80::1" && route.gateway.scope == UInt32(ifindex))
            }
        }

        @Test func `addresses of interfaces that are up are listed`() throws {
            try withLinks { netns, netlink, ifindex in
                typealias Found = [String: (prefix: Int32, ifindex: Int32, scope: UInt32)]
                var found: Found = [:]
                let answer = withUnsafeMutablePointer(to: &found) {
                    cproc_addresses(
                        netlink,
                        { address, prefix, ifindex, context in
                            let found = context!.assumingMemoryBound(to: Found.self)
                            found.pointee[address!.pointee.host] = (prefix, ifindex, address!.pointee.scope)
                            return 0
                        }, $0)
                }
                try check(answer)
                #expect(try #require(found["127.0.0.1"]) == (8, 1, 0))
                #expect(try #require(found["::1"]) == (128, 1, 0))
                #expect(try #require(found["10.77.1.1"]) == (24, ifindex, 0))
                #expect(try #require(found["fd77:1::1"]) == (64, ifindex, 0))
                #expect(found["10.77.9.1"] == nil, "sccp-down")
                #expect(found.filter { $0.key.hasPrefix("fe80:") }.allSatisfy { $0.value.scope == UInt32($0.value.ifindex) })
                #expect(cproc_addresses(netlink, { _, _, _, _ in 5 }, nil) == 5)
            }
        }

        @Test(arguments: [AF_INET, AF_INET6]) func `marked packets find everything local, once, and no longer`(family: Int32) throws {
            try withLinks { netns, netlink, _ in
                let (mark, table, priority) = (UInt32(0x5c), UInt32(7700), UInt32(90))
                let flag = family == AF_INET ? "-4" : "-6"
                func rules() throws -> [Substring] {
                    try run(["ip", flag, "rule"], netns: netns).output.split(separator: "\n").filter { $0.contains("fwmark") }
                }
                func routes() throws -> String { try run(["ip", flag, "route", "show", "table", "7700"], netns: netns).output }
                for _ in 0..<2 {
                    try check(cproc_mark_local_add(netlink, UInt16(family), mark, table, priority))
                    #expect(try rules().map { $0.filter { $0 != "\t" && $0 != " " } } == ["90:fromallfwmark0x5clookup7700"])
                    #expect(try routes().hasPrefix("local default dev lo"))
                }
                let marked = ["ip", flag, "route", "get", family == AF_INET ? "203.0.113.9" : "2001:db8::9", "mark", "0x5c"]
                #expect(try run(marked, netns: netns).output.hasPrefix("local "))
                for _ in 0..<2 {
                    try check(cproc_mark_local_delete(netlink, UInt16(family), mark, table, priority))
                    #expect(try rules().isEmpty && routes().isEmpty)
                }
                #expect(try !run(marked, netns: netns).output.hasPrefix("local "))
            }
        }

        @Test func `interfaces have names and numbers`() throws {
            try withLinks { netns, _, ifindex in
                var name = [CChar](repeating: 0, count: 16)
                try check(inNetns(netns) { cproc_ifname(ifindex, &name) })
                #expect(text(name) == "sccp-a")
                #expect(cproc_ifindex("lo") == 1)
                #expect(cproc_ifindex("sccp-none") == -ENODEV)
                #expect(cproc_ifname(99999, &name) == -ENXIO)
            }
        }
    }
}
