// A drain as a JSON document.

import SCEngine

/// `drain --json`.
struct DrainDocument: Encodable {
    struct Entry: Encodable {
        var client, service, outcome: String
        var target, reason: String?

        private enum CodingKeys: CodingKey { case client, service, outcome, target, reason }

        /// Every key is always there.
        func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: CodingKeys.self)
            try container.encode(client, forKey: .client)
            try container.encode(service, forKey: .service)
            try container.encode(outcome, forKey: .outcome)
            try container.encode(target, forKey: .target)
            try container.encode(reason, forKey: .reason)
        }
    }

    struct LeftOut: Encodable { var target, reason: String }

    var moved, stayed, unknown, ended: Int
    /// Sessions that began meanwhile, in the same processes.
    var began: Int
    var batches: Int
    var longest_blackout_us, seconds: Double
    var dry_run: Bool
    var sessions: [Entry]
    var left_out: [LeftOut]

    init(_ result: DrainResult, began: Int, dryRun: Bool) {
        (moved, stayed) = (result.count(.moved), result.count(.stayed))
        (unknown, ended) = (result.count(.unknown), result.count(.ended))
        (self.began, batches) = (began, result.blackouts.count)
        longest_blackout_us = Double(result.blackouts.max() ?? 0) / 1000
        seconds = Double(result.nanoseconds / 1000) / 1e6
        dry_run = dryRun
        sessions = result.sessions.map {
            Entry(
                client: $0.flow.client.description, service: $0.flow.service.description, outcome: $0.outcome.rawValue,
                target: $0.target?.description, reason: $0.reason)
        }
        left_out = result.leftOut.map { LeftOut(target: $0.target.description, reason: $0.reason) }
    }
}
