// Sessions of several processes whose servers have said themselves which processes and which descriptors they are (sc_join of libsc).

import CProc
import Glibc
import SCImage

extension SessionParking {
    /// The session of several processes that these connections are; nil when each is a session of one. Refused when they are more than that one.
    package func group(of selected: [SelectedSession]) throws(CheckpointError) -> GroupCapture? {
        guard let declared = groups.first else { return nil }
        guard groups.count == 1, sockets == Set(selected.map(\.channel.inode)) else {
            throw CheckpointError(
                "cannot take these sessions together", why: "one of them is served by several processes, and goes alone", errno: EOPNOTSUPP,
                advice: "Take them one by one, with --peer, or let drain do it")
        }
        return try GroupCapture(declared, selected)
    }
}

extension GroupChannels {
    /// The group as its servers have declared it, with the names that they have for their channels. Nothing is guessed and nothing left behind: what leads
    /// out of the session, or belongs to it and cannot be moved, is refused.
    static func declared(
        _ declared: DeclaredGroup, _ connections: [SelectedSession], namespace: NetworkNamespace
    ) throws(CheckpointError) -> SessionGroup {
        var processes: [TargetProcess] = []
        for part in declared.parts {
            let process = try TargetProcess(pid: part.pid)
            // The agent has the descriptors of all parts whose processes have died.
            guard process.command == "sc-checkpoint" || !processes.contains(where: { $0.pid == part.pid }) else {
                throw CheckpointError("cannot move the session", why: "process \(part.pid) does two parts of it", errno: EOPNOTSUPP)
            }
            processes.append(process)
        }
        var request = GroupRequest()
        request.channels = declared.parts.flatMap { part in part.descriptors.map { DescriptorName(pid: part.pid, fd: $0.fd) } }
        var group = SessionGroup.of(processes, shared: [], connections)
        for (index, part) in declared.parts.enumerated() { group.members[index].role = part.name }
        let table = DescriptorTable(of: processes, only: Set(request.channels))
        group = try found(
            group, root: processes[0].pid, request, table: table, unix: try table.unixSockets(in: namespace, besides: connections),
            own: declared.parts.map { Set($0.descriptors.map(\.fd)) })
        try rename(&group, as: declared)
        return group
    }

    /// Each descriptor is called what its server calls it; a second one of the same name is numbered.
    private static func rename(_ group: inout SessionGroup, as declared: DeclaredGroup) throws(CheckpointError) {
        for part in declared.parts {
            let member = group.members.firstIndex { $0.role == part.name }
            var names = NumberedNames()
            for (fd, role) in part.descriptors {
                guard let member, let index = group.members[member].descriptors.firstIndex(where: { $0.fd == fd }) else {
                    throw CheckpointError(
                        "cannot move descriptor \(fd) of process \(part.pid)",
                        why: "its server calls it a channel of the session (\(role)), and it is "
                            + (group.leftOut.first { $0.contains("descriptor \(fd) of process \(part.pid) ") } ?? "of a kind that cannot be moved"),
                        errno: EOPNOTSUPP, advice: "Choose all connections of the session, or have the server keep it out of the session")
                }
                group.members[member].descriptors[index].name = names.next(role)
            }
        }
    }
}
