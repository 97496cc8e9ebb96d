// The fence, with a real etcd: exactly one of two targets, a dead server, a dead target, a restart.

import Glibc
import SCEngine
import Support
import Testing

@Suite(.serialized) struct FenceTests {
    private let keys = (0..<3).map { "session-\($0)" }

    private func expect(_ errno: Int32, _ words: String..., at location: SourceLocation = #_sourceLocation, _ body: () throws -> Void) {
        let error = #expect(throws: CheckpointError.self, sourceLocation: location) { try body() }
        #expect(error?.errno == errno, "\(error!)", sourceLocation: location)
        for word in words { #expect("\(error!)".contains(word), "\(word) is missing in: \(error!)", sourceLocation: location) }
    }

    @Test func `a session goes from host to host, and its record with it`() throws {
        let etcd = try EtcdServer()
        let b = try etcd.fence()
        try b.prepare(keys, owner: "hostb", source: "hosta")
        #expect(try etcd.owner(keys[0]) == nil)
        try b.take()
        #expect(try etcd.owner(keys[0]) == "hostb leased")
        try b.settle()
        #expect(try etcd.owner(keys[2]) == "hostb")
        // On to a third, from the host that has it; the first no longer can give it away.
        let c = try etcd.fence()
        expect(EBUSY, "hostb has it, not hosta") { try c.prepare(keys, owner: "hostc", source: "hosta") }
        try c.prepare(keys, owner: "hostc", source: "hostb")
        try c.take()
        // What fails goes back to how it was.
        c.undo()
        #expect(try etcd.owner(keys[1]) == "hostb")
        try c.prepare(keys, owner: "hostc", source: "hostb")
        try c.take()
        try c.settle()
        // Only the owner releases.
        try b.release(keys, owner: "hostb")
        #expect(try etcd.owner(keys[0]) == "hostc")
        try c.release(keys, owner: "hostc")
        #expect(try etcd.owner(keys[0]) == nil)
    }

    @Test func `what does not come is not taken`() throws {
        let etcd = try EtcdServer()
        let fence = try etcd.fence()
        try fence.prepare(keys, owner: "hostb", source: "hosta")
        fence.withdraw([keys[1]])
        try fence.take()
        try fence.settle()
        #expect(try etcd.owner(keys[0]) == "hostb" && etcd.owner(keys[1]) == nil && etcd.owner(keys[2]) == "hostb")
    }

    @Test func `of two that take at once exactly one wins, also over several transactions`() async throws {
        let etcd = try EtcdServer()
        let many = (0..<300).map { "many-\($0)" }
        for (round, sessions) in [keys, keys, keys, many, many].enumerated() {
            let names = sessions.map { "\(round)-\($0)" }
            let address = try etcd.address
            let winners = await withTaskGroup(of: String?.self) { group in
                for host in ["hostb", "hostc", "hostd"] {
                    group.addTask {
                        // Time is not what is tested here: one that gave up would be no winner, and might have kept the others from being one.
                        let fence = try? EtcdFence(address, limit: 20_000)
                        guard let fence else { return nil }
                        do {
                            try fence.prepare(names, owner: host, source: "hosta")
                            try fence.take()
                            try fence.settle()
                            return host
                        } catch {
                            fence.undo()
                            #expect((error as? CheckpointError)?.errno == EBUSY, "\(error)")
                            return nil
                        }
                    }
                }
                return await group.reduce(into: [String]()) { if let host = $1 { $0.append(host) } }
            }
            #expect(winners.count == 1, "\(winners)")
            for name in [names[0], names[names.count / 2], names[names.count - 1]] { #expect(try etcd.owner(name) == winners.first) }
        }
    }

    @Test func `a loser leaves no record of its own`() throws {
        let etcd = try EtcdServer()
        let (b, c) = (try etcd.fence(), try etcd.fence())
        // More than one transaction: the first part is free, the second is not.
        let sessions = (0..<200).map { String("k\(1000 + $0)") }
        try c.prepare(sessions, owner: "hostc", source: "hosta")
        try b.prepare([sessions[199]], owner: "hostb", source: "hosta")
        try b.take()
        expect(EBUSY, "hostb has taken it") { try c.take() }
        c.undo()
        #expect(try etcd.owner(sessions[0]) == nil && etcd.owner(sessions[199]) == "hostb leased")
        expect(EBUSY, "another move to hostb is under way") { try c.prepare(sessions, owner: "hostc", source: "hosta") }
        try b.settle()
    }

    @Test func `no answer is no permission`() throws {
        let etcd = try EtcdServer()
        let fence = try etcd.fence(limit: 500)
        try fence.prepare(keys, owner: "hostb", source: "hosta")
        // Stopped, it keeps the connection and says nothing.
        etcd.kill(SIGSTOP)
        let start = monotonicNanoseconds()
        expect(ETIMEDOUT, "gives no permission", "move without --fence") { try fence.take() }
        #expect(monotonicNanoseconds() - start < 1_000_000_000)
        etcd.kill(SIGCONT)
        etcd.kill()
        expect(ECONNREFUSED, "gives no permission") { try etcd.fence().prepare(keys, owner: "hostb", source: "hosta") }
        // After a restart the records are as they were: the lost request has left none, or one of the migration that gave up, which its lease ends.
        try etcd.start()
        let again = try etcd.fence(lifetime: 2)
        let isFree = eventually(within: .seconds(60), every: .milliseconds(500)) {
            (try? again.prepare(self.keys, owner: "hostc", source: "hosta")) != nil
        }
        try #require(isFree)
        try again.take()
        try again.settle()
        etcd.kill()
        try etcd.start()
        #expect(try etcd.owner(keys[0]) == "hostc")
        expect(EBUSY, "hostc has it") { try etcd.fence().prepare(keys, owner: "hostb", source: "hosta") }
    }

    @Test func `the records of a target that died are free after its lease, and not before`() throws {
        let etcd = try EtcdServer()
        // A keeper that is never late would keep it for ever, so the target "dies" as a stopped process of its own would: by revoking nothing.
        let script = """
            import base64, json, sys, urllib.request
            def post(path, body): return json.load(urllib.request.urlopen("http://127.0.0.1:%s/v3/%s" % (sys.argv[1], path), json.dumps(body).encode(), 5))
            lease = post("lease/grant", {"TTL": "2"})["ID"]
            b64 = lambda text: base64.b64encode(text.encode()).decode()
            post("kv/put", {"key": b64("sc/session-1"), "value": b64('{"migration":"0","owner":"hostb"}'), "lease": lease})
            """
        #expect(try runCommand(["/usr/bin/python3", "-c", script, String(etcd.port)]).status == 0)
        let c = try etcd.fence()
        expect(EBUSY, "session-1", "another move to hostb is under way") { try c.prepare(keys, owner: "hostc", source: "hosta") }
        #expect(eventually(within: .seconds(10), every: .milliseconds(200)) { (try? c.prepare(keys, owner: "hostc", source: "hosta")) != nil })
        try c.take()
        try c.settle()
        #expect(try etcd.owner("session-1") == "hostc")
    }

    @Test func `a lease is kept as long as the move lasts, and its loss is noticed`() throws {
        let etcd = try EtcdServer()
        let fence = try etcd.fence(lifetime: 2)
        try fence.prepare(keys, owner: "hostb", source: "hosta")
        try fence.take()
        usleep(4_500_000)
        #expect(try etcd.owner(keys[0]) == "hostb leased")
        #expect(try runCommand(["/usr/bin/python3", "-c", Self.delete, String(etcd.port)]).status == 0)
        expect(ESTALE, "the fence was lost") { try fence.settle() }
        fence.undo()
        #expect(try etcd.owner(keys[1]) == nil)
    }

    private static let delete = """
        import base64, json, sys, urllib.request
        body = json.dumps({"key": base64.b64encode(b"sc/session-0").decode()}).encode()
        urllib.request.urlopen("http://127.0.0.1:%s/v3/kv/deleterange" % sys.argv[1], body, 5)
        """

    @Test func `a member that is down is passed over`() throws {
        let etcd = try EtcdServer()
        let fence = try EtcdFence(EtcdAddress("etcd://127.0.0.1:1,127.0.0.1:\(etcd.port)/sc"))
        try fence.prepare(keys, owner: "hostb", source: "hosta")
        try fence.take()
        try fence.settle()
        #expect(try etcd.owner(keys[0]) == "hostb")
    }

    @Test(arguments: [
        "", "etcd://", "etcd://127.0.0.1:2379", "etcd://127.0.0.1:2379/", "etcd://127.0.0.1/x", "etcd://:2379/x", "etcd://a:0/x", "etcd://a:1,/x",
        "zk://a:1/x",
        "etcd://a@b:1/x", "etcd://::1:2379/x", "etcd://[nonsense]:2379/x",
    ]) func `what is no fence is refused`(text: String) {
        expect(EINVAL, "--fence \(text)") { _ = try EtcdAddress(text) }
    }

    @Test func `fences have members and a prefix`() throws {
        let address = try EtcdAddress("etcd://a.example:2379,[2001:db8::1]:2380/prod/sc")
        #expect(address.members == ["a.example:2379", "[2001:db8::1]:2380"] && address.prefix == "prod/sc")
    }
}
