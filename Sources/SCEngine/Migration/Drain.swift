// Moves every session of some processes to one or several targets, batch by batch; each batch is a transaction of its own.

import CProc
import Glibc
import SCImage

/// A drain: the plan (`DrainPlan`), and the moves that it asks for.
package final class Drain {
    package struct Target: Sendable {
        package var address: TargetAddress
        package var weight: Int

        package init(_ address: TargetAddress, weight: Int = 1) { (self.address, self.weight) = (address, weight) }
    }

    package struct Options: Sendable {
        /// What all moves have in common; the target is put in.
        package var request: MigrationRequest
        package var targets: [Target]
        /// The most sessions of one move.
        package var largest = 64
        /// Nothing new is begun after it.
        package var deadline: Deadline?

        package init(_ request: MigrationRequest, to targets: [Target]) { (self.request, self.targets) = (request, targets) }
    }

    /// One move, for reports.
    package struct Attempt {
        package var target: TargetAddress
        package var sessions: Int
        package var outcome: Result<MigrationResult, CheckpointError>
        package var timeline: Timeline
    }

    package struct Progress: Equatable, Sendable {
        package var total, moved, stayed: Int
    }

    private let options: Options
    private let sessions: [DrainSession]
    private var plan: DrainPlan
    private var notBefore: [UInt64]
    private let begun = monotonicNanoseconds()
    private var blackouts: [UInt64] = []

    /// Called after every move.
    package var onAttempt: (Attempt) -> Void = { _ in }
    package var onProgress: (Progress) -> Void = { _ in }
    /// Somebody wants it to end; the reason.
    package var interruption: () -> String? = { nil }

    package init(_ selection: DrainSelection, _ options: Options) {
        self.options = options
        var selection = selection
        // Whoever cannot be asked now cannot be asked to park either, and that is when it is told.
        if let parking = (try? options.request.parking?(Set(selection.sessions.map(\.selected.channel.inode)))) ?? nil {
            selection.separate(Set(parking.groups.map(\.socket)))
            selection.pin(parking.pinned)
        }
        sessions = selection.sessions
        plan = DrainPlan(groups: selection.groups, weights: options.targets.map(\.weight), largest: options.largest)
        notBefore = options.targets.map { _ in 0 }
        for (index, session) in sessions.enumerated() {
            if let reason = session.immovable { plan.keep([index], reason) }
        }
    }

    /// Runs it to its end.
    package func run() -> DrainResult {
        tellProgress()
        while let attempt = plan.next() {
            if let reason = stopReason {
                plan.keepRest(reason)
                break
            }
            rest(until: notBefore[attempt.target])
            let (living, ended) = sort(attempt.sessions)
            plan.noteEnded(ended)
            // Fewer sessions may mean other shares.
            guard ended.isEmpty else { continue }
            if let held = waitForRecovered(living) { plan.keep(living, held) } else { move(attempt) }
            tellProgress()
        }
        return DrainResult(
            sessions: zip(sessions, plan.fates).map { .init($0.flow, $1, options.targets.map(\.address)) },
            leftOut: zip(options.targets, plan.targets).compactMap { target, state in state.leftOut.map { (target.address, $0) } },
            blackouts: blackouts, nanoseconds: monotonicNanoseconds() - begun)
    }

    private var stopReason: String? {
        if let deadline = options.deadline, deadline.hasPassed { return "the deadline passed before its turn" }
        return interruption()
    }

    private func tellProgress() {
        var progress = Progress(total: sessions.count, moved: 0, stayed: 0)
        for fate in plan.fates {
            switch fate {
            case .moved: progress.moved += 1
            case .stayed: progress.stayed += 1
            case .waiting, .unknown, .ended: break
            }
        }
        onProgress(progress)
    }

    /// An agent that turns away what comes too often, and a host that restarts, want a moment.
    private func rest(until time: UInt64) {
        while monotonicNanoseconds() < time, stopReason == nil { pause(microseconds: 10_000) }
    }

    private func sort(_ indexes: [Int]) -> (living: [Int], ended: [Int]) {
        let living = indexes.filter { !sessions[$0].selected.hasEnded }
        return (living, indexes.filter { !living.contains($0) })
    }

    // MARK: One move

    private func move(_ attempt: DrainPlan.Attempt) {
        var request = options.request
        request.target = options.targets[attempt.target].address
        let source = MigrationSource(request, moving: attempt.sessions.map { sessions[$0].selected })
        let outcome = Result { () throws(CheckpointError) in try source.run() }
        let rest = noteLeftOut(source, attempt)
        switch outcome {
        case .success(let result):
            plan.note(rest, .moved)
            if !request.dryRun { blackouts.append(result.blackout) }
        case .failure(let error) where !rest.sessions.isEmpty: fail(rest, source, error)
        // The last of them was left out too: that says nothing about the target.
        case .failure: break
        }
        onAttempt(Attempt(target: request.target, sessions: attempt.sessions.count, outcome: outcome, timeline: source.timeline))
    }

    /// What is left of the attempt.
    private func noteLeftOut(_ source: MigrationSource, _ attempt: DrainPlan.Attempt) -> DrainPlan.Attempt {
        var rest = attempt
        for left in source.leftOut {
            let session = attempt.sessions[left.number]
            rest.sessions.removeAll { $0 == session }
            if left.hasEnded { plan.noteEnded([session]) } else { plan.noteLeftOut(session, left.reason) }
        }
        return rest
    }

    private func fail(_ attempt: DrainPlan.Attempt, _ source: MigrationSource, _ error: CheckpointError) {
        if error.outcome == .needsRecovery {
            plan.note(attempt, .unknown("\(error.what): \(error.why)"))
            inDoubt.append(source.migration)
            if !isClosed(source.migration) { plan.leaveOut(attempt.target, "it gives no account of a move: \(error.why)") }
        } else if source.isReaching {
            plan.note(attempt, .unreachable("\(error.what): \(error.why)"))
            notBefore[attempt.target] = monotonicNanoseconds() + 300_000_000
        } else {
            let (_, ended) = sort(attempt.sessions)
            plan.noteEnded(ended)
            // What failed because one of them ended says nothing about the others.
            guard ended.isEmpty else { return }
            plan.note(attempt, .refused("\(error.what): \(error.why)"))
        }
    }

    // MARK: Moves in doubt

    private var inDoubt: [MigrationID] = []

    /// Its keeper has finished it; waits a little.
    private func isClosed(_ migration: MigrationID) -> Bool {
        let deadline = Deadline(milliseconds: 3000)
        while Journal.read(migration, .source) != nil {
            if deadline.hasPassed { return false }
            pause(microseconds: 10_000)
        }
        return true
    }

    /// A keeper that brings a move to its end continues the processes at a moment of its own, which must not lie in a capture: a reason not to touch
    /// these sessions, or nil.
    private func waitForRecovered(_ indexes: [Int]) -> String? {
        inDoubt.removeAll { Journal.read($0, .source) == nil }
        guard let doubtful = inDoubt.first else { return nil }
        let deadline = Deadline(milliseconds: 5000)
        while indexes.contains(where: { sessions[$0].selected.process.isStopped }) {
            if Journal.read(doubtful, .source) == nil { return nil }
            if deadline.hasPassed { return "its process stands still for the move \(doubtful), which is in doubt" }
            pause(microseconds: 10_000)
        }
        return nil
    }
}
