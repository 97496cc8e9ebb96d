// Stops the processes that serve a session for the moment in which its channels are read, and lets them go on.

import CProc
import Glibc

/// A set of stopped processes. They go on when `resume` is called, when the value ends, and, by a guard process, when this tool is killed.
package final class StoppedProcesses {
    private struct Stopped {
        let process: TargetProcess
        /// Somebody else had stopped it before: it stays stopped.
        let wasStopped: Bool
        /// The guard's pipe; -1 once disarmed.
        var guardPipe: Int32
    }

    private var stopped: [Stopped] = []

    package init() {}

    deinit { resume() }

    /// Stops one more process and waits until all its threads stand still. A process that had been stopped before is left so in the end.
    package func stop(_ process: TargetProcess, timeout: Int32 = 2000) throws(CheckpointError) {
        let result = try check(
            cproc_stop(process.pid, process.rawPIDFD, timeout), "cannot stop process \(process.pid) (\(process.command))",
            advice: "It has to hold still for the instant of the dump; stopping another user's process needs CAP_KILL")
        let wasStopped = result >= CPROC_ALREADY_STOPPED
        stopped.append(Stopped(process: process, wasStopped: wasStopped, guardPipe: -1))
        if !wasStopped { stopped[stopped.count - 1].guardPipe = cproc_stop_guard(process.rawPIDFD) }
    }

    /// Lets all go on.
    package func resume() {
        for entry in stopped {
            if !entry.wasStopped { _ = cproc_continue(entry.process.rawPIDFD) }
            disarm(entry.guardPipe)
        }
        stopped = []
    }

    /// Those that were running before.
    package var processes: [TargetProcess] { stopped.filter { !$0.wasStopped }.map(\.process) }

    /// Leaves the processes stopped beyond the life of this tool (`snapshot --take`); returns those this tool stopped.
    package func keepStopped() -> [TargetProcess] {
        for entry in stopped { disarm(entry.guardPipe) }
        defer { stopped = [] }
        return processes
    }

    private func disarm(_ pipe: Int32) {
        guard pipe >= 0 else { return }
        var byte: UInt8 = 1
        _ = write(pipe, &byte, 1)
        close(pipe)
    }
}
