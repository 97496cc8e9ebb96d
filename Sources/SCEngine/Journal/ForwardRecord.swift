// Flows that this host passes on to another one: remembered, so that their rules go when the flows have ended there.

import CProc
import FoundationEssentials
import Glibc
import SCImage

/// The flows of one finished move whose packets this host passes on, in a file of its own beside the journals.
package struct ForwardRecord: Codable, Sendable {
    package var migration: String
    package var boot: String
    package var target: TargetAddress
    package var shell: [String]
    package var program: String
    package var flows: [FlowText]
    /// The steering driver's record.
    package var steering: [String: String]
    /// A process of the flows' network namespace, and the namespace's inode, by which another process of it is found.
    package var pid: Int32
    package var namespace: UInt64

    /// Remembers the flows of a finished move, if its driver passes them on for as long as they live.
    static func note(
        _ migration: MigrationID, _ target: TargetAddress, shell: [String], program: String, flows: [Flow], steering: [String: String], pid: Int32,
        namespace: NetworkNamespace
    ) {
        guard steering["lasting"] == "yes" else { return }
        ForwardRecord(
            migration: migration.description, boot: JournalWriter.own.boot, target: target, shell: shell, program: program,
            flows: flows.map(FlowText.init), steering: steering, pid: pid, namespace: namespace.identity.inode
        ).save()
    }

    private static var directory: String { StateDirectory.persistent + "/forwards" }

    package static var exist: Bool { !list().isEmpty }

    package static func list() -> [ForwardRecord] {
        var result: [ForwardRecord] = []
        for name in entryNames(of: directory) ?? [] {
            guard MigrationID(name) != nil, let bytes = readBytes("\(directory)/\(name)"),
                let record = try? JSONDecoder().decode(ForwardRecord.self, from: Data(bytes))
            else { continue }
            result.append(record)
        }
        return result.sorted { $0.migration < $1.migration }
    }

    /// A record that cannot be written costs only the rules' later removal, so it is no error.
    package func save() {
        guard !flows.isEmpty else { return remove() }
        for directory in [StateDirectory.persistent, Self.directory] { mkdir(directory, 0o700) }
        guard let data = try? JSONEncoder().encode(self) else { return }
        let bytes = Array(data)
        let temporary = "\(Self.directory)/.\(migration)"
        let fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard fd >= 0 else { return }
        let count = write(fd, bytes, bytes.count)
        close(fd)
        if count == bytes.count { rename(temporary, "\(Self.directory)/\(migration)") } else { unlink(temporary) }
    }

    private func remove() {
        unlink("\(Self.directory)/\(migration)")
        rmdir(Self.directory)
        rmdir(StateDirectory.persistent)
    }

    /// These flows are no longer passed on: they came back.
    package static func forget(_ flows: [Flow]) {
        let gone = Set(flows.map(FlowText.init))
        for var record in list() where record.flows.contains(where: gone.contains) {
            record.flows.removeAll(where: gone.contains)
            record.save()
        }
    }

    /// Asks the targets which flows still live, and removes the rules of the others; the number of flows removed.
    package static func collect(timeout: Int = 3000) -> Int {
        list().reduce(0) { $0 + $1.collectOne(timeout) }
    }

    private func collectOne(_ timeout: Int) -> Int {
        guard boot == JournalWriter.own.boot, let namespace = findNamespace() else {
            // The namespace went, or the host was restarted, and the rules with it.
            remove()
            return flows.count
        }
        let all = flows.compactMap(\.flow)
        guard let link = try? PeerLink.open(target, shell: shell, program: program, timeout: timeout),
            (try? link.send(.inquiry(Inquiry(flows: all)))) != nil, case .living(let living)? = try? link.receive()
        else { return 0 }
        let alive = Set(living.flows)
        let dead = all.indices.filter { !alive.contains($0) }.map { all[$0] }
        guard !dead.isEmpty, let driver = try? adoptSourceSteering(steering, flows: dead, in: namespace) else { return 0 }
        driver.rollBack()
        var rest = self
        rest.flows.removeAll { dead.map(FlowText.init).contains($0) }
        rest.save()
        return dead.count
    }

    private func findNamespace() -> NetworkNamespace? {
        for candidate in [pid, getpid()] + numericEntries(of: "/proc") {
            var status = stat()
            guard stat("/proc/\(candidate)/ns/net", &status) == 0, UInt64(status.st_ino) == namespace else { continue }
            return try? NetworkNamespace.of(pid: candidate)
        }
        return nil
    }
}
