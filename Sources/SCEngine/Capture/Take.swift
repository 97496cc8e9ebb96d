// `snapshot --take`, `release` and `resume`: sessions that are carried by hand.

import CProc
import Glibc
import SCImage

/// Takes sessions away from their server: silent towards the client until `release` or `resume`.
package struct Take {
    private let capture: SessionCapture

    package init(_ capture: SessionCapture) { self.capture = capture }

    /// Captures, has `store` write the image, and only then keeps the hold. Whatever fails gives the sessions back.
    package func run(state: [UInt8], adapterStates: [Int: AdapterState], adapter: (any Adapter)?, store: ([Session]) throws(CheckpointError) -> Void)
        throws(CheckpointError) -> [HoldRecord]
    {
        guard capture.group == nil || capture.sockets.count == 1 else {
            throw CheckpointError(
                "cannot hold a session of \(capture.sockets.count) connections", why: "a hold is of one connection", errno: EOPNOTSUPP,
                advice: "Use migrate, or snapshot without --take")
        }
        let signals = BlockedSignals()
        defer { signals.restore() }
        let mute = HoldMute(capture.namespace)
        var records: [HoldRecord] = []
        do throws(CheckpointError) {
            try capture.stop()
            try mute.add(capture.flows)
            let sessions = try capture.sessions(capture.capture(), state: state, adapter: adapter, learnt: adapterStates)
            try store(sessions)
            records = try self.records(sessions)
            for record in records { try record.save() }
        } catch {
            for record in records { record.remove() }
            capture.unlock()
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
                    reuseAddress: reuseAddress, ownFilter: ownFilter, stopped: stopped, flow: capture.flows[index],
                    locals: capture.group?.journalRecord ?? []))
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
            // The server has ended or closed it: what is left of the hold is its rules.
            if let namespace = (try? NetworkNamespace.of(pid: record.pid)) ?? (try? .current()) { HoldMute(namespace).remove([record.flow]) }
            record.continueProcesses()
            throw error
        }
        let namespace = try NetworkNamespace.of(socket: socket.raw)
        if back {
            HoldMute(namespace).remove([record.flow])
            socket.giveBack(probe: true)
        } else {
            try socket.letGo()
            SourceEntry.Local.empty(record.locals)
            HoldMute(namespace).remove([record.flow])
        }
        record.continueProcesses()
    }
}
