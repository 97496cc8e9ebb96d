// The processes of the sessions that are captured, and what the servers among them that take part have said.

import SCImage

extension SessionCapture {
    /// Every process that has one of the connections open: all have to hold still, or one would read during the dump.
    static func holders(of selected: [SelectedSession]) -> [TargetProcess] {
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
    static func silent(_ parking: (any SessionParking)?, _ selected: [SelectedSession]) -> [ServerPart: [TargetProcess]] {
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
    var silentProcesses: [TargetProcess] { silent.values.flatMap(\.self).uniqued }

    /// Sockets that their servers have parked, or were asked to park and left to their memory.
    var answeredFor: Set<UInt64> { Set(asked.sessions.keys).union(asked.late.map(\.socket)) }

    /// Reads what the late ones have in memory, while they stand still.
    func seize() throws(CheckpointError) {
        guard let parking, !asked.late.isEmpty else { return }
        guard group == nil else {
            logged = try parking.seize(asked.late)
            return
        }
        for index in selected.indices.reversed() {
            let part = ServerPart(socket: selected[index].channel.inode)
            guard asked.late.contains(part) else { continue }
            do throws(CheckpointError) { try logged.merge(parking.seize([part])) { $1 } } catch { try leaveOut(index, error) }
        }
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
        let versions = selected.compactMap { parking?.stateVersions[$0.channel.inode] }
        return versions.count == selected.count && Set(versions).count == 1 ? versions[0] : 0
    }

    /// The most bytes of state that the servers can export, and of what dead ones have logged.
    package var exportLimit: Int {
        (parking?.stateRooms.values.reduce(0, +) ?? 0) + (parking?.orphanCount ?? 0) * loggedLimit
    }
}

extension [TargetProcess] {
    /// Each process once, where it first stands.
    var uniqued: [TargetProcess] {
        var seen: Set<Int32> = []
        return filter { seen.insert($0.pid).inserted }
    }
}
