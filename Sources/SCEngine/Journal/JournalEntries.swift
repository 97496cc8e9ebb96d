// What the first line of a journal holds: everything that the other end of a crash needs to finish or undo a move.

import CProc
import Glibc
import SCImage

/// Common to both ends: who wrote it, and on which boot of this host.
package struct JournalWriter: Codable, Sendable {
    package var pid: Int32
    /// /proc/sys/kernel/random/boot_id: sockets and rules of another boot are gone.
    package var boot: String
    /// CLOCK_REALTIME in seconds, for people only; no decision looks at it.
    package var time: Int

    package static var own: JournalWriter { JournalWriter(pid: getpid(), boot: currentBoot(), time: Glibc.time(nil)) }

    package var isOfThisBoot: Bool { boot == currentBoot() }
}

private func currentBoot() -> String { readText("/proc/sys/kernel/random/boot_id").map { String($0.prefix { $0 != "\n" }) } ?? "" }

/// A flow as text.
package struct FlowText: Codable, Sendable, Hashable {
    package var client: SocketAddressText
    package var service: SocketAddressText

    package init(client: SocketAddressText, service: SocketAddressText) { (self.client, self.service) = (client, service) }

    package init(_ flow: Flow) { (client, service) = (flow.client.description, flow.service.description) }

    package var flow: Flow? {
        guard let client = SocketAddress(client), let service = SocketAddress(service) else { return nil }
        return Flow(client: client, service: service)
    }
}

/// The source's entry.
package struct SourceEntry: Codable, Sendable {
    /// One socket that the move takes.
    package struct Socket: Codable, Sendable {
        package var pid: Int32
        package var fd: Int32
        package var inode: UInt64
        package var reuseAddress: Int32
        package var ownFilter: [UInt64]
    }

    /// A process that is stopped for the move.
    package struct Holder: Codable, Sendable {
        package var pid: Int32
        /// It ran before, so it has to run again.
        package var wasRunning: Bool
    }

    /// A pipe or Unix socket of the session: its bytes are taken out when they live elsewhere.
    package struct Local: Codable, Sendable {
        package var pid: Int32
        package var fd: Int32
        package var inode: UInt64
        /// SO_PEEK_OFF of a socket, which the capture changes; nil for others.
        package var peekOffset: Int32?
    }

    package var writer = JournalWriter.own
    package var target: TargetAddress
    package var shell: [String]
    package var program: String
    package var sockets: [Socket]
    package var holders: [Holder]
    package var flows: [FlowText]
    /// Of a session of several processes; nil otherwise.
    package var locals: [Local]?
    /// Processes that are ended once the session lives elsewhere.
    package var ending: [Int32]?
}

extension Journal.Content {
    /// The source's entry, without what was withdrawn since; and the flows of that.
    package func sourceEntry() throws(CheckpointError) -> (entry: SourceEntry, withdrawn: [Flow]) {
        var entry = try entry(as: SourceEntry.self)
        let gone = withdrawn("sockets")
        guard !gone.isEmpty else { return (entry, []) }
        let stays = zip(entry.flows, entry.sockets).filter { !gone.contains($1.inode) }
        let left = zip(entry.flows, entry.sockets).filter { gone.contains($1.inode) }.compactMap(\.0.flow)
        (entry.flows, entry.sockets) = (stays.map(\.0), stays.map(\.1))
        return (entry, left)
    }

    /// The target's entry, without what was withdrawn since.
    package func targetEntry() throws(CheckpointError) -> TargetEntry {
        var entry = try entry(as: TargetEntry.self)
        let gone = withdrawn("flows")
        entry.flows = entry.flows.indices.filter { !gone.contains(UInt64($0)) }.map { entry.flows[$0] }
        return entry
    }
}

/// The target's entry.
package struct TargetEntry: Codable, Sendable {
    package var writer = JournalWriter.own
    package var source: String
    package var flows: [FlowText]
    package var handover: HandoverRecord
    /// The record of the target's half of steering; empty when it has none.
    package var steering: [String: String]
}

/// Who gets the sessions, and what has to be undone when they do not come.
package struct HandoverRecord: Codable, Sendable {
    /// A socket of an unmodified server that a session will be transplanted into.
    package struct Guest: Codable, Sendable {
        package var flow: FlowText
        package var pid: Int32
        package var fd: Int32
        package var inode: UInt64
    }

    package enum Kind: String, Codable, Sendable { case exec, into, onto }

    package var kind: Kind
    /// The command of `exec`; the adapter of `onto`; the path of `into`.
    package var arguments: [String]
    package var pid: Int32 = 0
    package var guests: [Guest] = []
    /// The value of net.ipv4.tcp_fwmark_accept before the preludes, and the families that they are routed for.
    package var formerAccept: String?
    package var families: [UInt16] = []

    package init(_ kind: Kind, _ arguments: [String]) { (self.kind, self.arguments) = (kind, arguments) }
}

extension SocketAddress {
    /// Parses `192.0.2.1:80`, `[2001:db8::1]:80`, `[fe80::1%2]:80`.
    package init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else { return nil }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        let parts = host.split(separator: "%")
        guard let address = IPAddress(parts.first ?? "") else { return nil }
        self.init(address, port: port, scope: parts.count == 2 ? UInt32(parts[1]) ?? 0 : 0)
    }
}

extension SessionID {
    /// Parses 32 hexadecimal digits.
    package init?(_ text: some StringProtocol) {
        guard text.utf8.count == 32, let high = UInt64(text.prefix(16), radix: 16), let low = UInt64(text.dropFirst(16), radix: 16) else {
            return nil
        }
        self.init(high: high, low: low)
    }
}
