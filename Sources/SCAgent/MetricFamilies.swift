// The families that the agent exposes: a contract with whoever has dashboards and alerts.

import SCEngine

extension Metrics.Family {
    /// In the order of the exposition.
    package static let all: [Metrics.Family] = [
        .buildInfo, .migrations, .sessionsMoved, .refusals, .stageDuration, .blackout, .heldSessions, .sessionsInFlight, .connections,
        .connectionsAccepted, .peerFailures,
    ]

    package static let buildInfo = gauge("sc_build_info", "Always 1; the label tells the version.", ["version"])
    /// `role`: source or target; `outcome`: moved, refused (nothing was touched), rolled_back, needs_recovery.
    package static let migrations = counter(
        "sc_migrations_total", "Migrations that ended, by this host's role and outcome.", ["role", "outcome"],
        known: ["source", "target"].flatMap { role in ["moved", "refused", "rolled_back", "needs_recovery"].map { [role, $0] } })
    package static let sessionsMoved = counter(
        "sc_sessions_moved_total", "Sessions that left (source) or arrived (target).", ["role"], known: [["source"], ["target"]])
    package static let refusals = counter(
        "sc_refusals_total", "Offers refused, by the policy's check.", ["check"], known: Decision.Check.allCases.map { [$0.rawValue] })
    package static let stageDuration = Metrics.Family(
        name: "sc_stage_duration_seconds", help: "Time that each stage of a migration took.",
        kind: .histogram([0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10]), labels: ["stage"],
        known: Stage.allCases.map { [$0.rawValue] })
    /// Around the milliseconds that a move takes, up to the second in which clients begin to notice.
    package static let blackout = Metrics.Family(
        name: "sc_blackout_seconds", help: "From the first packet held to the last one let go.",
        kind: .histogram([0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5]), labels: [], known: [[]])
    package static let heldSessions = gauge("sc_held_sessions", "Sessions that wait for their next owner.", known: [[]])
    package static let sessionsInFlight = gauge("sc_sessions_in_flight", "Sessions of migrations under way.", known: [[]])
    package static let connections = gauge("sc_connections", "Connections to the agent.", ["kind"], known: [["local"], ["peer"]])
    package static let connectionsAccepted = counter(
        "sc_connections_accepted_total", "Connections to the agent since it started.", ["kind"], known: [["local"], ["peer"]])
    package static let peerFailures = counter("sc_peer_failures_total", "Conversations with peers that broke off.", known: [[]])

    private static func counter(_ name: String, _ help: String, _ labels: [String] = [], known: [[String]]) -> Metrics.Family {
        Metrics.Family(name: name, help: help, kind: .counter, labels: labels, known: known)
    }

    private static func gauge(_ name: String, _ help: String, _ labels: [String] = [], known: [[String]] = []) -> Metrics.Family {
        Metrics.Family(name: name, help: help, kind: .gauge, labels: labels, known: known)
    }
}
