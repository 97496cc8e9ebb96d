// A process whose sessions are looked at or moved: its pidfd, descriptors, threads and children.

import CProc
import Glibc

/// A process held by a pidfd, so that a pid used again by another process is never mistaken for it.
package final class TargetProcess: Sendable {
    package let pid: Int32
    /// The process's name (`/proc/PID/comm`).
    package let command: String
    private let pidfd: OwnedDescriptor

    package init(pid: Int32) throws(CheckpointError) {
        guard pid > 0 else {
            throw CheckpointError("\(pid) is no process", why: "a process id is positive", errno: EINVAL, advice: "Give the pid of the server")
        }
        self.pid = pid
        pidfd = OwnedDescriptor(try check(cproc_pidfd_open(pid), "cannot open process \(pid)"))
        command = Self.name(of: pid) ?? "?"
        try requireAlive()
    }

    /// The name of any process (`/proc/PID/comm`); nil when there is none.
    package static func name(of pid: Int32) -> String? { readText("/proc/\(pid)/comm").map { String($0.prefix { $0 != "\n" }) } }

    /// Throws ESRCH once the process has ended.
    package func requireAlive() throws(CheckpointError) {
        try check(cproc_pidfd_send_signal(pidfd.raw, 0), "process \(pid) (\(command)) cannot be reached")
    }

    /// Its pidfd, borrowed.
    package var pidfdNumber: Int32 { pidfd.raw }

    /// It is stopped by a signal (state T in /proc/PID/stat).
    package var isStopped: Bool {
        guard let text = readText("/proc/\(pid)/stat"), let name = text.lastIndex(of: ")") else { return false }
        return text[name...].dropFirst(2).first == "T"
    }

    /// It has not ended.
    var isAlive: Bool { (try? requireAlive()) != nil }

    /// SIGSTOP, and a wait until all threads stand still; a CProc result (`cproc_stop`).
    func stop(timeout: Int32) -> Int32 { cproc_stop(pid, pidfd.raw, timeout) }

    /// Sends a signal.
    func signal(_ number: Int32) -> Int32 { cproc_pidfd_send_signal(pidfd.raw, number) }

    /// Waits until all threads stand still, by the process's own doing; a CProc result (`cproc_wait_stopped`).
    func waitStopped(timeout: Int32) -> Int32 { cproc_wait_stopped(pid, pidfd.raw, timeout) }

    /// A guard that continues the process should this tool die (`cproc_stop_guard`); its pipe, or -errno.
    func startStopGuard() -> Int32 { cproc_stop_guard(pidfd.raw) }

    /// SIGCONT; a process that has ended needs none.
    package func continueRunning() { _ = cproc_continue(pidfd.raw) }

    /// The numbers of its open descriptors, in ascending order.
    package func descriptors() throws(CheckpointError) -> [Int32] {
        guard let numbers = listNumericEntries(of: "/proc/\(pid)/fd") else {
            throw CheckpointError(
                "cannot list the descriptors of process \(pid) (\(command))", result: Int(-errno),
                advice: errno == EACCES ? "Looking into another user's process needs CAP_SYS_PTRACE" : "")
        }
        return numbers
    }

    /// A duplicate of one of its descriptors, owned by the caller (pidfd_getfd(2)).
    package func duplicate(_ fd: Int32) throws(CheckpointError) -> OwnedDescriptor {
        let copy = cproc_pidfd_getfd(pidfd.raw, fd)
        if copy == -EPERM {
            throw CheckpointError(
                "cannot take a copy of descriptor \(fd) of process \(pid) (\(command))", result: Int(copy),
                advice: "pidfd_getfd needs CAP_SYS_PTRACE, or the same user and kernel.yama.ptrace_scope=0")
        }
        return OwnedDescriptor(
            try check(copy, "cannot take a copy of descriptor \(fd) of process \(pid) (\(command))", advice: copy == -EBADF ? "It was closed" : ""))
    }

    /// The same, if it is still the file with this inode; nil when the number stands for something else now, or for nothing.
    package func duplicate(_ fd: Int32, withInode inode: UInt64) -> OwnedDescriptor? {
        guard let copy = try? duplicate(fd), SCEngine.inode(of: copy.raw) == inode else { return nil }
        return copy
    }

    /// Its children, theirs, and so on, itself first; processes that end meanwhile are left out.
    package func tree() -> [TargetProcess] {
        var result = [self]
        for thread in numericEntries(of: "/proc/\(pid)/task") {
            for child in (readText("/proc/\(pid)/task/\(thread)/children") ?? "").split(separator: " ") {
                guard let child = Int32(child), let process = try? TargetProcess(pid: child) else { continue }
                result += process.tree()
            }
        }
        return result
    }

    /// Its parent, that one's parent, and so on.
    package var ancestors: [Int32] {
        var (result, current): ([Int32], Int32) = ([], pid)
        while current > 1, result.count < 64, let text = readText("/proc/\(current)/stat"), let end = text.lastIndex(of: ")") {
            let fields = text[text.index(after: end)...].split(separator: " ")
            guard fields.count > 1, let parent = Int32(fields[1]), parent > 0 else { break }
            result.append(parent)
            current = parent
        }
        return result
    }

    /// Where descriptor `fd` points (`/proc/PID/fd/N`): `socket:[123]`, `pipe:[4]`, a path.
    package func link(of fd: Int32) -> String? {
        var buffer = [CChar](repeating: 0, count: 4096)
        let count = readlink("/proc/\(pid)/fd/\(fd)", &buffer, buffer.count)
        return count < 0 ? nil : String(decoding: buffer.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// The processes of the system that hold the socket or pipe with this inode, `excluding` one.
    package static func holders(ofInode inode: UInt64, excluding: Int32) -> [TargetProcess] {
        holders(ofInodes: [inode]).filter { $0.pid != excluding }
    }

    /// Those that hold one of several, in one walk of /proc; without this process.
    package static func holders(ofInodes inodes: Set<UInt64>) -> [TargetProcess] {
        let wanted = Set(inodes.flatMap { ["socket:[\($0)]", "pipe:[\($0)]"] })
        return numericEntries(of: "/proc").compactMap { pid -> TargetProcess? in
            guard pid != getpid(), let process = try? TargetProcess(pid: pid) else { return nil }
            let numbers = (try? process.descriptors()) ?? []
            return numbers.contains { wanted.contains(process.link(of: $0) ?? "") } ? process : nil
        }
    }
}

/// The entries of a directory that are numbers, ascending; none when it cannot be read.
package func numericEntries(of path: String) -> [Int32] { listNumericEntries(of: path) ?? [] }

/// The same; nil, with errno, when the directory cannot be read.
private func listNumericEntries(of path: String) -> [Int32]? {
    entryNames(of: path)?.compactMap { Int32($0) }.sorted()
}

/// The text of a small file such as those of /proc; nil when it cannot be read.
package func readText(_ path: String) -> String? {
    readBytes(path).map { String(decoding: $0, as: UTF8.self) }
}

/// The bytes of a file; nil when it cannot be read.
package func readBytes(_ path: String) -> [UInt8]? {
    let fd = open(path, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else { return nil }
    defer { close(fd) }
    var result: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 16384)
    while true {
        let count = read(fd, &chunk, chunk.count)
        if count < 0 { return nil }
        if count == 0 { return result }
        result += chunk.prefix(count)
    }
}
