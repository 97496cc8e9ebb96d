// One session of several processes, from the search for it to its end at the source.

import CProc
import Glibc
import SCImage

/// How sessions of several processes are taken.
package struct GroupOptions: Sendable {
    package var request = GroupRequest()
    /// Asks each process to stop itself where its exported state is right; nil: they are stopped wherever they are.
    package var parkSignal: Int32?
    /// Milliseconds that they have for it.
    package var parkDeadline = 1000
    /// The application's state, read once the processes stand still.
    package var statePath: String?
    /// Files are compared by content.
    package var digests = false
    /// Ends the session's own processes once it lives elsewhere; otherwise they see an aborted client.
    package var endsProcesses = false

    package init() {}
}

/// Holds what is known of a group; `cut` looks at it again when its processes stand still.
package final class GroupCapture: @unchecked Sendable {
    package let options: GroupOptions
    package private(set) var group: SessionGroup
    private let root: TargetProcess
    /// Its servers have said what it is, and hold still by themselves.
    private let declared: DeclaredGroup?
    private let namespace: NetworkNamespace
    private let digests = FileDigests()
    private let baselines: LocalBaselines
    private var locals: LocalCapture?
    /// The channels without queues while the processes run, and with them after the cut.
    package private(set) var channels: [LocalChannel] = []
    /// What `options.statePath` held in the cut.
    package private(set) var state: [UInt8] = []

    /// Finds the group of these connections, and refuses what cannot be moved, while everything runs.
    package init(_ root: TargetProcess, _ connections: [SelectedSession], _ options: GroupOptions) throws(CheckpointError) {
        (self.root, self.options, declared) = (root, options, nil)
        namespace = try NetworkNamespace.of(pid: root.pid)
        baselines = LocalBaselines(in: namespace)
        group = try GroupChannels.find(root, connections, options.request)
        // Running processes open and close files all the time; which there are is seen in the cut.
        for (index, end) in group.ends.enumerated().reversed() where end.kind == .file {
            let (member, fd) = end.holders[0]
            if group.members[member].process.duplicate(fd, withInode: end.inode) == nil { group.remove(end: index) }
        }
        if options.digests {
            for end in group.ends where end.kind == .file {
                guard let copy = group.members[end.holders[0].member].process.duplicate(end.holders[0].fd, withInode: end.inode) else { continue }
                _ = try digests.digest(of: copy.raw)
            }
        }
        channels = try capture(withQueues: false, connections: group.connections.map { _ in -1 }).1
        state = try readState()
    }

    /// A group that its servers have declared, of which these are the connections.
    package init(_ declared: DeclaredGroup, _ connections: [SelectedSession]) throws(CheckpointError) {
        (root, options, self.declared) = (connections[0].process, GroupOptions(), declared)
        namespace = try NetworkNamespace.of(pid: root.pid)
        baselines = LocalBaselines(in: namespace)
        group = try GroupChannels.declared(declared, connections, namespace: namespace)
        channels = try capture(withQueues: false, connections: group.connections.map { _ in -1 }).1
    }

    /// The processes for an offer.
    package var offered: [SessionProcess] {
        var processes = group.processes
        for index in processes.indices {
            processes[index].stateVersion = declared?.parts.first { $0.name == processes[index].role }?.stateVersion ?? 0
        }
        return processes
    }

    /// All that have to be stopped for the cut.
    package var processesToStop: [TargetProcess] { declared == nil ? group.processesToStop : [] }

    private func capture(withQueues: Bool, connections: [Int32]) throws(CheckpointError) -> (LocalCapture, [LocalChannel]) {
        let locals = try LocalCapture(group, connections: connections, baselines: baselines, digests: digests)
        return (locals, try locals.capture(withQueues: withQueues))
    }

    private func readState() throws(CheckpointError) -> [UInt8] {
        guard let path = options.statePath else { return [] }
        guard let bytes = readBytes(path) else { throw CheckpointError("cannot read the state \(path)", result: Int(-errno)) }
        return bytes
    }

    /// Everything in one cut: the processes stand still, the connections' packets are held. `connections`: duplicates of the TCP sockets, borrowed.
    package func cut(connections: [Int32]) throws(CheckpointError) {
        group =
            if let declared { try GroupChannels.declared(declared, group.connections, namespace: namespace) } else {
                try GroupChannels.inCut(group, root: root, options.request, namespace: namespace)
            }
        (locals, channels) = try capture(withQueues: true, connections: connections)
        state = try readState()
    }

    /// Without what the servers of a declared group have exported.
    package func session(_ id: SessionID, _ connections: [TCPChannel]) -> Session {
        Session(id: id, channels: connections, locals: channels, processes: group.processes, state: state)
    }

    /// The session lives elsewhere: its bytes in flight are taken out, and its processes ended if that was wanted. They still stand still.
    package func letGo() {
        locals?.empty()
        for process in processesToEnd { _ = process.signal(SIGKILL) }
    }

    /// Those that serve nobody else.
    package var processesToEnd: [TargetProcess] {
        options.endsProcesses ? group.members.filter { !$0.isShared }.map(\.process) : []
    }

    /// For a journal: where to find the channels whose bytes are taken out at the end.
    package var journalRecord: [SourceEntry.Local] {
        group.ends.filter { $0.kind == .unix || ($0.kind == .pipe && $0.isReader) }.map { end in
            let (member, fd) = end.holders[0]
            let process = group.members[member].process
            var offset: Int32?
            if end.kind == .unix, let copy = process.duplicate(fd, withInode: end.inode) { offset = SocketPeek.offset(of: copy.raw) }
            return SourceEntry.Local(pid: process.pid, fd: fd, inode: end.inode, peekOffset: offset)
        }
    }
}
