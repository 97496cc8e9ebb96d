// The observers: a capture sees what happened on the wire, and leftovers are found wherever they are planted.

import Glibc
@testable import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct ObservationTests {
    @Test(arguments: Family.allCases) func `a capture sees data, ends and a reset that was provoked`(family: Family) throws {
        let lab = try Lab()
        defer { lab.down() }
        let address = lab.serviceAddress(family)
        let server = try lab.spawn(in: .a, [Lab.program("sc-stream"), "server", address, "9000"])
        try server.waitForOutput("listening")
        let capture = try Capture(lab)
        let result = try lab.check(in: .client, [Lab.program("sc-stream"), "client", address, "9000", "--bytes", "2000000"])
        #expect(throws: LabError.self) { try lab.connect(from: .client, to: address, 9999) }
        let report = capture.stop()
        #expect(report.dropped == 0)
        #expect(report.resetsToClient == 1)
        #expect(report.resetsFromClient == 0)
        #expect(report.endsFromServer == 1)
        #expect(report.endsFromClient == 1)
        #expect(report.bytesFromClient >= 2_000_000)
        #expect(report.bytesFromServer >= (number("received", in: result) ?? .max))
        #expect(report.largestGapFromServer > .zero && report.largestGapFromServer < .seconds(1))
    }

    @Test func `only an RST that comes after a whole end is none`() {
        func segment(_ isOutgoing: Bool, _ sequence: UInt32, ack: UInt32, fin: Bool = false, syn: Bool = false, rst: Bool = false) -> Segment {
            Segment(
                time: 0, isOutgoing: isOutgoing, ownPort: 5000, peerPort: 80, sequence: sequence, acknowledgement: ack, payload: 0, window: 1,
                isFIN: fin, isSYN: syn, isRST: rst)
        }
        func resets(_ segments: [Segment]) -> Int { CaptureReport(segments, dropped: 0).resetsToClient }
        let reset = segment(false, 201, ack: 0, rst: true)
        let ends = [segment(true, 100, ack: 200, fin: true), segment(false, 200, ack: 101, fin: true), segment(true, 101, ack: 201)]
        #expect(resets([reset]) == 1)
        #expect(resets([ends[0], ends[1], reset]) == 1)
        #expect(resets(Array(ends[1...]) + [reset]) == 1)
        #expect(resets(ends + [reset]) == 0)
        #expect(resets(ends + [segment(true, 900, ack: 0, syn: true), reset]) == 1)
    }

    @Test func `packets held on the way are retransmitted, as on a real wire`() throws {
        let lab = try Lab()
        defer { lab.down() }
        let listener = try lab.listen(on: .a, lab.serviceAddress(.ipv4), 9000)
        let client = try lab.connect(from: .client, to: lab.serviceAddress(.ipv4), 9000)
        let server = try Lab.accept(listener)
        defer { for fd in [listener, client, server] { close(fd) } }
        // Everything for the service waits, before the router's IP sees it, for a neighbour that never answers.
        let links = "link add hold0 type veth peer name hold1\nlink set hold0 up\nlink set hold1 up\n"
        try lab.check(in: .router, ["ip", "-batch", "-"], stdin: .text(links))
        let rules = """
            table netdev hold {
                chain wire { type filter hook ingress device eth1 priority 0; tcp dport 9000 fwd ip to 169.254.77.2 device hold0; }
            }
            """
        try lab.check(in: .router, ["nft", "-f", "-"], stdin: .text(rules))
        let capture = try Capture(lab)
        #expect(write(client, "held", 4) == 4)
        usleep(700_000)
        let report = capture.stop()
        #expect(report.bytesFromClient > 4)
        #expect(report.retransmissionsFromClient >= 1)
    }

    @Test func `a clean machine has no leftovers, and each planted one is found`() throws {
        let lab = try Lab()
        defer { lab.down() }
        let folder = lab.folder + "/planted/"
        let sleeper = try lab.spawn(in: .b, ["sleep", "60"])
        let listener = try lab.listen(on: .a, lab.serviceAddress(.ipv4), 9000)
        let client = try lab.connect(from: .client, to: lab.serviceAddress(.ipv4), 9000)
        let connection = try Lab.accept(listener)
        defer { for fd in [listener, client, connection] { close(fd) } }
        let holder = try lab.spawn(in: .a, ["sleep", "60"], passing: [connection])
        let before = try Leftovers.snapshot(of: lab, files: [folder])
        #expect(try before.check() == [])

        try lab.check(in: .a, ["nft", "add table inet sc-test; add chain inet sc-test freeze"])
        try lab.check(in: .b, ["ip", "rule", "add", "fwmark", "7", "lookup", "77"])
        try lab.check(in: .b, ["ip", "-6", "route", "add", "fd99::/64", "dev", "eth0", "table", "77"])
        try lab.check(in: .router, ["ip", "link", "add", "hold0", "type", "veth", "peer", "name", "hold1"])
        try lab.check(in: .router, ["ip", "route", "del", lab.serviceAddress(.ipv6)])
        try lab.setting(.a, "ipv4/ip_nonlocal_bind", "1")
        try lab.check(in: nil, ["mkdir", folder])
        try writeFile(folder + "image", "x")
        sleeper.signal(SIGSTOP)
        // A classic filter of one instruction, "return 0": code 6, k 0. SO_ATTACH_FILTER takes {length, pointer}.
        var drop: UInt64 = 6
        withUnsafeMutablePointer(to: &drop) { pointer in
            let program = [1, UInt(bitPattern: pointer)]
            #expect(setsockopt(connection, SOL_SOCKET, SO_ATTACH_FILTER, program, 16) == 0)
        }
        var on: Int32 = 1
        #expect(setsockopt(connection, Int32(IPPROTO_TCP), TCP_REPAIR, &on, socklen_t(MemoryLayout<Int32>.size)) == 0)

        let found = try before.check()
        let wanted = [
            "a: nft: table inet sc-test {", "b: rule: 32765:\tfrom all fwmark 0x7 lookup 77", "b: route: fd99::/64 dev eth0 table 77",
            "router: link: hold0", "router: link: hold1", "gone: router: route: fd77::100", "a: setting: ipv4/ip_nonlocal_bind = 1",
            "file \(folder)image", "b: process \(sleeper.pid) (sleep) is stopped",
            "a: process \(holder.pid) (sleep) descriptor 3 has a socket filter",
            "a: process \(holder.pid) (sleep) descriptor 3 is in repair mode",
        ]
        for leftover in wanted { #expect(found.contains { $0.hasPrefix(leftover) }, "\(leftover) is not in \(found)") }

        try lab.check(in: .a, ["nft", "delete table inet sc-test"])
        #expect(try before.check().count < found.count)
    }
}
