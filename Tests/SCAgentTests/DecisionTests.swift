// What the policy says to offers, as a table.

import SCAgent
import SCEngine
import SCImage
import Testing

@Suite struct DecisionTests {
    static let policy: Policy = {
        let text = """
            {
              services: {
                www: {ports: [80, 443], addresses: ["198.51.100.1", "2001:db8::1"], peers: ["hostb"], accept: [
                  {into: "/run/www.sock", user: "www-data"}, {onto: "nginx", adapter: "http"}, {exec: ["/usr/sbin/server", "--adopt"]}]},
                redis: {ports: [6379], peers: ["hostb", "hostc"], accept: [{onto: "/run/redis.pid", adapter: "raw"}, {into: "@redis"}]},
                ghost: {ports: [1], peers: ["hostb"], accept: [{into: "/run/ghost", user: "nobody-at-all"}]},
                down: {ports: [2], peers: ["hostb"], accept: [{onto: "downd", adapter: "raw"}]},
              },
              local_users: ["root", "www-data"],
              limits: {memory_mib: 1, sessions_in_flight: 4},
            }
            """
        return try! Policy(json5: Array(text.utf8))
    }()

    static let lookup = Lookup(
        pids: { $0 == .named("nginx") ? [790, 791] : $0 == .pidFile("/run/redis.pid") ? [55] : [] },
        uid: { ["root": 0, "www-data": 33][$0] })

    struct Case: CustomTestStringConvertible {
        var name: String
        var peer: String? = "hostb"
        var ends = ["198.51.100.1:80"]
        var handover: Handover? = .service(name: "www")
        var bytes: UInt64 = 0
        var load = Load()
        var result: Result
        var testDescription: String { name }

        enum Result {
            case accept(String, Handover, UInt32? = nil)
            case refuse(Decision.Check, [String])
        }
    }

    private static func path(_ text: String) -> Handover { .into(path: Array(text.utf8)) }
    private static let server = Handover.exec(arguments: ["/usr/sbin/server", "--adopt"].map { Array($0.utf8) })
    private static let www = Case.Result.accept("www", path("/run/www.sock"), 33)
    private static let nginx = Handover.onto(pid: 791, adapter: "http", options: ["state=00"])

    @Test(arguments: [
        Case(name: "a service's first receiver", result: www),
        Case(name: "from this host itself", peer: nil, result: www),
        Case(name: "IPv6", ends: ["[2001:db8::1]:443"], result: www),
        Case(name: "several flows", ends: ["198.51.100.1:80", "[2001:db8::1]:443"], result: www),
        Case(
            name: "a server by its PID file", ends: ["203.0.113.5:6379"], handover: .service(name: "redis"),
            result: .accept("redis", .onto(pid: 55, adapter: "raw", options: []))),
        Case(name: "the receiver by name", handover: path("/run/www.sock"), result: www),
        Case(
            name: "an abstract socket", ends: ["203.0.113.5:6379"], handover: .into(path: [0] + Array("redis".utf8)),
            result: .accept("redis", .into(path: [0] + Array("redis".utf8)))),
        Case(name: "a command", handover: server, result: .accept("www", server)),
        Case(name: "a worker of the server, with what the adapter knows", handover: nginx, result: .accept("www", nginx)),

        Case(name: "no receiver", handover: nil, result: .refuse(.handover, ["EBADMSG"])),
        Case(name: "no flow", ends: [], result: .refuse(.handover, ["EBADMSG"])),
        Case(name: "no such service", handover: .service(name: "ftp"), result: .refuse(.service, ["no service ftp", "ENOENT"])),
        Case(name: "a peer that is not named", peer: "hostc", result: .refuse(.peer, ["hostc may not send", "services.www.peers", "EACCES"])),
        Case(name: "a peer that is not named, by receiver", peer: "hostd", handover: server, result: .refuse(.peer, ["hostd may not send"])),
        Case(name: "another port", ends: ["198.51.100.1:22"], result: .refuse(.flow, ["198.51.100.1:22 does not belong to service www"])),
        Case(name: "another address", ends: ["198.51.100.2:80"], result: .refuse(.flow, ["198.51.100.2:80"])),
        Case(name: "one flow of two", ends: ["198.51.100.1:80", "198.51.100.1:22"], result: .refuse(.flow, [":22", "and 1 more"])),
        Case(name: "flows of two services", ends: ["198.51.100.1:80", "198.51.100.1:6379"], handover: server, result: .refuse(.flow, [])),
        Case(
            name: "the receiver of another service", handover: .into(path: [0] + Array("redis".utf8)),
            result: .refuse(.receiver, ["service www is not received by"])),
        Case(name: "a path that begins alike", handover: path("/run/www.sock2"), result: .refuse(.receiver, [])),
        Case(
            name: "a command with one more argument", handover: .exec(arguments: ["/usr/sbin/server", "--adopt", "-x"].map { Array($0.utf8) }),
            result: .refuse(.receiver, [])),
        Case(name: "another process", handover: .onto(pid: 1, adapter: "http", options: []), result: .refuse(.receiver, ["--onto 1"])),
        Case(name: "another adapter", handover: .onto(pid: 790, adapter: "raw", options: []), result: .refuse(.receiver, [])),
        Case(
            name: "a user that does not exist", ends: ["198.51.100.1:1"], handover: .service(name: "ghost"), result: .refuse(.user, ["nobody-at-all"])
        ),
        Case(
            name: "a server that does not run", ends: ["198.51.100.1:2"], handover: .service(name: "down"),
            result: .refuse(.process, ["downd does not run", "ESRCH"])),
        Case(name: "too many sessions", load: Load(sessions: 4), result: .refuse(.sessions, ["4 are allowed", "EAGAIN"])),
        Case(name: "just enough room", load: Load(sessions: 3), result: www),
        Case(name: "too many bytes", bytes: 1 << 20 + 1, result: .refuse(.memory, ["1 MiB", "ENOMEM"])),
        Case(name: "bytes beyond counting", bytes: .max, load: Load(bytes: 1), result: .refuse(.memory, ["1 MiB"])),
        Case(name: "just enough bytes", bytes: 1 << 19, load: Load(bytes: 1 << 19), result: www),
    ]) func `an offer is decided`(test: Case) throws {
        var offer = Offer()
        offer.handover = test.handover
        offer.queueBytes = test.bytes
        for end in test.ends {
            let service = try #require(PeerFilter(end))
            let client = try #require(IPAddress(service.address.isIPv6 ? "2001:db8::7" : "192.0.2.7"))
            offer.flows.append(Flow(client: SocketAddress(client, port: 4000), service: SocketAddress(service.address, port: service.port ?? 0)))
        }
        let decision = Self.policy.decide(peer: test.peer, offer: offer, load: test.load, lookup: Self.lookup)
        switch (decision, test.result) {
        case (.accept(let acceptance), .accept(let service, let handover, let user)):
            #expect(acceptance.service == service && acceptance.handover == handover && acceptance.acceptorUser == user, "\(acceptance)")
        case (.refuse(let check, let error), .refuse(let expected, let words)):
            #expect(check == expected, "\(error)")
            #expect(error.outcome == .unchanged && error.errno != 0 && !error.advice.isEmpty)
            for word in words { #expect("\(error)".contains(word), "\(word) is missing in: \(error)") }
        default: Issue.record("\(decision)")
        }
    }

    @Test func `an empty policy refuses everything`() {
        var offer = Offer()
        offer.flows = [Flow(local: SocketAddress(IPAddress(ipv4: 1), port: 80), peer: SocketAddress(IPAddress(ipv4: 2), port: 4000))]
        for handover in [Self.server, .service(name: "www"), Self.nginx] {
            offer.handover = handover
            guard case .refuse(.service, _) = Policy().decide(peer: nil, offer: offer, lookup: Self.lookup) else {
                Issue.record("\(handover) was accepted")
                return
            }
        }
    }

    @Test func `local users are admitted by name`() {
        #expect([0, 33].allSatisfy { Self.policy.admits(user: $0, lookup: Self.lookup) })
        #expect(!Self.policy.admits(user: 1000, lookup: Self.lookup))
        #expect(Policy().admits(user: 0) && !Policy().admits(user: 65534))
    }

    @Test func `this host's processes are found by program`() {
        let found = Lookup.system.pids(.named("systemd-does-not-exist"))
        #expect(found.isEmpty && Lookup.system.pids(.pidFile("/nowhere.pid")).isEmpty && Lookup.system.uid("root") == 0)
    }

    @Test func `offers are limited to so many in a second`() {
        var limit = RateLimit(perSecond: 20, now: 0)
        func burst(_ count: Int, at now: UInt64) -> Int { (0..<count).filter { _ in limit.allows(at: now) }.count }
        #expect(burst(30, at: 0) == 20)
        #expect(burst(1, at: 49_999_999) == 0)
        #expect(burst(2, at: 50_000_000) == 1)
        #expect(burst(100, at: 3_600_000_000_000) == 20)
        // A clock that steps back gives nothing.
        #expect(burst(1, at: 0) == 0)
    }

    @Test func `sessions for registered servers go to the agent's own acceptor, and only named users register`() throws {
        let text = """
            {services: {live: {ports: [80], peers: ["hostb"], accept: [{server: true}], server_users: ["www-data"]},
              open: {ports: [81], accept: [{server: true}]}}, local_users: ["adm"]}
            """
        let policy = try Policy(json5: Array(text.utf8))
        let lookup = Lookup(pids: { _ in [] }, uid: { ["www-data": 33, "adm": 4][$0] })
        var offer = Offer()
        offer.flows = [Flow(client: SocketAddress(IPAddress("192.0.2.1")!, port: 9), service: SocketAddress(IPAddress("192.0.2.2")!, port: 80))]
        offer.handover = .service(name: "live")
        guard case .accept(let acceptance) = policy.decide(peer: "hostb", offer: offer, lookup: lookup), case .into(let path) = acceptance.handover
        else {
            Issue.record("the offer is refused")
            return
        }
        #expect(String(decoding: path, as: UTF8.self).hasSuffix("/servers/live.sock"))
        for (uid, isLive, isOpen) in [(0, true, true), (33, true, false), (4, false, true), (1000, false, false)] {
            #expect(policy.admits(server: UInt32(uid), of: policy.services["live"]!, lookup: lookup) == isLive)
            #expect(policy.admits(server: UInt32(uid), of: policy.services["open"]!, lookup: lookup) == isOpen)
        }
        #expect(throws: CheckpointError.self) { try Policy(json5: Array("{services: {x: {ports: [1], accept: [{server: false}]}}}".utf8)) }
    }
}
