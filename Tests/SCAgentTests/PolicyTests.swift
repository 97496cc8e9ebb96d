// The policy's text: what is understood, and how every mistake is told.

import SCAgent
import SCEngine
import SCImage
import Testing

@Suite struct PolicyTests {
    static let whole = """
        // JSON5: comments, unquoted keys, trailing commas.
        {
          listen: "[::]:7441",
          metrics: "unix:/run/sc-checkpoint/metrics.sock",
          local_users: ["root", "deploy"],
          services: {
            www: {
              ports: [80, 443], addresses: ["198.51.100.1", "2001:db8::1"], peers: ["hostb", 'hostc'],
              accept: [
                {into: "/run/www.sock", user: "www-data"},
                {onto: "nginx", adapter: "http"},
                {onto: "/run/nginx.pid", adapter: "raw"},
                {exec: ["/usr/sbin/server", "--adopt"]},
              ],
            },
          },
          limits: {memory_mib: 64, sessions_in_flight: 100, offers_per_second: 5, connections: 8, hold_seconds: 30},
        }
        """

    @Test func `every key is understood`() throws {
        let policy = try Policy(json5: Array(Self.whole.utf8))
        #expect(policy.listen == SocketAddress(try #require(IPAddress("::")), port: 7441))
        #expect(policy.metrics == .unix("/run/sc-checkpoint/metrics.sock") && policy.localUsers == ["root", "deploy"])
        let www = try #require(policy.services["www"])
        #expect(www.ports == [80, 443] && www.addresses.count == 2 && www.peers == ["hostb", "hostc"])
        #expect(
            www.accept == [
                .into(path: "/run/www.sock", user: "www-data"), .onto(.named("nginx"), adapter: "http"),
                .onto(.pidFile("/run/nginx.pid"), adapter: "raw"),
                .exec(["/usr/sbin/server", "--adopt"]),
            ])
        #expect(policy.limits.memoryMiB == 64 && policy.limits.connections == 8 && policy.limits.holdSeconds == 30)
        #expect(policy.limits.sessionsInFlight == 100 && policy.limits.offersPerSecond == 5)
    }

    @Test func `an empty policy receives nothing and has the defaults`() throws {
        let policy = try Policy(json5: Array("{}".utf8))
        #expect(policy == Policy() && policy.services.isEmpty && policy.localUsers == ["root"] && policy.limits.memoryMiB == 256)
    }

    /// A mistake and words of its message.
    struct Mistake: CustomTestStringConvertible {
        var text: String
        var words: [String]
        var testDescription: String { text }
        init(_ text: String, _ words: String...) { (self.text, self.words) = (text, words) }
        /// In an otherwise good service.
        static func service(_ text: String, _ words: String...) -> Mistake {
            var mistake = Mistake("{services: {www: {\(text)}}}")
            mistake.words = words
            return mistake
        }
        /// In a receiver of an otherwise good service.
        static func receiver(_ text: String, _ words: String...) -> Mistake {
            var mistake = Mistake("{services: {www: {ports: [80], accept: [{exec: ['/bin/a']}, \(text)]}}}")
            mistake.words = words
            return mistake
        }
    }

    @Test(arguments: [
        Mistake("", "no JSON5"), Mistake("{listen: }", "no JSON5"), Mistake("{\n\nlimits: {,}}", "no JSON5", "brackets"),
        Mistake("[]", "the document is a list", "an object"),
        Mistake("{servces: {}}", "no key servces", "Did you mean services?"), Mistake("{zebra: 1}", "no key zebra", "Known here: listen"),
        Mistake("{listen: 7441}", "listen is 7441", "ADDRESS:PORT"), Mistake("{listen: 'hostb:7441'}", "\"hostb:7441\""),
        Mistake("{listen: '[::]'}", "ADDRESS:PORT"),
        Mistake("{listen: '[::]:0'}", "ADDRESS:PORT"), Mistake("{metrics: '0.0.0.0:9441'}", "loopback"),
        Mistake("{metrics: 'unix:run'}", "a path from /"),
        Mistake("{local_users: 'root'}", "local_users is \"root\"", "a list"), Mistake("{local_users: ['']}", "local_users[0] is \"\""),
        Mistake("{limits: {memory_mb: 1}}", "no key limits.memory_mb", "Did you mean memory_mib?"),
        Mistake("{limits: {memory_mib: 0}}", "limits.memory_mib is 0", "1 to 1048576"),
        Mistake("{limits: {memory_mib: 1.5}}", "limits.memory_mib is 1.5"), Mistake("{limits: {connections: '8'}}", "limits.connections is \"8\""),
        Mistake("{limits: {connections: true}}", "limits.connections is true"),
        Mistake("{limits: {hold_seconds: null}}", "limits.hold_seconds is null"),
        Mistake("{limits: {connections: 1e300}}", "limits.connections"), Mistake("{limits: {connections: NaN}}", "limits.connections"),
        Mistake("{services: {'a b': {}}}", "no name of a service"),
        .service("port: [80]", "no key services.www.port", "Did you mean ports?"),
        .service("ports: [80, 70000]", "services.www.ports[1] is 70000", "a port from 1 to 65535"),
        .service("ports: ['80']", "services.www.ports[0] is \"80\""), .service("ports: []", "services.www.ports names no port"),
        .service("accept: []", "services.www.ports names no port"),
        .service("ports: [80], addresses: ['any']", "services.www.addresses[0] is \"any\""),
        .service("ports: [80], orphans: {seconds: -1}", "services.www.orphans.seconds is -1"),
        .service("ports: [80], orphans: {to: ['unix:']}", "services.www.orphans.to[0] is \"unix:\"", "a target"),
        .service("ports: [80], orphans: {for: 1}", "no key services.www.orphans.for"),
        .service("ports: [80]", "services.www.accept names nobody"),
        .service("ports: [80], peers: [1], accept: []", "services.www.peers[0] is 1"),
        .receiver("{}", "services.www.accept[1] has none"), .receiver("{into: '/a', exec: ['/b']}", "accept[1] has more than one"),
        .receiver("{into: 'a.sock'}", "accept[1].into is \"a.sock\"", "a path from /"),
        .receiver("{into: '/a\\u0000b'}", "no JSON5"), .receiver("{onto: 'nginx'}", "accept[1].adapter is missing"),
        .receiver("{onto: 'nginx', adapter: 'htpp'}", "accept[1].adapter is \"htpp\""),
        .receiver("{onto: 'nginx', adapter: 'http', user: 'a'}", "accept[1].user belongs to into"),
        .receiver("{exec: []}", "accept[1].exec does not begin"),
        .receiver("{exec: ['server']}", "accept[1].exec does not begin"),
        .receiver("{exec: ['/a'], usr: 'x'}", "no key services.www.accept[1].usr", "Did you mean user?"),
        .receiver("7", "accept[1] is 7", "an object"),
    ]) func `a mistake is told with its key`(mistake: Mistake) {
        let error = #expect(throws: CheckpointError.self) { try Policy(json5: Array(mistake.text.utf8)) }
        for word in mistake.words { #expect("\(error!)".contains(word), "\(word) is missing in: \(error!)") }
        #expect(error?.errno == 22)
    }
}
