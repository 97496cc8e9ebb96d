// Every steering driver: a verified stream is moved to the other host and, where it makes sense, back; and a move that is declined costs only the hold.

import Glibc
import Support
import Testing

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct SteeringTests {
    @Test(arguments: Family.allCases) func `nft-forward: there and back`(family: Family) throws {
        let stream = try SteeredStream("nft-forward", family)
        try stream.decline([])
        try stream.move([])
        try stream.move([])
        try stream.finish()
    }

    // MARK: tunnel

    @Test(arguments: Family.allCases) func `tunnel: to a host on another subnet, and back`(family: Family) throws {
        let stream = try SteeredStream("tunnel", family, split: true)
        try stream.world.refuses(
            .a,
            ["migrate", String(stream.pid), "--to", "unix:\(stream.world.receiver(on: .b))"] + stream.arguments
                + ["--exec", "--", "/bin/true"], naming: "--steer tunnel")
        try stream.decline(["--steer", "tunnel"])
        for _ in 0..<2 {
            try stream.move(["--steer", "tunnel"])
            let links = try stream.world.lab.run(in: .b, ["ip", "-o", "link"]).stdout
            #expect(links.contains("sctunnel"))
            try stream.move(["--steer", "tunnel"])
        }
        // Both ends went with the flow, although nobody cleaned up.
        for host in [Lab.Host.a, .b] {
            let links = try stream.world.lab.run(in: host, ["ip", "-o", "link"]).stdout
            #expect(!links.contains("sct"), "\(links)")
        }
        try stream.finish()
    }

    @Test func `tunnel: over IPv6 between the hosts, under a strict reverse path filter`() throws {
        let stream = try SteeredStream("tunnel over IPv6", .ipv4, split: true) { lab in
            try lab.setting(.b, "ipv4/conf/all/rp_filter", "1")
        }
        try stream.move(["--steer", "tunnel", "--via", stream.world.lab.address(.b, .ipv6)])
        try #expect(stream.world.lab.run(in: .a, ["ip", "-d", "link", "show", "type", "vxlan"]).stdout.contains("remote fd79::12"))
        try stream.move(["--steer", "tunnel"])
        try stream.finish()
    }

    // MARK: arp-takeover

    /// The service address on A's link, and nowhere else, and no route of the router to it.
    private func ownAddress(_ lab: Lab) throws {
        for host in [Lab.Host.a, .b] {
            for family in Family.allCases {
                _ = try lab.check(in: host, ["ip", "address", "delete", lab.serviceAddress(family), "dev", "lo"])
            }
            // The usual setting, with which a host answers ARP for the addresses of all its interfaces.
            try lab.setting(host, "ipv4/conf/all/arp_ignore", "0")
        }
        for family in Family.allCases {
            let bits = family == .ipv4 ? "24" : "64"
            _ = try lab.check(
                in: .a, ["ip", "address", "add", "\(lab.serviceAddress(family))/\(bits)", "dev", "eth0"] + (family == .ipv6 ? ["nodad"] : []))
            _ = try lab.check(in: .router, ["ip", family == .ipv4 ? "-4" : "-6", "route", "delete", lab.serviceAddress(family)])
        }
    }

    @Test(arguments: Family.allCases) func `arp-takeover: the address goes there and back with its only session`(family: Family) throws {
        let stream = try SteeredStream("arp-takeover", family, ownAddress)
        let lab = stream.world.lab
        let address = lab.serviceAddress(family)
        func owners() throws -> [Lab.Host] {
            try [Lab.Host.a, .b].filter { try lab.run(in: $0, ["ip", "-o", "address"]).stdout.contains(" \(address)/") }
        }
        try stream.decline(["--steer", "arp-takeover"])
        try #expect(owners() == [.a])
        for target in [Lab.Host.b, .a] {
            try stream.move(["--steer", "arp-takeover"])
            try #expect(owners() == [target])
            let line = try lab.run(in: target, ["ip", "-o", "address", "show", "dev", "eth0"]).stdout
            #expect(line.contains("\(address)/\(family == .ipv4 ? 24 : 64) "), "\(line)")
        }
        try stream.finish()
    }

    @Test func `arp-takeover: refuses to cut off other sessions, unless it is told to`() throws {
        let stream = try SteeredStream("arp-takeover,force", .ipv4, ownAddress)
        let other = try stream.world.lab.listen(on: .a, stream.world.lab.serviceAddress(.ipv4), 7001)
        let client = try stream.world.lab.connect(from: .client, to: stream.world.lab.serviceAddress(.ipv4), 7001)
        defer { for fd in [client, other] { close(fd) } }
        let command = ["migrate", String(stream.pid), "--to", "unix:\(try stream.world.receiver(on: .b))"] + stream.arguments
        try stream.world.refuses(
            .a, command + ["--steer", "arp-takeover", "--exec", "--", "/bin/true"], naming: "1 of its sessions would be cut off", "EBUSY")
        try stream.move(["--steer", "arp-takeover,force"])
        try stream.move(["--steer", "arp-takeover,force"])
        try stream.finish()
    }

    @Test func `arp-takeover: an address that no link has is refused`() throws {
        let stream = try SteeredStream("arp-takeover", .ipv4)
        try stream.world.refuses(
            .a,
            ["migrate", String(stream.pid), "--to", "unix:\(stream.world.receiver(on: .b))"] + stream.arguments
                + ["--steer", "arp-takeover", "--exec", "--", "/bin/true"], naming: "it is on no link of this host", "EADDRNOTAVAIL")
        try stream.finish()
    }

    // MARK: router

    @Test(arguments: Family.allCases, [false, true]) func `router: there and back, on one subnet or on two`(family: Family, split: Bool) throws {
        let stream = try SteeredStream("router\(split ? ", split" : "")", family, split: split)
        let lab = stream.world.lab
        let path = "\(lab.folder)/router"
        let router = try lab.spawn(in: .router, [TwoHosts.program, "steer-router", "--listen", path])
        try #require(router.waitForOutputOrError("listening"))
        let steer = ["--steer", "router:unix:\(path)"]
        try stream.decline(steer)
        try stream.move(steer)
        let rules = try lab.run(in: .router, ["nft", "list", "ruleset"]).stdout
        #expect(rules.contains(" : \(lab.address(.b, family))"), "\(rules)")
        try #expect(!lab.run(in: .a, ["nft", "list", "ruleset"]).stdout.contains("sc_checkpoint"))
        try stream.move(steer)
        #expect(
            eventually(within: .seconds(2)) { (try? lab.run(in: .router, ["nft", "list", "ruleset"]).stdout.contains("sc_checkpoint")) == false })
        router.terminate()
        try stream.finish()
    }

    @Test func `router: by ssh`() throws {
        let stream = try SteeredStream("router by ssh", .ipv4)
        let sshd = try Sshd(stream.world.lab, on: .router)
        let steer = [
            "--steer", "router:\(sshd.target)", "--rsh", "ssh -F \(sshd.configPath)", "--remote-program", TwoHosts.program,
        ]
        try stream.decline(steer)
        try stream.move(steer)
        try stream.move(steer)
        sshd.stop()
        try stream.finish()
    }

    @Test func `router: that cannot be asked, or reaches no target, is known before anything is frozen`() throws {
        let stream = try SteeredStream("router", .ipv4)
        let command = ["migrate", String(stream.pid), "--to", "unix:\(try stream.world.receiver(on: .b))"] + stream.arguments
        let adopt = ["--exec", "--", "/bin/true"]
        try stream.world.refuses(.a, command + ["--steer", "router:unix:/nowhere/router"] + adopt, naming: "cannot reach the router", "ENOENT")
        try stream.world.refuses(.a, command + ["--steer", "router:r", "--rsh", "/bin/false"] + adopt, naming: "the router r is gone")
        try stream.finish()
    }

    // MARK: exec

    private func program(_ lab: Lab, _ name: String, _ cases: String) throws -> String {
        let path = "\(lab.folder)/\(name)"
        try writeFile(
            path,
            """
            #!/bin/sh
            log=\(lab.folder)/steer.log
            echo "start $SC_SERVICE_ADDRESS $SC_TARGET_ADDRESS" >> $log
            while read -r word rest && [ -n "$word" ]; do echo "$word $rest" >> $log; done
            while read -r verb; do
                echo "$verb" >> $log
                case $verb in
                \(cases)
                *) echo ok ;;
                esac
            done
            echo end >> $log

            """, mode: 0o755)
        return path
    }

    /// Points the router's route at the target.
    private func switching(_ lab: Lab) -> String {
        "steer) ip -n \(lab.namespace(.router)) route replace $SC_SERVICE_ADDRESS via $SC_TARGET_ADDRESS dev br0; echo ok ;;"
    }

    @Test(arguments: Family.allCases) func `exec: a user's program switches the router, and is started once`(family: Family) throws {
        let stream = try SteeredStream("exec", family)
        let lab = stream.world.lab
        let script = try program(lab, "steer", switching(lab))
        try stream.decline(["--steer", "exec:\(script)"])
        try stream.move(["--steer", "exec:\(script)"])
        try stream.move(["--steer", "exec:\(script)"])
        let log = readText("\(lab.folder)/steer.log").split(separator: "\n").map(String.init)
        let (service, client) = (lab.serviceAddress(family), lab.address(.client, family))
        let flow = try #require(log.first { $0.hasPrefix("flow ") })
        #expect(flow.hasPrefix("flow \(client) ") && flow.hasSuffix(" \(service) 7000"), "\(log)")
        let (a, b) = (lab.address(.a, family), lab.address(.b, family))
        let expected =
            ["start \(service) \(b)", flow, "freeze", "rollback", "end"]
            + ["start \(service) \(b)", flow, "freeze", "steer", "release", "end"]
            + ["start \(service) \(a)", flow, "freeze", "steer", "release", "end"]
        #expect(log == expected, "\(log)")
        try stream.finish()
    }

    @Test(arguments: ["freeze) echo error no router today ;;", "freeze) exit 0 ;;", "freeze) sleep 5 ;;"])
    func `exec: a program that fails leaves the session where it is`(cases: String) throws {
        let stream = try SteeredStream("exec", .ipv4)
        let script = try program(stream.world.lab, "steer", cases)
        try stream.world.refuses(
            .a,
            ["migrate", String(stream.pid), "--to", "unix:\(stream.world.receiver(on: .b))", "--deadline", "1000", "--steer", "exec:\(script)"]
                + stream.arguments + ["--exec", "--", "/bin/true"], naming: "the steering program")
        try stream.finish(gap: 1500)
    }

    // MARK: crash

    @Test(arguments: ["nft-forward", "none", "tunnel", "arp-takeover", "router", "exec"])
    func `a source that is killed while it holds the packets: another process gives the stream back`(driver: String) throws {
        let stream = try SteeredStream("crash: \(driver)", .ipv4, split: driver == "tunnel") { lab in
            if driver == "arp-takeover" { try ownAddress(lab) }
        }
        let lab = stream.world.lab
        var router: Child?
        var choice = driver
        if driver == "router" {
            router = try lab.spawn(in: .router, [TwoHosts.program, "steer-router", "--listen", "\(lab.folder)/router"])
            try #require(router?.waitForOutputOrError("listening") == true)
            choice = "router:unix:\(lab.folder)/router"
        }
        if driver == "exec" { choice = "exec:\(try program(lab, "steer", switching(lab)))" }
        try stream.crash(["--steer", choice])
        if driver == "exec" {
            let log = readText("\(lab.folder)/steer.log").split(separator: "\n").filter { !$0.hasPrefix("flow") && !$0.hasPrefix("start") }
            #expect(log.filter { $0 == "freeze" }.count == 1 && log.contains("rollback"), "\(log)")
        }
        if driver != "none" {
            try stream.move(["--steer", choice])
            try stream.move(["--steer", choice])
        }
        router?.terminate()
        try stream.finish(gap: 5000)
    }
}
