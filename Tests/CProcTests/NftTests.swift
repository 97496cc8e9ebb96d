// nftables elements by raw batches, compared with what the nft program sees.

import CProc
import Foundation
import Glibc
import Testing

private let ruleset = """
    table netdev sccp {
        set hold4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; }
        set hold6 { type ipv6_addr . inet_service . ipv6_addr . inet_service; }
        map fwd4 { type ipv4_addr . inet_service . ipv4_addr . inet_service : ipv4_addr; }
        map fwd6 { type ipv6_addr . inet_service . ipv6_addr . inet_service : ipv6_addr; }
    }
    """

private func change(
    _ add: Bool, _ set: String, _ client: cproc_endpoint, _ service: cproc_endpoint, data: String? = nil
) -> cproc_nft_change {
    var change = cproc_nft_change()
    change.add = add ? 1 : 0
    withUnsafeMutableBytes(of: &change.set) { $0.copyBytes(from: set.utf8) }
    (change.client, change.service) = (client, service)
    if let data = data.map({ endpoint($0).bytes }) {
        change.data_length = UInt8(data.count)
        withUnsafeMutableBytes(of: &change.data) { $0.copyBytes(from: data) }
    }
    return change
}

private let client4 = endpoint("198.51.100.7", 54321)
private let service4 = endpoint("203.0.113.1", 80)
private let client6 = endpoint("2001:db8::7", 54321)
private let service6 = endpoint("2001:db8:1::1", 443)

extension KernelCalls {
    @Suite(.enabled(if: isRoot)) struct Nftables {
        private struct Table {
            let netns: Int32
            let netlink: Int32

            func apply(_ changes: [cproc_nft_change], table: String = "sccp") -> Int32 {
                cproc_nft_apply(netlink, table, changes, UInt32(changes.count))
            }

            /// Elements as nft prints them in JSON: "client.port.service.port", and "=next hop" in a map.
            func elements(of name: String) throws -> Set<String> {
                let kind = name.hasPrefix("fwd") ? "map" : "set"
                let output = try run(["nft", "-j", "list", kind, "netdev", "sccp", name], netns: netns).output
                let json = try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: [[String: Any]]]
                let set = try #require(json?["nftables"]?.compactMap { $0[kind] as? [String: Any] }.first)
                func key(_ value: Any) -> String {
                    let fields = (value as? [String: [Any]])?["concat"] ?? []
                    return fields.map { "\($0)" }.joined(separator: " ")
                }
                let elements = (set["elem"] as? [Any] ?? []).map { element in
                    if let pair = element as? [Any] { return "\(key(pair[0])) = \(pair[1])" }
                    return key(element)
                }
                return Set(elements)
            }
        }

        private func withTable(_ body: (Table) throws -> Void) throws {
            try withNetns { netns in
                try #require(try run(["nft", "-f", "-"], netns: netns, input: ruleset).status == 0)
                let netlink = try check(inNetns(netns) { cproc_nft_open() })
                defer { close(netlink) }
                try body(Table(netns: netns, netlink: netlink))
            }
        }

        private let flow4 = "198.51.100.7 54321 203.0.113.1 80"
        private let flow6 = "2001:db8::7 54321 2001:db8:1::1 443"

        @Test func `elements are added to sets and maps of both families in one transaction, and deleted`() throws {
            try withTable { table in
                let everywhere = { (add: Bool) in
                    [
                        change(add, "hold4", client4, service4),
                        change(add, "hold6", client6, service6),
                        change(add, "fwd4", client4, service4, data: add ? "192.0.2.12" : nil),
                        change(add, "fwd6", client6, service6, data: add ? "fd77::12" : nil),
                    ]
                }
                try check(table.apply(everywhere(true)))
                #expect(try table.elements(of: "hold4") == [flow4])
                #expect(try table.elements(of: "hold6") == [flow6])
                #expect(try table.elements(of: "fwd4") == [flow4 + " = 192.0.2.12"])
                #expect(try table.elements(of: "fwd6") == [flow6 + " = fd77::12"])
                try check(table.apply(everywhere(false)))
                for set in ["hold4", "hold6", "fwd4", "fwd6"] { #expect(try table.elements(of: set) == []) }
            }
        }

        @Test func `all or nothing: one change that fails leaves everything as it was`() throws {
            try withTable { table in
                try check(table.apply([change(true, "hold6", client6, service6)]))
                let missing = change(false, "fwd4", client4, service4)
                let wanted = [change(true, "hold4", client4, service4), change(false, "hold6", client6, service6)]
                #expect(table.apply(wanted + [missing]) == -ENOENT)
                #expect(table.apply([missing] + wanted) == -ENOENT)
                #expect(try table.elements(of: "hold4") == [])
                #expect(try table.elements(of: "hold6") == [flow6])
                // The answers of a failed batch do not spoil the next one.
                try check(table.apply(wanted))
                #expect(try table.elements(of: "hold4") == [flow4])
                #expect(try table.elements(of: "hold6") == [])
            }
        }

        @Test func `adding twice is no error, another next hop is one unless the old is deleted first`() throws {
            try withTable { table in
                let add = change(true, "fwd4", client4, service4, data: "192.0.2.12")
                let move = change(true, "fwd4", client4, service4, data: "192.0.2.13")
                try check(table.apply([add]))
                try check(table.apply([add]))
                #expect([-EBUSY, -EEXIST].contains(table.apply([move])))
                #expect(try table.elements(of: "fwd4") == [flow4 + " = 192.0.2.12"])
                try check(table.apply([change(false, "fwd4", client4, service4), move]))
                #expect(try table.elements(of: "fwd4") == [flow4 + " = 192.0.2.13"])
            }
        }

        @Test func `2000 elements go in one batch`() throws {
            try withTable { table in
                let clients = (0..<2000).map { endpoint("10.1.\($0 / 250).\($0 % 250 + 1)", UInt16(1024 + $0)) }
                try check(table.apply(clients.map { change(true, "hold4", $0, service4) }))
                #expect(try table.elements(of: "hold4") == Set(clients.map { "\($0.host) \($0.port) 203.0.113.1 80" }))
                try check(table.apply(clients.map { change(false, "hold4", $0, service4) }))
                #expect(try table.elements(of: "hold4") == [])
            }
        }

        @Test func `a batch beyond the socket's send buffer is still one transaction`() throws {
            try withTable { table in
                let clients = (0..<6000).map { endpoint("2001:db8::\(String($0, radix: 16))", 1024) }
                let adds = clients.map { change(true, "fwd6", $0, service6, data: "fd77::12") }
                #expect(table.apply(adds + [change(false, "hold6", client6, service6)]) == -ENOENT)
                #expect(try table.elements(of: "fwd6") == [])
                try check(table.apply(adds))
                #expect(try table.elements(of: "fwd6").count == 6000)
            }
        }

        @Test func `what does not exist or fit is refused`() throws {
            try withTable { table in
                let add = change(true, "hold4", client4, service4)
                try check(table.apply([]))
                #expect(table.apply([add], table: "other") == -ENOENT)
                #expect(table.apply([change(true, "nothing", client4, service4)]) == -ENOENT)
                #expect(table.apply([change(true, "hold4", client4, service6)]) == -EINVAL)
                #expect(table.apply([change(true, "hold6", client4, service4)]) == -EINVAL)
                #expect(table.apply([add], table: String(repeating: "t", count: 300)) == -ENAMETOOLONG)
            }
        }
    }
}
