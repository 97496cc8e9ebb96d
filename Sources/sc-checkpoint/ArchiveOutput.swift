// Entries of an archive as JSON documents and table rows.

import SCArchive
import SCEngine
import SCImage

/// An image in `archive list --json` and `archive add --json`.
struct ArchiveEntryJSON: Encodable {
    struct FlowJSON: Encodable { var client, service: String }

    var id, reason, host, command, tool, service, note, failure: String
    var tags: [String]
    var added_at, created_at, image_bytes, stored_bytes, sessions, channels: UInt64
    var session_ids: [String]
    var connections: [FlowJSON]
    var pid: Int32
    var format_version: UInt16
    var sealed, redacted: Bool

    init(_ entry: ArchiveEntry) {
        (id, reason, service, note, failure) = (entry.name, entry.reason.name, entry.service, entry.note, entry.failure)
        (host, command, tool, pid) = (entry.inventory.host, entry.inventory.command, entry.inventory.tool, entry.inventory.pid)
        (tags, added_at, created_at) = (entry.tags, entry.addedAt, entry.inventory.createdAt)
        (image_bytes, stored_bytes, sessions, channels) = (entry.imageLength, entry.bodyLength, entry.sessions, entry.channels)
        session_ids = (0..<entry.sessionIDCount).map { entry.session($0).description }
        connections = (0..<entry.flowCount).map { index in
            let flow = entry.flow(index)
            return FlowJSON(client: flow.client.description, service: flow.service.description)
        }
        (format_version, sealed, redacted) = (entry.formatVersion, entry.isSealed, entry.isRedacted)
    }
}

/// The images as a table.
func printEntries(_ entries: [ArchiveEntry]) {
    Terminal.table(
        ["ID", "MADE", "HOST", "SERVICE", "REASON", "SESSIONS", "CLIENT", "SIZE", "STORED", "TAGS"],
        entries.map { entry in
            let first = entry.flowCount > 0 ? entry.flow(0).client.description : entry.isSealed ? "sealed" : "-"
            return [
                String(entry.name.prefix(12)), minuteText(entry.time), entry.inventory.host, entry.service, entry.reason.name, String(entry.sessions),
                entry.flowCount > 1 ? "\(first), …" : first, sizeText(entry.imageLength), sizeText(entry.bodyLength),
                entry.tags.joined(separator: ","),
            ].map(Terminal.clean)
        }, right: [5, 7, 8])
}

/// One image's particulars.
func printEntry(_ entry: ArchiveEntry) {
    let marks = [entry.isSealed ? "sealed" : nil, entry.isRedacted ? "redacted" : nil].compactMap { $0 }.map { ", \($0)" }.joined()
    Terminal.print("image \(entry.name)")
    Terminal.print("added \(timeText(entry.addedAt * 1_000_000_000)), \(entry.reason.name), service \(Terminal.clean(entry.service))\(marks)")
    if !entry.failure.isEmpty { Terminal.print("failed: \(Terminal.clean(entry.failure))") }
    if !entry.note.isEmpty { Terminal.print("note: \(Terminal.clean(entry.note))") }
    if !entry.tags.isEmpty { Terminal.print("tags: \(Terminal.clean(entry.tags.joined(separator: ", ")))") }
}

/// What no index and no reading can make good is said once, on standard error.
func tellUnreadable(_ unreadable: [(name: ImageName, why: CheckpointError)]) {
    for entry in unreadable.prefix(5) { Terminal.note(entry.why.description) }
    if unreadable.count > 5 { Terminal.note("and \(unreadable.count - 5) more; see sc-checkpoint archive verify") }
}
