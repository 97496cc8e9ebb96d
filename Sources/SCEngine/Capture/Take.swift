// `snapshot --take`, `release` and `resume`: sessions that are carried by hand.

import CProc
import Glibc
import SCImage

/// Takes sessions away from their server: silent towards the client until `release` or `resume`.
package struct Take {
    private let capture: SessionCapture

    package init(_ capture: SessionCapture) { self.capture = capture }

    /// Captures, has `store` write the image, and only then keeps the hold. Whatever fails gives the sessions back.
    package func run(state: [UInt8], adapterStates: [AdapterState?], adapter: (any Adapter)?, store: ([Session]) throws(CheckpointError) -> Void)
        throws(CheckpointError) -> [HoldRecord]
    {
        let signals = BlockedSignals()
        defer { signals.restore() }
        let mute = HoldMute(capture.namespace)
        var records: [HoldRecord] = []
        do throws(CheckpointError) {
            try capture.stop()
            try mute.add(capture.flows)
            var sessions: [Session] = []
            for (index, channel) in try capture.capture().enumerated() {
                let state_ = try adapterStates[index].map { state throws(CheckpointError) in try adapter?.fix(state, channel: channel) } ?? nil
                sessions.append(Session(id: capture.id(of: index), channels: [channel], state: state, adapter: state_))
            }
            try store(sessions)
            records = try self.records(sessions)
            for record in records { try record.save() }
        } catch {
            for record in records { record.remove() }
            mute.remove(capture.flows)
            capture.giveBack()
            throw error
        }
        _ = capture.keepHeld()
        return records
    }

    private func records(_ sessions: [Session]) throws(CheckpointError) -> [HoldRecord] {
        var records: [HoldRecord] = []
        let stopped = capture.stoppedByUs.map(\.pid)
        for (index, session) in sessions.enumerated() {
            let (reuseAddress, ownFilter) = capture.sockets[index].record
            records.append(
                HoldRecord(
                    id: session.id, pid: capture.selected[index].process.pid, fd: capture.sockets[index].fd,
                    inode: capture.selected[index].channel.inode,
                    reuseAddress: reuseAddress, ownFilter: ownFilter, stopped: stopped, flow: capture.flows[index]))
        }
        return records
    }

    /// Ends a hold: `back` gives the session to its process again, otherwise it is let go without a packet.
    package static func end(_ record: HoldRecord, back: Bool) throws(CheckpointError) {
        defer { record.remove() }
        let socket: HeldSocket
        do throws(CheckpointError) {
            socket = try record.socket()
        } catch {
            record.continueProcesses()
            throw error
        }
        let namespace = try NetworkNamespace.of(socket: socket.raw)
        if back {
            HoldMute(namespace).remove([record.flow])
            socket.giveBack(probe: true)
        } else {
            try socket.letGo()
            HoldMute(namespace).remove([record.flow])
        }
        record.continueProcesses()
    }
}

/// Drops what this host would say on held flows (retransmissions of a socket whose client's answers are dropped), and what it would answer to their
/// packets once the socket is gone.
package struct HoldMute {
    private let namespace: NetworkNamespace
    private static let table = "sc_checkpoint_held"

    package init(_ namespace: NetworkNamespace) { self.namespace = namespace }

    package func add(_ flows: [Flow]) throws(CheckpointError) {
        let rules = """
            table inet \(Self.table) {
              set held4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; }
              set held6 { type ipv6_addr . inet_service . ipv6_addr . inet_service; }
              chain in { type filter hook prerouting priority -500; policy accept;
                ip saddr . tcp sport . ip daddr . tcp dport @held4 drop
                ip6 saddr . tcp sport . ip6 daddr . tcp dport @held6 drop
              }
              chain out { type filter hook output priority -500; policy accept;
                ip daddr . tcp dport . ip saddr . tcp sport @held4 drop
                ip6 daddr . tcp dport . ip6 saddr . tcp sport @held6 drop
              }
            }

            """
        let isLoaded = try runCommand(["nft", "list", "table", "inet", Self.table], in: namespace).status == 0
        try runChecked(["nft", "-f", "-"], input: (isLoaded ? "" : rules) + elements("add", flows), in: namespace)
    }

    package func remove(_ flows: [Flow]) {
        _ = try? runCommand(["nft", "-f", "-"], input: elements("delete", flows), in: namespace)
        let text = (try? runCommand(["nft", "list", "table", "inet", Self.table], in: namespace).output) ?? ""
        if !text.contains("elements = {") { _ = try? runCommand(["nft", "delete", "table", "inet", Self.table], in: namespace) }
    }

    private func elements(_ verb: String, _ flows: [Flow]) -> String {
        flows.map {
            "\(verb) element inet \(Self.table) held\($0.isIPv6 ? 6 : 4) { \($0.client.address) . \($0.client.port) . \($0.service.address) . \($0.service.port) }\n"
        }.joined()
    }
}
