// A batch of sessions goes on without one that cannot be taken: it closed, its server does not park it, it cannot be read.

import CProc
import Glibc
import SCImage

/// A session that a move goes on without.
package struct LeftOut: Sendable {
    /// Its number in the selection.
    package var number: Int
    package var flow: Flow
    package var error: CheckpointError
    /// It ended by itself: its process has closed it, or its connection is no more. Otherwise it stays.
    package var hasEnded: Bool

    /// In one sentence.
    package var reason: String { "\(error.what): \(error.why)" }
}

/// What is held of a session that was left out.
struct PendingReturn {
    var left: LeftOut
    var inode: UInt64
    /// nil: it was never held.
    var socket: HeldSocket?
}

extension SessionCapture {
    /// The sockets of those that are still what was selected.
    static func open(
        _ selected: [SelectedSession], isTolerant: Bool
    ) throws(CheckpointError) -> (sockets: [HeldSocket], numbers: [Int], leftOut: [LeftOut], pending: [PendingReturn]) {
        var (sockets, numbers, leftOut): ([HeldSocket], [Int], [LeftOut]) = ([], [], [])
        for (number, session) in selected.enumerated() {
            do throws(CheckpointError) {
                let copy = try session.process.duplicate(session.channel.fd)
                guard inode(of: copy.raw) == session.channel.inode else { throw closed(session) }
                sockets.append(HeldSocket(copy, fd: session.channel.fd))
                numbers.append(number)
            } catch {
                let error = error.errno == EBADF ? closed(session) : error
                leftOut.append(LeftOut(number: number, flow: flow(of: session), error: error, hasEnded: session.hasEnded))
                if !isTolerant || leftOut.count == selected.count { throw error }
            }
        }
        return (sockets, numbers, leftOut, leftOut.map { PendingReturn(left: $0, inode: selected[$0.number].channel.inode) })
    }

    static func flow(of session: SelectedSession) -> Flow { Flow(client: session.channel.peerAddress!, service: session.channel.localAddress!) }

    private static func closed(_ session: SelectedSession) -> CheckpointError {
        CheckpointError(
            "cannot move \(flow(of: session))", why: "process \(session.process.pid) (\(session.process.command)) has closed it", errno: ENOTCONN,
            advice: "Nothing is left to move")
    }

    /// The others go on without it. Throws `error` when that is not wanted, or when it is the last.
    func leaveOut(_ index: Int, _ error: CheckpointError) throws(CheckpointError) {
        guard isTolerant else { throw error }
        let left = LeftOut(number: numbers[index], flow: flows[index], error: error, hasEnded: selected[index].hasEnded)
        leftOut.append(left)
        guard selected.count > 1 else { throw error }
        pending.append(PendingReturn(left: left, inode: selected[index].channel.inode, socket: sockets[index]))
        selected.remove(at: index)
        sockets.remove(at: index)
        numbers.remove(at: index)
    }

    /// Those that their servers would not park.
    func leaveOutRefused(_ reasons: [UInt64: String]) throws(CheckpointError) {
        guard !reasons.isEmpty else { return }
        for index in selected.indices.reversed() {
            guard let why = reasons[selected[index].channel.inode] else { continue }
            try leaveOut(index, .notParked(why))
        }
    }

    /// The sessions of a process that has ended; but for those that can be taken from its memory.
    func leaveOutEnded(_ process: TargetProcess, _ error: CheckpointError) throws(CheckpointError) {
        let known = answeredFor
        for index in selected.indices.reversed()
        where selected[index].process.pid == process.pid && !known.contains(selected[index].channel.inode) { try leaveOut(index, error) }
    }

    /// A process that stands still may have closed a connection since it was found: then only the duplicates of this tool keep it from ending, and its
    /// client would wait at the target for an end that the server has already decided. Servers answer for those that they were asked about.
    func leaveOutClosed() throws(CheckpointError) {
        guard isTolerant else { return }
        let known = answeredFor
        for index in selected.indices.reversed() where !known.contains(selected[index].channel.inode) {
            let session = selected[index]
            if session.process.link(of: session.channel.fd) != "socket:[\(session.channel.inode)]" { try leaveOut(index, Self.closed(session)) }
        }
    }

    /// Those that were left out hear again; what keeps them from speaking may go.
    func unlockLeftOut() {
        for entry in pending { entry.socket?.giveBack() }
    }

    /// Those that were left out are served again.
    func resumeLeftOut() {
        for entry in pending { entry.socket?.askForWindow() }
        let asked = Set(pending.map(\.inode)).intersection(parking?.sockets ?? [])
        if !asked.isEmpty { parking?.leave(asked) }
        pending = []
    }
}

extension SelectedSession {
    /// Its process no longer has it, or it is no connection any longer.
    package var hasEnded: Bool {
        guard let copy = process.duplicate(channel.fd, withInode: channel.inode), let info = SocketView(copy.raw).tcpInfo,
            let state = TCPState(rawValue: info.state)
        else { return true }
        return !state.isMovable
    }
}
