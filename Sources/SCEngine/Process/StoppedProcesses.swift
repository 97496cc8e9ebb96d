// Stops the processes that serve a session for the moment in which its channels are read, and lets them go on.

import CProc
import Glibc

/// A set of stopped processes. They go on when `resume` is called, when the value ends, and, by a guard process, when this tool is killed. Within a
/// journaled move there is no guard: the move's keeper unlocks the sockets first and continues the processes then.
package final class StoppedProcesses {
    private struct Stopped {
        let process: TargetProcess
        /// Somebody else had stopped it before: it stays stopped.
        let wasStopped: Bool
    }

    private var stopped: [Stopped] = []
    /// The guards' pipes, by pid.
    private var guards: [Int32: Int32] = [:]

    private let isGuarded: Bool

    package init(isGuarded: Bool = true) { self.isGuarded = isGuarded }

    deinit { resume() }

    /// Starts the guard of a process that will be stopped; done early, because starting a process takes longer than a blackout may.
    package func arm(_ process: TargetProcess) {
        if isGuarded, guards[process.pid] == nil { guards[process.pid] = process.startStopGuard() }
    }

    /// Stops one more process and waits until all its threads stand still. A process that had been stopped before is left so in the end.
    package func stop(_ process: TargetProcess, timeout: Int32 = 2000) throws(CheckpointError) {
        arm(process)
        let result = try check(
            process.stop(timeout: timeout), "cannot stop process \(process.pid) (\(process.command))",
            advice: process.isAlive ? "It has to hold still for the instant of the dump; stopping another user's process needs CAP_KILL" : "")
        stopped.append(Stopped(process: process, wasStopped: result >= CPROC_ALREADY_STOPPED))
    }

    /// Asks processes to stop themselves at a point of their own choice, by a signal to each, and waits until all have. One that is late is called off
    /// by SIGCONT, like those that were in time.
    package func park(_ processes: [TargetProcess], by signal: Int32, timeout: Int32) throws(CheckpointError) {
        for process in processes {
            guard !process.isStopped else {
                throw CheckpointError(
                    "process \(process.pid) (\(process.command)) cannot park", why: "it is stopped already", errno: EBUSY,
                    advice: "Continue it first: kill -CONT \(process.pid)")
            }
        }
        for process in processes {
            arm(process)
            try check(process.signal(signal), "cannot ask process \(process.pid) (\(process.command)) to park")
            stopped.append(Stopped(process: process, wasStopped: false))
        }
        let deadline = Deadline(milliseconds: Int(timeout))
        for process in processes {
            let result = process.waitStopped(timeout: deadline.remainingMilliseconds)
            guard result == -ETIMEDOUT else {
                try check(result, "process \(process.pid) (\(process.command)) has ended instead of parking")
                continue
            }
            throw CheckpointError(
                "process \(process.pid) (\(process.command)) did not park", why: "it had not stopped itself \(timeout) ms after signal \(signal)",
                errno: ETIMEDOUT, advice: "It has to finish what it is at, write its state and raise SIGSTOP; see docs/local-channels.md")
        }
    }

    /// Lets all go on.
    package func resume() {
        for entry in stopped where !entry.wasStopped { entry.process.continueRunning() }
        disarm()
        stopped = []
    }

    /// Those that were running before.
    package var processes: [TargetProcess] { stopped.filter { !$0.wasStopped }.map(\.process) }

    /// Leaves the processes stopped beyond the life of this tool (`snapshot --take`); returns those this tool stopped.
    package func keepStopped() -> [TargetProcess] {
        disarm()
        defer { stopped = [] }
        return processes
    }

    private func disarm() {
        for pipe in guards.values where pipe >= 0 {
            var byte: UInt8 = 1
            _ = write(pipe, &byte, 1)
            close(pipe)
        }
        guards = [:]
    }
}
