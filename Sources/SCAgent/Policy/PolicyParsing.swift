// From the policy file's text to its value; every mistake is told with the key that has it.

import Glibc
import SCEngine
import SCImage

extension Policy {
    /// Parses a JSON5 document.
    package init(json5 bytes: [UInt8]) throws(CheckpointError) {
        let top = try PolicyNode(bytes).object(["listen", "metrics", "local_users", "services", "limits", "archive"])
        if let node = top["listen"] { listen = try node.endpoint() }
        if let node = top["metrics"] { metrics = try node.metricsAddress() }
        if let node = top["local_users"] { localUsers = try node.texts("a user's name") }
        for (name, node) in try top["services"]?.object() ?? [:] {
            guard name.utf8.count <= 64, !name.isEmpty, name.utf8.allSatisfy(isNameByte) else {
                throw PolicyNode.mistake("\"\(name)\" is no name of a service", advice: "Use letters, digits, dots, dashes and underscores")
            }
            services[name] = try Service(node)
        }
        if let node = top["limits"] { limits = try Limits(node) }
        if let node = top["archive"] { archive = try FailureArchive(node) }
    }
}

extension Policy.Service {
    fileprivate init(_ node: PolicyNode) throws(CheckpointError) {
        let keys = try node.object(["ports", "addresses", "peers", "accept", "server_users", "orphans"])
        for port in try keys["ports"]?.list() ?? [] { ports.insert(UInt16(try port.number(in: 1...65535, "a port"))) }
        guard !ports.isEmpty else {
            throw PolicyNode.mistake("\(node.path).ports names no port", advice: "A service is known by its ports: ports: [80]")
        }
        for element in try keys["addresses"]?.list() ?? [] {
            guard let address = IPAddress(try element.text("an IPv4 or IPv6 address")) else { throw element.mistake("an IPv4 or IPv6 address") }
            addresses.insert(address.unmapped)
        }
        peers = Set(try keys["peers"]?.texts("a peer's name") ?? [])
        serverUsers = try keys["server_users"]?.texts("a user's name")
        if let node = keys["orphans"] {
            let keys = try node.object(["seconds", "to"])
            if let node = keys["seconds"] { orphanSeconds = try node.number(in: 0...86_400) }
            for element in try keys["to"]?.list() ?? [] {
                let text = try element.text("a target")
                guard TargetAddress(text) != nil else { throw element.mistake("a target such as \"tls://hostb\"") }
                orphansTo.append(text)
            }
        }
        for element in try keys["accept"]?.list() ?? [] { accept.append(try Policy.Receiver(element)) }
        guard !accept.isEmpty else {
            throw PolicyNode.mistake(
                "\(node.path).accept names nobody who receives", advice: "For example accept: [{into: \"/run/server.sock\", user: \"www-data\"}]")
        }
    }
}

extension Policy.Receiver {
    fileprivate init(_ node: PolicyNode) throws(CheckpointError) {
        let keys = try node.object(["into", "user", "onto", "adapter", "exec", "server"])
        let ways = ["into", "onto", "exec", "server"].filter { keys[$0] != nil }
        guard ways.count == 1 else {
            throw PolicyNode.mistake(
                "\(node.path) has \(ways.isEmpty ? "none" : "more than one") of into, onto, exec and server", advice: "Give exactly one")
        }
        for (key, way) in [("user", "into"), ("adapter", "onto")] where keys[key] != nil && ways[0] != way {
            throw PolicyNode.mistake("\(node.path).\(key) belongs to \(way), not to \(ways[0])")
        }
        if let server = keys["server"] {
            guard case .flag(true) = server.tree else { throw server.mistake("true") }
            self = .server
        } else if let path = keys["into"] {
            let text = try path.text("the path of a Unix socket")
            guard text.hasPrefix("/") || text.hasPrefix("@") else { throw path.mistake("a path from / (or @name)") }
            self = .into(path: text, user: try keys["user"]?.text("a user's name"))
        } else if let server = keys["onto"] {
            let text = try server.text("a program's name or the path of a PID file")
            guard let adapter = keys["adapter"] else {
                throw PolicyNode.mistake("\(node.path).adapter is missing", advice: "Say what knows the server's protocol: adapter: \"http\"")
            }
            let name = try adapter.text("an adapter's name")
            guard (try? SCEngine.adapter(named: name)) != nil else { throw adapter.mistake("the name of an adapter, http or raw,") }
            self = .onto(text.hasPrefix("/") ? .pidFile(text) : .named(text), adapter: name)
        } else {
            let command = try keys["exec"]?.texts("a word of a command") ?? []
            // The agent's PATH is nobody's to choose.
            guard command.first?.hasPrefix("/") == true else {
                throw PolicyNode.mistake("\(node.path).exec does not begin with the path of a program", advice: "For example [\"/usr/sbin/server\"]")
            }
            self = .exec(command)
        }
    }
}

extension Policy.Limits {
    fileprivate init(_ node: PolicyNode) throws(CheckpointError) {
        let keys = try node.object(["memory_mib", "sessions_in_flight", "offers_per_second", "connections", "hold_seconds"])
        if let node = keys["memory_mib"] { memoryMiB = try node.number(in: 1...1_048_576) }
        if let node = keys["sessions_in_flight"] { sessionsInFlight = try node.number(in: 1...1_000_000) }
        if let node = keys["offers_per_second"] { offersPerSecond = try node.number(in: 1...100_000) }
        if let node = keys["connections"] { connections = try node.number(in: 1...65_536) }
        if let node = keys["hold_seconds"] { holdSeconds = try node.number(in: 1...86_400) }
    }
}

extension PolicyNode {
    /// `ADDRESS:PORT`, IPv6 in brackets.
    fileprivate func endpoint() throws(CheckpointError) -> SocketAddress {
        let text = try text("ADDRESS:PORT")
        guard let peer = PeerFilter(text), let port = peer.port, port > 0 else { throw mistake("ADDRESS:PORT, IPv6 in brackets,") }
        return SocketAddress(peer.address, port: port)
    }

    fileprivate func metricsAddress() throws(CheckpointError) -> Policy.MetricsAddress {
        let text = try text("unix:PATH or ADDRESS:PORT")
        if text.hasPrefix("unix:") {
            guard text.hasPrefix("unix:/") else { throw mistake("unix: and a path from /") }
            return .unix(String(text.dropFirst(5)))
        }
        let address = try endpoint()
        let bytes = address.address.unmapped.bytes
        guard bytes.count == 4 ? bytes[0] == 127 : bytes == Array(repeating: 0, count: 15) + [1] else {
            throw mistake("an address of loopback (or unix:PATH)")
        }
        return .tcp(address)
    }
}

private func isNameByte(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"): true
    default: [UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_")].contains(byte)
    }
}
