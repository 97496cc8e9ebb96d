// `sessions`: what this host knows of sessions that move, wait, came here or went away, and of those whose servers take part.

import ArgumentParser
import SCAgent
import SCEngine

struct Sessions: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Lists the sessions this host knows of: under way, in doubt, held, restored here, passed on to another host, or served here.",
        discussion: """
            KIND is move (a journal names it), held (by snapshot --take), restored (it came from elsewhere and lives here), forwarded (it lives elsewhere, and
            this host passes its packets on) or served (a server that takes part by libsc has it; the agent knows these). MOVES says of a server's session
            whether it can move: yes, why not, or why it was not parked when that was tried last.

            EXAMPLE
              sc-checkpoint sessions
              sc-checkpoint sessions --json
            """)

    @Flag(name: .long, help: "One JSON document.") var json = false

    private struct Document: Encodable {
        struct Row: Encodable {
            var session: KnownSession

            private enum CodingKeys: CodingKey {
                case kind, client, service, id, seconds, pid, command, other, role, state, server, movable, reason, refusal, refused_seconds
            }

            /// Every key is always there.
            func encode(to encoder: any Encoder) throws {
                var container = encoder.container(keyedBy: CodingKeys.self)
                try container.encode(session.kind.rawValue, forKey: .kind)
                try container.encode(session.flow.client, forKey: .client)
                try container.encode(session.flow.service, forKey: .service)
                try container.encode(session.id, forKey: .id)
                try container.encode(session.age, forKey: .seconds)
                try container.encode(session.pid, forKey: .pid)
                try container.encode(session.command, forKey: .command)
                try container.encode(session.other, forKey: .other)
                try container.encode(session.role?.rawValue, forKey: .role)
                try container.encode(session.state, forKey: .state)
                try container.encode(session.serving?.server, forKey: .server)
                try container.encode(session.serving.map { $0.pin == nil }, forKey: .movable)
                try container.encode(session.serving?.pin, forKey: .reason)
                try container.encode(session.serving?.refusal, forKey: .refusal)
                try container.encode(session.serving?.refused, forKey: .refused_seconds)
            }
        }
        var sessions: [Row]
    }

    func run() throws {
        var sessions = try KnownSession.list()
        add(try AgentClient.registered() ?? [], to: &sessions)
        guard json else {
            return Terminal.table(
                ["KIND", "CLIENT", "SERVICE", "WHERE", "AGE", "ID", "MOVES"],
                sessions.map {
                    [
                        $0.kind.rawValue, $0.flow.client, $0.flow.service, Terminal.clean(Self.place($0)), duration($0.age), $0.id ?? "-",
                        Terminal.clean(Self.standing($0)),
                    ]
                }, right: [4])
        }
        Terminal.json(Document(sessions: sessions.map { .init(session: $0) }))
    }

    /// What the servers say; a session that came from elsewhere is known already.
    private func add(_ registered: [RegisteredSession], to sessions: inout [KnownSession]) {
        var restored: [FlowText: Int] = [:]
        for (index, session) in sessions.enumerated() where session.kind == .restored { restored[session.flow] = index }
        for entry in registered {
            let serving = KnownSession.Serving(server: entry.server, pin: entry.pin, refusal: entry.refusal, refused: entry.refused)
            if let index = restored[FlowText(client: entry.client, service: entry.service)] {
                sessions[index].serving = serving
            } else {
                sessions.append(.served(client: entry.client, service: entry.service, pid: entry.pid, age: entry.seconds, serving))
            }
        }
    }

    /// `812/nginx`, `to tls://hostb`, `from hosta, in doubt`.
    private static func place(_ session: KnownSession) -> String {
        if let pid = session.pid { return "\(pid)/\(session.command ?? "ended")" }
        let way = session.role == .target ? "from" : "to"
        return "\(way) \(session.other ?? "?")\(session.state.map { ", \($0)" } ?? "")"
    }

    /// `yes`, `no: it is a TLS connection`, `yes, refused 12s ago: its connection is being closed`.
    private static func standing(_ session: KnownSession) -> String {
        guard let serving = session.serving else { return "-" }
        if let pin = serving.pin { return "no: \(pin)" }
        guard let refusal = serving.refusal else { return "yes" }
        return "yes, refused \(duration(serving.refused ?? 0)) ago: \(refusal)"
    }
}

/// Seconds in the largest unit that leaves a number: `59s`, `12m`, `3h`, `8d`.
func duration(_ seconds: Int) -> String {
    for (length, unit) in [(86_400, "d"), (3600, "h"), (60, "m")] where seconds >= length { return "\(seconds / length)\(unit)" }
    return "\(seconds)s"
}
