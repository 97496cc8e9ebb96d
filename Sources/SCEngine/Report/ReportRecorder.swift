// Watches one migration and writes its report, however it ends.

import Glibc
import SCImage

/// Opens the report's file before the migration, so that a path that cannot be written is refused while nothing has happened, and puts the
/// finished report into its place in one step.
package final class ReportRecorder {
    private let path: String
    private var file: ImageFile?
    private var report = MigrationReport()
    private let origin = monotonicNanoseconds()
    private var current: Int?

    package init(_ path: String, _ request: MigrationRequest, pid: Int32) throws(CheckpointError) {
        self.path = path
        guard path != "-" else {
            throw CheckpointError(
                "the report cannot be written to standard output", why: "the result of the migration is printed there", errno: EINVAL,
                advice: "Name a file: --report FILE", outcome: .usage)
        }
        do throws(ImageError) {
            file = try ImageFile(creating: path)
        } catch {
            throw Self.failure(error, path)
        }
        report.sourceHost = hostName()
        report.process = String(pid)
        report.target = request.target.description
        report.handover = request.handover.summary
        report.steering = request.steering.name
        report.startedAt = wallClockNanoseconds()
    }

    /// The process is known; its sessions are looked at once more, for their queues and ids.
    package func found(_ process: TargetProcess, _ filter: SessionFilter) {
        report.process = "\(process.pid) (\(process.command))"
        guard let selection = try? selectSessions(of: process, filter) else { return }
        report.sessions = selection.chosen.map { .init($0) }
        report.refused = selection.refused.map { .init(client: $0.channel.peer, service: $0.channel.local, reason: $0.channel.reason ?? "") }
    }

    /// A stage begins; the one before has ended.
    package func began(_ stage: Stage) {
        endStage()
        current = report.stages.firstIndex { $0.name == stage.rawValue }
        if let current { report.stages[current].start = monotonicNanoseconds() - origin }
    }

    private func endStage() {
        guard let index = current, let start = report.stages[index].start else { return }
        report.stages[index].duration = monotonicNanoseconds() - origin - start
        current = nil
    }

    /// The migration came to its end.
    package func finish(_ result: MigrationResult, dryRun: Bool) throws(CheckpointError) {
        endStage()
        report.total = monotonicNanoseconds() - origin
        report.take(result.timeline)
        report.outcome = dryRun ? .accepted : .moved
        for left in result.leftOut {
            let (client, service) = (left.flow.client.description, left.flow.service.description)
            report.sessions.removeAll { $0.client == client && $0.service == service }
            report.refused.append(.init(client: client, service: service, reason: left.reason))
        }
        report.targetHost = result.host
        report.blackout = result.blackout
        try write()
    }

    /// It failed. The times are those of the stages' beginnings; the last one includes giving the sessions back.
    package func finish(_ error: CheckpointError) throws(CheckpointError) {
        if let current { report.stages[current].isFailed = true }
        endStage()
        report.total = monotonicNanoseconds() - origin
        report.take(error)
        report.blackout = report.blackoutSpan.map { $0.end - $0.start } ?? 0
        try write()
    }

    private func write() throws(CheckpointError) {
        do throws(ImageError) {
            if var sink = file?.sink { try sink.write(Array(report.html.utf8)) }
            try file?.commit()
            file = nil
        } catch {
            throw Self.failure(error, path)
        }
    }

    private static func failure(_ error: ImageError, _ path: String) -> CheckpointError {
        if case .io(let number, _) = error { return CheckpointError("cannot write the report \(path)", result: Int(-number)) }
        return CheckpointError("cannot write the report \(path)", why: error.description, errno: EINVAL, advice: "Name a regular file")
    }
}

/// CLOCK_REALTIME in nanoseconds since 1970.
func wallClockNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
