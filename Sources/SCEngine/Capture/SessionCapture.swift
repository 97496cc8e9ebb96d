// The sessions of one selection, from the running server to their values: stop, lock, dump; and back.

import CProc
import Glibc
import SCImage

/// Holds the sockets of the selected sessions. What it has touched it gives back when it ends, unless the sessions were let go.
package final class SessionCapture {
    package internal(set) var selected: [SelectedSession]
    package internal(set) var sockets: [HeldSocket]
    /// By session, its number in the selection that this began with.
    var numbers: [Int]
    /// One that cannot be taken is left out, and the others go on (`LeftOut.swift`).
    let isTolerant: Bool
    /// All that were left out; in the end, when none is left to go on with, also the last one.
    package internal(set) var leftOut: [LeftOut] = []
    /// Those among them that are not given back yet.
    var pending: [PendingReturn] = []
    package let namespace: NetworkNamespace
    private let drop: DropProgram
    private var baselines: [Bool: OptionBaseline] = [:]
    private let holders: [TargetProcess]
    /// Those of servers that may not answer when they are asked to park.
    let silent: [ServerPart: [TargetProcess]]
    private let stopped: StoppedProcesses
    let parking: (any SessionParking)?
    /// What joins the processes of the one session that `selected` makes up; nil: each connection is a session.
    package let group: GroupCapture?
    var asked = ParkOutcome()
    var logged: [ServerPart: LoggedSession] = [:]
    private var isReleased = false

    /// Opens everything that can be opened while the sessions run. `isGuarded`: a guard continues the stopped processes should this tool die; a move
    /// that has a keeper needs none. `parking`: the sessions it knows are parked by their servers; their processes run on. `isTolerant`: one of several
    /// sessions that cannot be taken is left out; not with a group, whose connections are one session.
    package init(
        _ selected: [SelectedSession], isGuarded: Bool = true, isTolerant: Bool = false, parking: (any SessionParking)? = nil,
        group: GroupCapture? = nil
    ) throws(CheckpointError) {
        (self.parking, self.group, self.isTolerant) = (parking, group, isTolerant && group == nil)
        stopped = StoppedProcesses(isGuarded: isGuarded)
        let opened = try Self.open(selected, isTolerant: isTolerant && group == nil)
        (sockets, numbers, leftOut, pending) = (opened.sockets, opened.numbers, opened.leftOut, opened.pending)
        let selected = opened.numbers.map { selected[$0] }
        self.selected = selected
        namespace = try NetworkNamespace.of(socket: sockets[0].raw)
        for socket in sockets.dropFirst() {
            guard try NetworkNamespace.of(socket: socket.raw).isSame(as: namespace) else {
                throw CheckpointError(
                    "cannot move these sessions together", why: "their sockets are in different network namespaces", errno: EXDEV,
                    advice: "Move them one namespace at a time")
            }
        }
        drop = try DropProgram()
        for ipv6 in Set(selected.map { $0.channel.localAddress?.address.isIPv6 ?? false }) {
            baselines[ipv6] = try OptionBaseline(in: namespace, ipv6: ipv6)
        }
        let cooperative = parking?.sockets ?? []
        var holders = Self.holders(of: selected.filter { !cooperative.contains($0.channel.inode) })
        for process in group?.processesToStop ?? [] where !holders.contains(where: { $0.pid == process.pid }) { holders.append(process) }
        self.holders = holders
        silent = Self.silent(parking, selected)
        for socket in sockets {
            if let entry = SessionRegistry.find(socket.raw) { socket.base = (entry.written, entry.read) }
        }
    }

    /// The session's id from an earlier move, or a new one.
    package func id(of index: Int) -> SessionID { SessionRegistry.find(sockets[index].raw)?.id ?? .random() }

    /// What an adapter knew at an earlier move.
    package func knownAdapter(of index: Int) -> AdapterState? { SessionRegistry.find(sockets[index].raw)?.adapter }

    package var flows: [Flow] { selected.map { Flow(client: $0.channel.peerAddress!, service: $0.channel.localAddress!) } }

    /// What a journal has to know to give the sessions back from another process.
    package func journalRecord() throws(CheckpointError) -> (sockets: [SourceEntry.Socket], holders: [SourceEntry.Holder]) {
        var sockets: [SourceEntry.Socket] = []
        for (session, socket) in zip(selected, self.sockets) {
            try socket.remember()
            let (reuseAddress, ownFilter) = socket.record
            sockets.append(
                SourceEntry.Socket(
                    pid: session.process.pid, fd: socket.fd, inode: session.channel.inode, reuseAddress: reuseAddress, ownFilter: ownFilter))
        }
        return (sockets, (holders + silentProcesses).map { SourceEntry.Holder(pid: $0.pid, wasRunning: !$0.isStopped) })
    }

    /// Refuses sessions that another move has taken, or that can no longer be moved, since they were selected. Called when nobody else can take them.
    package func requireMovable() throws(CheckpointError) {
        for index in sockets.indices.reversed() {
            guard let reason = immovableReason(of: sockets[index].view) else { continue }
            let error = CheckpointError(
                "cannot move \(flows[index])", why: reason, errno: EBUSY, advice: "Look at it again with sc-checkpoint inspect; nothing has changed")
            try leaveOut(index, error)
        }
    }

    /// Pidfds of the processes that are stopped, and the sockets: what a keeper holds.
    package var keepsakes: [Int32] { (holders + silentProcesses).map(\.pidfdNumber) + sockets.map(\.raw) }

    /// Starts what guards the processes against the death of this tool, so that `stop` has only to stop them.
    package func prepareStop() {
        for process in holders { stopped.arm(process) }
    }

    /// The servers park and the processes stand still until `giveBack`, `letGo` or `keepHeld`.
    package func stop() throws(CheckpointError) {
        if let parking {
            self.asked = try parking.park(partly: isTolerant)
            try leaveOutRefused(self.asked.refused)
        }
        let toStop = (holders + self.asked.late.flatMap { silent[$0] ?? [] }).uniqued
        var asked: [TargetProcess] = []
        if let group, let signal = group.options.parkSignal {
            let members = Set(group.group.members.map(\.process.pid))
            asked = holders.filter { members.contains($0.pid) }
            try stopped.park(asked, by: signal, timeout: Int32(clamping: group.options.parkDeadline))
        }
        for process in toStop where !asked.contains(where: { $0.pid == process.pid }) {
            do throws(CheckpointError) {
                try stopped.stop(process)
            } catch {
                // One that only shared the connection and has ended since (another run of this tool, a child that was about to exec) reads nothing more.
                guard error.errno == ESRCH else { throw error }
                try leaveOutEnded(process, error)
            }
        }
        try leaveOutClosed()
        try seize()
    }

    /// Silences every socket; then reads it. The processes are stopped.
    package func capture() throws(CheckpointError) -> [TCPChannel] {
        for index in sockets.indices.reversed() {
            do throws(CheckpointError) { try sockets[index].lock(with: drop.raw) } catch { try leaveOut(index, error) }
        }
        try group?.cut(connections: sockets.map(\.raw))
        var channels: [TCPChannel] = []
        channels.reserveCapacity(sockets.count)
        for index in sockets.indices.reversed() {
            do throws(CheckpointError) {
                channels.append(try sockets[index].dump(options: baselines[selected[index].channel.localAddress?.address.isIPv6 ?? false]!))
            } catch { try leaveOut(index, error) }
        }
        return channels.reversed()
    }

    /// Reads the sessions and lets them run on, undisturbed. No packet is dropped: the dump is taken without a lock and believed when nothing moved
    /// meanwhile; only a connection that never holds still is locked for the some ten microseconds of its dump.
    package func snapshot() throws(CheckpointError) -> [TCPChannel] {
        // One that does not park or stop gives back those that did.
        defer {
            stopped.resume()
            parking?.resume()
        }
        try stop()
        try group?.cut(connections: sockets.map(\.raw))
        var channels: [TCPChannel] = []
        for index in sockets.indices.reversed() {
            do throws(CheckpointError) { channels.append(try snapshot(index)) } catch { try leaveOut(index, error) }
        }
        return channels.reversed()
    }

    private func snapshot(_ index: Int) throws(CheckpointError) -> TCPChannel {
        let (socket, baseline) = (sockets[index], baselines[selected[index].channel.localAddress?.address.isIPv6 ?? false]!)
        defer { socket.giveBack() }
        for _ in 0..<5 {
            if let channel = try unlockedDump(socket, baseline) { return channel }
            socket.giveBack()
        }
        try socket.lock(with: drop.raw)
        return try socket.dump(options: baseline)
    }

    /// A dump without a lock; nil when the connection moved meanwhile.
    private func unlockedDump(_ socket: HeldSocket, _ baseline: OptionBaseline) throws(CheckpointError) -> TCPChannel? {
        let before = socket.movement
        do throws(CheckpointError) {
            let channel = try socket.dump(options: baseline)
            return socket.movement == before ? channel : nil
        } catch {
            if error.errno == EIO { return nil }
            throw error
        }
    }

    /// The sockets hear and speak again; the processes stay stopped.
    package func unlock() {
        for socket in sockets + pending.compactMap(\.socket) { socket.giveBack() }
    }

    /// The sessions go on at the source. Packets may have been dropped meanwhile, so each peer is asked for its window.
    package func giveBack() {
        for socket in sockets + pending.compactMap(\.socket) { socket.askForWindow() }
        stopped.resume()
        parking?.resume()
    }

    /// Ends the connections here without a packet; the processes stay stopped.
    package func releaseSockets() throws(CheckpointError) {
        var failure: CheckpointError?
        isReleased = true
        for socket in sockets {
            SessionRegistry.remove(socket.raw)
            do throws(CheckpointError) { try socket.letGo() } catch { failure = failure ?? error }
        }
        if let failure { throw failure }
    }

    /// The processes that this capture has stopped.
    package var stoppedByUs: [TargetProcess] { stopped.processes }

    /// The processes go on.
    package func resume() {
        stopped.resume()
        if isReleased { parking?.gone() } else { parking?.resume() }
    }

    /// The sessions are gone from the source; its servers see aborted clients.
    package func letGo() throws(CheckpointError) {
        defer { resume() }
        group?.letGo()
        try releaseSockets()
    }

    /// The sessions end, for the servers and for the clients.
    package func abort() {
        for socket in sockets {
            SessionRegistry.remove(socket.raw)
            socket.abort()
        }
        isReleased = true
        resume()
    }

    /// Leaves everything held beyond the life of this tool; returns the processes that stay stopped.
    package func keepHeld() -> [TargetProcess] {
        for socket in sockets { socket.keepHeld() }
        return stopped.keepStopped()
    }
}
