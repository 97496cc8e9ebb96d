// How a lab ends: by `down()`, by its guard when its owner dies, or by a sweep that finds it without an owner.

internal import CSupport
internal import Glibc

extension Lab {
    /// One file per lab, named by its prefix, with the owner's pid and start time.
    static let records = "/run/sc-lab"

    /// Ends the lab's processes and removes its namespaces and files. Safe to call more than once.
    public func down() {
        let (wasUp, ended) = state.withLock { state in
            let ended = state
            state.isUp = false
            state.children = []
            state.handles = [:]
            state.guardian = nil
            return (ended.isUp, ended)
        }
        guard wasUp else { return }
        for child in ended.children { child.signal(SIGKILL) }
        for child in ended.children { _ = try? child.wait(timeout: .seconds(5)) }
        for fd in ended.handles.values { close(fd) }
        Lab.remove(prefix: prefix)
        ended.guardian?.dismiss()
    }

    /// Gives up the lab without removing it.
    func letGo() {
        state.withLock { state in
            for fd in state.handles.values { close(fd) }
            state.handles = [:]
            state.isUp = false
        }
    }

    /// The prefixes of all labs on this machine.
    public static func existing() -> [String] {
        listFolder(records)
    }

    /// Removes a lab by name: the processes in its namespaces, the namespaces, its folder and its record.
    public static func remove(prefix: String) {
        let namespaces = listFolder("/run/netns").filter { $0.hasPrefix(prefix + "-") }
        let alive = { namespaces.flatMap { processes(in: $0) } }
        for pid in alive() { kill(pid, SIGKILL) }
        _ = eventually(within: .seconds(2)) { alive().isEmpty }
        if !namespaces.isEmpty { try? ip(nil, namespaces.map { "netns delete \($0)" }, force: true) }
        removeTree("/tmp/\(prefix)")
        unlink("\(records)/\(prefix)")
    }

    /// Removes every lab whose owner has ended, and namespaces of labs that have no record. Returns their prefixes.
    @discardableResult
    public static func sweep() -> [String] {
        let dead = existing().filter { prefix in
            let fields = readText("\(records)/\(prefix)").split(whereSeparator: \.isWhitespace)
            guard fields.count == 2, let pid = pid_t(fields[0]) else { return true }
            return pid != 0 && startTime(pid) != fields[1]
        }
        let unknown = Set(
            listFolder("/run/netns").compactMap { name in
                let prefix = name.prefix { $0 != "-" }
                let isLab = prefix.count == 9 && prefix.hasPrefix("scl") && prefix.dropFirst(3).allSatisfy(\.isHexDigit)
                return isLab ? String(prefix) : nil
            }
        ).subtracting(existing())
        for prefix in dead + unknown { remove(prefix: prefix) }
        return dead + unknown
    }

    /// The processes that live in a named namespace, without the caller.
    public static func processes(in namespace: String) -> [Int32] {
        var wanted = stat()
        guard stat("/run/netns/\(namespace)", &wanted) == 0 else { return [] }
        return listFolder("/proc").compactMap { Int32($0) }.filter { pid in
            var own = stat()
            return pid != getpid() && stat("/proc/\(pid)/ns/net", &own) == 0 && own.st_ino == wanted.st_ino
                && own.st_dev == wanted.st_dev
        }
    }

    static func record(prefix: String, owner: pid_t) throws(LabError) {
        try makeFolder(records)
        try writeFile("\(records)/\(prefix)", "\(owner) \(owner == 0 ? "0" : startTime(owner) ?? "0")\n")
    }

    /// When the process started, in ticks since boot: together with the pid it names a process for good. nil when it has ended.
    private static func startTime(_ pid: pid_t) -> Substring? {
        let text = readText("/proc/\(pid)/stat")
        guard let name = text.lastIndex(of: ")") else { return nil }
        let fields = text[name...].split(separator: " ")
        return fields.count > 20 && fields[1] != "Z" ? fields[20] : nil
    }
}

/// A shell that waits for the end of this process, however it comes, and then removes the lab.
struct Guardian: Sendable {
    private let pid: pid_t
    /// The writing end of its standard input; the kernel closes it when this process ends.
    private let leash: Int32

    init(prefix: String, namespaces: [String], folder: String) throws(LabError) {
        var ends: [Int32] = [-1, -1]
        let result = csupport_pipe(&ends)
        guard result == 0 else { throw .errno("cannot make a pipe", result) }
        defer { close(ends[0]) }
        let names = namespaces.joined(separator: " ")
        let script = """
            read -r word && exit 0
            for name in \(names); do for pid in $(ip netns pids $name); do kill -9 $pid; done; done
            for name in \(names); do ip netns delete $name; done
            rm -rf \(folder) \(Lab.records)/\(prefix)
            """
        do {
            pid = try launch(Launch(command: ["sh", "-c", script], standardInput: ends[0], ownSession: true))
        } catch {
            close(ends[1])
            throw error
        }
        leash = ends[1]
    }

    /// Ends the guard without effect.
    func dismiss() {
        _ = write(leash, "done\n", 5)
        close(leash)
        var status: Int32 = 0
        _ = csupport_wait(pid, 2000, &status)
    }
}
