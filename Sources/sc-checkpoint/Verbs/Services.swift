// `services`: what the policy names, who could receive it now, and which processes of this host serve it.

import ArgumentParser
import SCAgent
import SCEngine

struct Services: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Lists the services of this host's policy: who receives them, and the processes that serve them with their sessions.",
        discussion: "EXAMPLE\n  sc-checkpoint services\n  sc-checkpoint services --config ./agent.json5 --json")

    @Option(name: .long, help: ArgumentHelp("The policy.", valueName: "FILE")) var config = Policy.defaultPath
    @Flag(name: .long, help: "One JSON document.") var json = false

    private struct Document: Encodable {
        struct Accept: Encodable {
            var kind, name: String
            var adapter, user, reason: String?
            var ready: Bool
            var pid: Int32?

            private enum CodingKeys: CodingKey { case kind, name, adapter, user, reason, ready, pid }

            /// Every key is always there.
            func encode(to encoder: any Encoder) throws {
                var container = encoder.container(keyedBy: CodingKeys.self)
                try container.encode(kind, forKey: .kind)
                try container.encode(name, forKey: .name)
                try container.encode(adapter, forKey: .adapter)
                try container.encode(user, forKey: .user)
                try container.encode(reason, forKey: .reason)
                try container.encode(ready, forKey: .ready)
                try container.encode(pid, forKey: .pid)
            }
        }
        struct Server: Encodable {
            var pid: Int32
            var command: String
            var sessions: Int
        }
        struct Service: Encodable {
            var name: String
            var ports: [UInt16]
            var addresses, peers: [String]
            var accept: [Accept]
            var servers: [Server]
        }
        var services: [Service]
    }

    func run() throws {
        var found: [Document.Service] = []
        for (name, service) in try Policy.load(config).services.sorted(by: { $0.key < $1.key }) {
            let receivers = service.accept.map { ReceiverState($0, service: name) }
            let servers = try ServiceSockets(ports: service.ports, addresses: service.addresses).servers
            found.append(
                .init(
                    name: name, ports: service.ports.sorted(), addresses: service.addresses.map(\.description).sorted(),
                    peers: service.peers.sorted(),
                    accept: receivers.map {
                        .init(
                            kind: $0.kind.rawValue, name: $0.name, adapter: $0.adapter, user: $0.user, reason: $0.reason, ready: $0.isReady,
                            pid: $0.pid)
                    }, servers: servers.map { .init(pid: $0.pid, command: $0.command, sessions: $0.sessions) }))
        }
        json ? Terminal.json(Document(services: found)) : printTable(found)
    }

    private func printTable(_ services: [Document.Service]) {
        if services.isEmpty { return Terminal.print("the policy \(config) names no service") }
        Terminal.table(
            ["SERVICE", "PORTS", "PEERS", "RECEIVED BY", "SERVED BY", "SESSIONS"],
            services.map { service in
                [
                    service.name, service.ports.map { String($0) }.joined(separator: ","),
                    service.peers.isEmpty ? "-" : service.peers.joined(separator: ","),
                    service.accept.map { "\($0.kind) \($0.name)\($0.ready ? "" : " (\($0.reason ?? "not ready"))")" }.joined(separator: ", "),
                    service.servers.isEmpty ? "-" : service.servers.map { "\($0.pid)/\($0.command)" }.joined(separator: ","),
                    String(service.servers.reduce(0) { $0 + $1.sessions }),
                ]
            }, right: [5])
    }
}
