// The sessions of one selection, from the running server to their values: stop, lock, dump; and back.

import CProc
import Glibc
import SCImage

/// Holds the sockets of the selected sessions. What it has touched it gives back when it ends, unless the sessions were let go.
package final class SessionCapture {
    package let selected: [SelectedSession]
    package let sockets: [HeldSocket]
    package let namespace: NetworkNamespace
    private let drop: DropProgram
    private var baselines: [Bool: OptionBaseline] = [:]
    private let holders: [TargetProcess]
    /// Those of servers that may not answer when they are asked to park.
    private let silent: [ServerPart: [TargetProcess]]
    private let stopped: StoppedProcesses
    private let parking: (any SessionParking)?
    /// What joins the processes of the one session that `selected` makes up; nil: each connection is a session.
    package let group: GroupCapture?
    private var asked = ParkOutcome()
    private var logged: [ServerPart: LoggedSession] = [:]
    private var isReleased = false

    /// Opens everything that can be opened while the sessions run. `isGuarded`: a guard continues the stopped processes should this tool die; a move
    /// that has a keeper needs none. `parking`: the sessions it knows are parked by their servers; their processes run on.
    package init(
        _ selected: [SelectedSession], isGuarded: Bool = true, parking: (any SessionParking)? = nil, group: GroupCapture? = nil
    ) throws(CheckpointError) {
        self.selected = selected
        (self.parking, self.group) = (parking, group)
        stopped = StoppedProcesses(isGuarded: isGuarded)
        var sockets: [HeldSocket] = []
        for session in selected { sockets.append(HeldSocket(try session.process.duplicate(session.channel.fd), fd: session.channel.fd)) }
        self.sockets = sockets
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

    /// Every process that has one of the connections open: all have to hold still, or one would read during the dump.
    private static func holders(of selected: [SelectedSession]) -> [TargetProcess] {
        guard !selected.isEmpty else { return [] }
        var result: [Int32: TargetProcess] = [:]
        // An agent that keeps a duplicate for its server reads nothing; stopped for a hold, it would serve nobody.
        for session in selected where session.process.command != "sc-checkpoint" { result[session.process.pid] = session.process }
        // A descriptor passed on at fork(2) is shared without a trace; one walk of /proc finds it for any number of sessions, while they run.
        for holder in TargetProcess.holders(ofInodes: Set(selected.map(\.channel.inode))) where result[holder.pid] == nil {
            if holder.command != "sc-checkpoint" { result[holder.pid] = holder }
        }
        return Array(result.values)
    }

    /// The processes of each server that may be late. One that has died has none: the agent keeps its descriptors, and reads nothing.
    private static func silent(_ parking: (any SessionParking)?, _ selected: [SelectedSession]) -> [ServerPart: [TargetProcess]] {
        guard let parking, !parking.seizable.isEmpty else { return [:] }
        var result: [ServerPart: [TargetProcess]] = [:]
        for session in selected where parking.seizable.contains(ServerPart(socket: session.channel.inode)) {
            result[ServerPart(socket: session.channel.inode)] = holders(of: [session])
        }
        for group in parking.groups {
            for part in group.parts where parking.seizable.contains(ServerPart(socket: group.socket, name: part.name)) {
                let process = try? TargetProcess(pid: part.pid)
                result[ServerPart(socket: group.socket, name: part.name)] = [process].compactMap(\.self).filter { $0.command != "sc-checkpoint" }
            }
        }
        return result
    }

    /// Each of them once.
    private var silentProcesses: [TargetProcess] { silent.values.flatMap(\.self).uniqued }

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
        for (flow, socket) in zip(flows, sockets) {
            guard let reason = immovableReason(of: socket.view) else { continue }
            throw CheckpointError(
                "cannot move \(flow)", why: reason, errno: EBUSY, advice: "Look at it again with sc-checkpoint inspect; nothing has changed")
        }
    }

    /// Pidfds of the processes that are stopped, and the sockets: what a keeper holds.
    package var keepsakes: [Int32] { (holders + silentProcesses).map(\.pidfdNumber) + sockets.map(\.raw) }

    /// Starts what guards the processes against the death of this tool, so that `stop` has only to stop them.
    package func prepareStop() {
        for process in holders { stopped.arm(process) }
    }

    /// What its server said of the session when it parked, or what its memory and the dump say; nil when its process was only stopped.
    package func exported(by index: Int) throws(CheckpointError) -> ParkedSession? {
        let inode = selected[index].channel.inode
        guard let logged = logged[ServerPart(socket: inode)] else { return asked.sessions[inode] }
        let counted = sockets[index].counted
        return try logged.resolve(read: counted.read, written: counted.written)
    }

    /// The session of the declared group or of the one that was found.
    package func groupSession(_ group: GroupCapture, _ channels: [TCPChannel]) throws(CheckpointError) -> Session {
        let parts = asked.sessions.values.first { !$0.parts.isEmpty }?.parts ?? []
        var session = LoggedParts(
            group.session(id(of: 0), channels), group.group, sockets.map { (read: $0.counted.read, written: $0.counted.written) })
        let late = Set(asked.late.compactMap(\.name))
        let logged = Dictionary(uniqueKeysWithValues: logged.compactMap { key, value in key.name.map { ($0, value) } })
        return try session.complete(parts: parts, late: late, logged)
    }

    /// The form of the state that the sessions' servers export; 0: not known, or several.
    package var stateVersion: UInt32 {
        guard let versions = parking?.stateVersions, versions.count == selected.count, Set(versions.values).count == 1 else { return 0 }
        return versions.first!.value
    }

    /// The most bytes of state that the servers can export, and of what dead ones have logged.
    package var exportLimit: Int {
        (parking?.stateRooms.values.reduce(0, +) ?? 0) + (parking?.orphanCount ?? 0) * loggedLimit
    }

    /// The servers park and the processes stand still until `giveBack`, `letGo` or `keepHeld`.
    package func stop() throws(CheckpointError) {
        if let parking { self.asked = try parking.park() }
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
                let isServer = selected.contains { $0.process.pid == process.pid }
                guard error.errno == ESRCH, !isServer else { throw error }
            }
        }
        if let parking, !self.asked.late.isEmpty { logged = try parking.seize(self.asked.late) }
    }

    /// Silences every socket; then reads it. The processes are stopped.
    package func capture() throws(CheckpointError) -> [TCPChannel] {
        for socket in sockets { try socket.lock(with: drop.raw) }
        try group?.cut(connections: sockets.map(\.raw))
        return try dump()
    }

    private func dump() throws(CheckpointError) -> [TCPChannel] {
        var channels: [TCPChannel] = []
        channels.reserveCapacity(sockets.count)
        for (session, socket) in zip(selected, sockets) {
            channels.append(try socket.dump(options: baselines[session.channel.localAddress?.address.isIPv6 ?? false]!))
        }
        return channels
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
        for (session, socket) in zip(selected, sockets) {
            let baseline = baselines[session.channel.localAddress?.address.isIPv6 ?? false]!
            defer { socket.giveBack() }
            var channel: TCPChannel?
            for _ in 0..<5 where channel == nil {
                channel = try unlockedDump(socket, baseline)
                if channel == nil { socket.giveBack() }
            }
            if channel == nil {
                try socket.lock(with: drop.raw)
                channel = try socket.dump(options: baseline)
            }
            channels.append(channel!)
        }
        return channels
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
        for socket in sockets { socket.giveBack() }
    }

    /// The sessions go on at the source. Packets may have been dropped meanwhile, so each peer is asked for its window.
    package func giveBack() {
        for socket in sockets { socket.askForWindow() }
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

extension [TargetProcess] {
    /// Each process once, where it first stands.
    fileprivate var uniqued: [TargetProcess] {
        var seen: Set<Int32> = []
        return filter { seen.insert($0.pid).inserted }
    }
}
