// `sessions`: what this host knows of sessions that move, wait, came here or went away.

import ArgumentParser
import SCEngine

struct Sessions: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Lists the sessions this host knows of: under way, in doubt, held, restored here, or passed on to another host.",
        discussion: """
            KIND is move (a journal names it), held (by snapshot --take), restored (it came from elsewhere and lives here) or forwarded (it lives elsewhere, and
            this host passes its packets on). Works without an agent.

            EXAMPLE
              sc-checkpoint sessions
              sc-checkpoint sessions --json
            """)

    @Flag(name: .long, help: "One JSON document.") var json = false

    private struct Document: Encodable {
        struct Row: Encodable {
            var kind, client, service, id: String
            var seconds: Int
            var pid: Int32?
            var command, other, role, state: String?

            private enum CodingKeys: CodingKey { case kind, client, service, id, seconds, pid, command, other, role, state }

            /// Every key is always there.
            func encode(to encoder: any Encoder) throws {
                var container = encoder.container(keyedBy: CodingKeys.self)
                try container.encode(kind, forKey: .kind)
                try container.encode(client, forKey: .client)
                try container.encode(service, forKey: .service)
                try container.encode(id, forKey: .id)
                try container.encode(seconds, forKey: .seconds)
                try container.encode(pid, forKey: .pid)
                try container.encode(command, forKey: .command)
                try container.encode(other, forKey: .other)
                try container.encode(role, forKey: .role)
                try container.encode(state, forKey: .state)
            }
        }
        var sessions: [Row]
    }

    func run() throws {
        let sessions = try KnownSession.list()
        guard json else {
            return Terminal.table(
                ["KIND", "CLIENT", "SERVICE", "WHERE", "AGE", "ID"],
                sessions.map {
                    [$0.kind.rawValue, $0.flow.client, $0.flow.service, Terminal.clean(Self.place($0)), duration($0.age), $0.id]
                }, right: [4])
        }
        Terminal.json(
            Document(
                sessions: sessions.map {
                    .init(
                        kind: $0.kind.rawValue, client: $0.flow.client, service: $0.flow.service, id: $0.id, seconds: $0.age, pid: $0.pid,
                        command: $0.command, other: $0.other, role: $0.role?.rawValue, state: $0.state)
                }))
    }

    /// `812/nginx`, `to tls://hostb`, `from hosta, in doubt`.
    private static func place(_ session: KnownSession) -> String {
        if let pid = session.pid { return "\(pid)/\(session.command ?? "ended")" }
        let way = session.role == .target ? "from" : "to"
        return "\(way) \(session.other ?? "?")\(session.state.map { ", \($0)" } ?? "")"
    }
}

/// Seconds in the largest unit that leaves a number: `59s`, `12m`, `3h`, `8d`.
func duration(_ seconds: Int) -> String {
    for (length, unit) in [(86_400, "d"), (3600, "h"), (60, "m")] where seconds >= length { return "\(seconds / length)\(unit)" }
    return "\(seconds)s"
}
