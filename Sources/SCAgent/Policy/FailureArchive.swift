// What the agent and its workers archive by themselves: sessions that were refused, came back or were lost, so that there is something to debug with.

import Glibc
import SCArchive
import SCEngine
import SCImage

/// The policy's `archive`, or the command line's `--archive-failed`.
package struct FailureArchive: Equatable, Sendable {
    package var path: String
    package var reasons: Set<ArchiveReason> = [.refused, .migration, .crash]
    package var recipients: [PublicKey] = []
    package var isRedacted = false
    /// After each image the archive is pruned to this, among the images that were archived so.
    package var retention = Retention()

    /// Tells a worker of an agent which policy has it.
    static let variable = "SC_ARCHIVE_POLICY"

    package init(path: String) { self.path = path }

    /// What the agent that has started this process says; nil: nothing, or there is no agent.
    package static func ofAgent() -> FailureArchive? {
        guard let path = getenv(variable) else { return nil }
        return (try? Policy.load(String(cString: path)))?.archive
    }

    /// Archives what a move has left; nil when its reason is not wanted.
    package func keep(_ failed: FailedMove) throws(CheckpointError) -> ArchiveEntry? {
        var details = Archive.Details()
        details.reason =
            switch failed.fate {
            case .refused: .refused
            case .returned: .migration
            case .lost: .crash
            }
        guard reasons.contains(details.reason) else { return nil }
        (details.failure, details.service) = (failed.error.description, failed.service)
        (details.recipients, details.isRedacted) = (recipients, isRedacted)
        var inventory = Inventory()
        (inventory.host, inventory.tool) = (hostName(), "sc-checkpoint \(toolVersion)")
        (inventory.pid, inventory.command, inventory.createdAt) = (failed.pid, failed.command, UInt64(max(0, time(nil))))
        let archive = try Archive(path, creating: true)
        let entry = try archive.add(failed.sessions, inventory, details)
        if !retention.isEmpty {
            // What a person added is a person's to remove.
            var filter = ArchiveFilter()
            filter.reasons = [.refused, .migration, .crash]
            _ = try archive.prune(retention, among: filter)
        }
        return entry
    }

    /// Makes every failed move of this process go into the archive. `tell` gets a line for each.
    package func install(_ tell: @escaping (String) -> Void) {
        FailedMove.keep = { failed in
            do throws(CheckpointError) {
                guard let entry = try keep(failed) else { return }
                let count = failed.sessions.count
                tell("archived \(count == 1 ? "the session" : "\(count) sessions") as \(entry.name.prefix(12)) in \(path)")
            } catch {
                tell("nothing was archived: \(error)")
            }
        }
    }
}

extension FailureArchive {
    init(_ node: PolicyNode) throws(CheckpointError) {
        let keys = try node.object(["directory", "reasons", "seal_to", "redact", "max_age", "max_count", "max_size"])
        self.init(path: try keys["directory"]?.text("the path of a directory") ?? Archive.standardPath)
        guard path.hasPrefix("/") else { throw PolicyNode.mistake("\(node.path).directory is not a path from /") }
        if let list = try keys["reasons"]?.list() {
            reasons = []
            for element in list {
                guard let reason = ArchiveReason(name: try element.text()), reason != .manual else {
                    throw element.mistake("refused, migration or crash")
                }
                reasons.insert(reason)
            }
        }
        for element in try keys["seal_to"]?.list() ?? [] {
            guard let key = PublicKey(try element.text()) else { throw element.mistake("a public key, as sc-checkpoint archive key prints it,") }
            recipients.append(key)
        }
        if let flag = keys["redact"] {
            guard case .flag(let value) = flag.tree else { throw flag.mistake("true or false") }
            isRedacted = value
        }
        if let age = keys["max_age"] {
            guard let seconds = ageInSeconds(try age.text("an age")) else { throw age.mistake("an age such as \"30d\"") }
            retention.age = seconds
        }
        if let count = keys["max_count"] { retention.count = try count.number(in: 1...1_000_000_000) }
        if let size = keys["max_size"] {
            guard let bytes = sizeInBytes(try size.text("a size")) else { throw size.mistake("a size such as \"10G\"") }
            retention.size = bytes
        }
    }
}
