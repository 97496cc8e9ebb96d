// Which sessions go to which target next, while many of them leave a host: a pure value that hears how each attempt ended.

/// The plan of a drain. Sessions and targets are numbers, in the order in which they were given.
///
/// Fresh sessions go in batches, to the target that has the fewest for its weight. The sessions of a batch that failed are tried there one by one, after
/// the fresh ones, and each that fails again goes to the next target, alone. One that its own host holds back is tried once more, alone.
/// A target that refuses several times in a row is asked last.
package struct DrainPlan {
    /// One move to be tried.
    package struct Attempt: Equatable, Sendable {
        package var target: Int
        package var sessions: [Int]

        package init(target: Int, sessions: [Int]) { (self.target, self.sessions) = (target, sessions) }
    }

    package enum Outcome: Equatable, Sendable {
        case moved
        /// The target declined, or the move was rolled back: the sessions are here.
        case refused(String)
        case unreachable(String)
        /// Nobody knows yet where they are.
        case unknown(String)
    }

    package enum Fate: Equatable, Sendable {
        case waiting
        case moved(target: Int)
        /// The targets that were asked, and their reasons; none: nobody was.
        case stayed([Refusal])
        case unknown(target: Int, String)
        /// The session ended by itself.
        case ended
    }

    package struct Refusal: Equatable, Sendable {
        /// nil: it is no target's reason.
        package var target: Int?
        package var reason: String

        package init(target: Int?, reason: String) { (self.target, self.reason) = (target, reason) }
    }

    package struct Target: Equatable, Sendable {
        package let weight: Int
        package fileprivate(set) var moved = 0
        /// Why it gets nothing any longer.
        package fileprivate(set) var leftOut: String?
        /// Refusals, and failures to reach it, since the last success.
        fileprivate var refusals = 0
        fileprivate var misses = 0

        fileprivate var isReluctant: Bool { refusals >= DrainPlan.patience }
        fileprivate var isLive: Bool { leftOut == nil }

        /// It has fewer sessions for its weight.
        fileprivate func isBehind(_ other: Target) -> Bool { moved * other.weight < other.moved * weight }
    }

    /// So many failures in a row say something about a target.
    static let patience = 3

    package private(set) var fates: [Fate]
    package private(set) var targets: [Target]
    private let groups: [Int]
    private let largest: Int
    private var waiting: [Int]
    /// By session: the targets where a batch with it failed (the last one last), and those that refused it alone.
    private var suspected: [[Int]]
    private var refused: [[Refusal]]
    /// By session: a batch went on without it.
    private var leftOut: [Bool]
    /// The target that could not be reached a moment ago: others come first.
    private var resting: Int?

    /// `groups`: sessions of different ones cannot go together. `largest`: the most sessions of one attempt.
    package init(groups: [Int], weights: [Int], largest: Int) {
        (self.groups, self.largest) = (groups, max(1, largest))
        targets = weights.map { Target(weight: max(1, $0)) }
        fates = groups.map { _ in .waiting }
        waiting = Array(groups.indices)
        suspected = groups.map { _ in [] }
        refused = groups.map { _ in [] }
        leftOut = groups.map { _ in false }
    }

    // MARK: What comes next

    /// The next attempt; nil when every session has its fate.
    package mutating func next() -> Attempt? {
        settleHopeless()
        for target in ranking() {
            let candidates = waiting.filter { isAllowed($0, at: target) }
            guard let first = candidates.first else { continue }
            let together = candidates.filter { !isAlone($0, at: target) }
            // Fresh sessions first: a bad one holds nobody up.
            guard let leader = together.first else { return Attempt(target: target, sessions: [first]) }
            let count = min(largest, max(1, share(of: target, among: together.count)))
            return Attempt(target: target, sessions: Array(together.filter { groups[$0] == groups[leader] }.prefix(count)))
        }
        return nil
    }

    /// The targets in the order in which they are asked.
    private func ranking() -> [Int] {
        func rank(_ target: Int) -> Int { targets[target].isReluctant ? 2 : target == resting ? 1 : 0 }
        return targets.indices.filter { targets[$0].isLive }.sorted { one, other in
            if rank(one) != rank(other) { return rank(one) < rank(other) }
            if targets[one].isBehind(targets[other]) { return true }
            return !targets[other].isBehind(targets[one]) && one < other
        }
    }

    /// How many of `count` sessions are the target's, when each goes to the one that is furthest behind.
    private func share(of target: Int, among count: Int) -> Int {
        var simulated = targets
        let usable = targets.indices.filter { targets[$0].isLive && (!targets[$0].isReluctant || $0 == target) }
        for _ in 0..<count {
            let next = usable.dropFirst().reduce(usable[0]) { simulated[$1].isBehind(simulated[$0]) ? $1 : $0 }
            simulated[next].moved += 1
        }
        return simulated[target].moved - targets[target].moved
    }

    private func hasRefused(_ session: Int, _ target: Int) -> Bool { refused[session].contains { $0.target == target } }

    private func isAllowed(_ session: Int, at target: Int) -> Bool {
        guard !hasRefused(session, target) else { return false }
        guard let home = home(of: session) else { return true }
        return home == target
    }

    /// Where its batch failed and it has yet to be tried alone; nil when it is free to go anywhere.
    private func home(of session: Int) -> Int? {
        guard let last = suspected[session].last, targets[last].isLive, !hasRefused(session, last) else { return nil }
        guard targets[last].isReluctant else { return last }
        let others = targets.indices.filter { $0 != last && targets[$0].isLive && !hasRefused(session, $0) }
        return others.isEmpty ? last : nil
    }

    private func isAlone(_ session: Int, at target: Int) -> Bool {
        leftOut[session] || !refused[session].isEmpty || suspected[session].contains(target)
    }

    private mutating func settleHopeless() {
        for session in waiting where !targets.indices.contains(where: { targets[$0].isLive && !hasRefused(session, $0) }) {
            // What could not be reached is not among its refusals.
            let unreached = targets.indices.filter { !hasRefused(session, $0) }.map { Refusal(target: $0, reason: targets[$0].leftOut ?? "") }
            fates[session] = .stayed(refused[session] + unreached)
        }
        forgetSettled()
    }

    private mutating func forgetSettled() { waiting.removeAll { fates[$0] != .waiting } }

    // MARK: What came of it

    package mutating func note(_ attempt: Attempt, _ outcome: Outcome) {
        let target = attempt.target
        resting = nil
        switch outcome {
        case .moved:
            for session in attempt.sessions { fates[session] = .moved(target: target) }
            targets[target].moved += attempt.sessions.count
            (targets[target].refusals, targets[target].misses) = (0, 0)
        case .refused(let reason):
            targets[target].refusals += 1
            targets[target].misses = 0
            if attempt.sessions.count == 1 {
                refused[attempt.sessions[0]].append(Refusal(target: target, reason: reason))
            } else {
                for session in attempt.sessions { suspected[session].append(target) }
            }
        case .unreachable(let reason):
            resting = target
            targets[target].misses += 1
            if targets[target].misses >= Self.patience { leaveOut(target, reason) }
        case .unknown(let reason):
            for session in attempt.sessions { fates[session] = .unknown(target: target, reason) }
        }
        forgetSettled()
    }

    /// This target gets nothing any longer.
    package mutating func leaveOut(_ target: Int, _ reason: String) { targets[target].leftOut = reason }

    /// These have ended by themselves.
    package mutating func noteEnded(_ sessions: [Int]) {
        for session in sessions { fates[session] = .ended }
        forgetSettled()
    }

    /// It was left out of its batch, for a reason that is no target's: it is tried alone, after the fresh ones, and stays when that fails in the same way.
    package mutating func noteLeftOut(_ session: Int, _ reason: String) {
        if leftOut[session] { return keep([session], reason) }
        leftOut[session] = true
    }

    /// All that still wait stay.
    package mutating func keepRest(_ reason: String) { keep(waiting, reason) }

    /// These stay, whatever the targets say.
    package mutating func keep(_ sessions: [Int], _ reason: String) {
        for session in sessions where fates[session] == .waiting {
            fates[session] = .stayed(refused[session] + [Refusal(target: nil, reason: reason)])
        }
        forgetSettled()
    }
}
