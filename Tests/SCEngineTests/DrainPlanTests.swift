// The plan of a drain: shares by weight, batches, and the order of the retries.

import SCEngine
import Testing

@Suite struct DrainPlanTests {
    private typealias Attempt = DrainPlan.Attempt

    private func plan(_ count: Int, _ weights: [Int] = [1], largest: Int = 64) -> DrainPlan {
        DrainPlan(groups: Array(repeating: 0, count: count), weights: weights, largest: largest)
    }

    /// Runs the plan to its end; `judge` says how an attempt ends. The attempts in their order.
    private func run(_ plan: inout DrainPlan, _ judge: (Attempt) -> DrainPlan.Outcome) -> [Attempt] {
        var attempts: [Attempt] = []
        while let attempt = plan.next() {
            attempts.append(attempt)
            plan.note(attempt, judge(attempt))
            if attempts.count > 1000 { break }
        }
        #expect(attempts.count <= 1000, "the plan does not end")
        return attempts
    }

    private func moved(_ plan: DrainPlan) -> [Int] { plan.targets.map(\.moved) }

    @Test(arguments: [([1], [40]), ([3, 1], [30, 10]), ([1, 1, 1], [14, 13, 13]), ([5, 3], [25, 15])] as [([Int], [Int])])
    func `each target gets its share`(weights: [Int], shares: [Int]) {
        for largest in [1, 7, 64] {
            var plan = plan(40, weights, largest: largest)
            let attempts = run(&plan) { _ in .moved }
            #expect(moved(plan) == shares && attempts.allSatisfy { $0.sessions.count <= largest })
            #expect(attempts.flatMap(\.sessions).sorted() == Array(0..<40))
        }
    }

    @Test func `the largest shares go first and together`() {
        var plan = plan(40, [3, 1])
        #expect(run(&plan) { _ in .moved }.map { [$0.target, $0.sessions.count] } == [[0, 30], [1, 10]])
    }

    @Test func `sessions of different namespaces never go together`() {
        var plan = DrainPlan(groups: [0, 1, 0, 1, 2], weights: [1], largest: 64)
        #expect(run(&plan) { _ in .moved }.map(\.sessions) == [[0, 2], [1, 3], [4]])
    }

    @Test func `one bad session is found alone, after the fresh ones, and holds nobody up`() {
        var plan = plan(6, largest: 3)
        let attempts = run(&plan) { $0.sessions.contains(1) ? .refused("no") : .moved }
        #expect(attempts.map(\.sessions) == [[0, 1, 2], [3, 4, 5], [0], [1], [2]])
        #expect(plan.fates[1] == .stayed([.init(target: 0, reason: "no")]) && moved(plan) == [5])
    }

    @Test func `what its own host holds back is tried once more, alone, and is no target's fault`() {
        var plan = plan(5, [1, 1], largest: 3)
        var batches: [[Int]] = []
        while let attempt = plan.next() {
            batches.append(attempt.sessions)
            let (held, rest) = (attempt.sessions.filter { $0 < 2 }, attempt.sessions.filter { $0 >= 2 })
            // Session 0 never parks, session 1 does when it is asked again.
            for session in held where session == 0 || attempt.sessions.count > 1 { plan.noteLeftOut(session, "busy") }
            let moved = attempt.sessions == [1] ? [1] : rest
            if !moved.isEmpty { plan.note(Attempt(target: attempt.target, sessions: moved), .moved) }
            if batches.count > 10 { break }
        }
        #expect(batches.suffix(2) == [[0], [1]] && batches.count <= 5, "\(batches)")
        #expect(plan.fates[0] == .stayed([.init(target: nil, reason: "busy")]) && plan.targets.map(\.moved).reduce(0, +) == 4)
    }

    @Test func `what one target refuses the next one gets, alone`() {
        var plan = plan(4, [1, 1])
        let attempts = run(&plan) { $0.target == 0 && $0.sessions.contains(0) ? .refused("no") : .moved }
        #expect(attempts.first == Attempt(target: 0, sessions: [0, 1]))
        #expect(attempts.contains(Attempt(target: 0, sessions: [0])) && attempts.last == Attempt(target: 1, sessions: [0]))
        #expect(moved(plan) == [2, 2])
    }

    @Test func `a session that nobody takes stays with every reason`() {
        var plan = plan(3, [1, 1])
        _ = run(&plan) { $0.sessions.contains(2) ? .refused("no \($0.target)") : .moved }
        guard case .stayed(let refusals) = plan.fates[2] else { return #expect(Bool(false), "\(plan.fates)") }
        #expect(Set(refusals.map(\.reason)) == ["no 0", "no 1"] && moved(plan).reduce(0, +) == 2)
    }

    @Test func `a full target costs a few questions, and the others get its share in batches`() {
        var plan = plan(640, [1, 1])
        let attempts = run(&plan) { $0.target == 0 ? .refused("full") : .moved }
        #expect(moved(plan) == [0, 640] && attempts.filter { $0.target == 0 }.count == 3)
        #expect(attempts.filter { $0.target == 1 }.count == 10)
    }

    @Test func `the only target is asked for every session`() {
        var plan = plan(10)
        let attempts = run(&plan) { _ in .refused("full") }
        #expect(attempts.count == 11 && plan.fates.allSatisfy { $0 == .stayed([.init(target: 0, reason: "full")]) })
    }

    @Test func `a target that cannot be reached three times in a row is left out`() {
        var plan = plan(256, [1, 1])
        let attempts = run(&plan) { $0.target == 0 ? .unreachable("down") : .moved }
        #expect(attempts.prefix(6).map(\.target) == [0, 1, 0, 1, 0, 1] && plan.targets[0].leftOut == "down" && moved(plan) == [0, 256])
        var alone = self.plan(5)
        #expect(run(&alone) { _ in .unreachable("down") }.count == 3)
        #expect(alone.fates.allSatisfy { $0 == .stayed([.init(target: 0, reason: "down")]) })
    }

    @Test func `a target that is reached again keeps its share`() {
        var plan = plan(100, [1, 1], largest: 10)
        var misses = 0
        _ = run(&plan) {
            guard $0.target == 0, misses < 2 else { return .moved }
            misses += 1
            return .unreachable("down")
        }
        #expect(moved(plan) == [50, 50] && plan.targets[0].leftOut == nil)
    }

    @Test func `what is in doubt is not touched again`() {
        var plan = plan(4, [1, 1])
        var isFirst = true
        let attempts = run(&plan) { _ in
            defer { isFirst = false }
            return isFirst ? .unknown("lost contact") : .moved
        }
        #expect(plan.fates[0] == .unknown(target: 0, "lost contact") && attempts.filter { $0.sessions.contains(0) }.count == 1)
    }

    @Test func `after the deadline all that wait stay, with their reason`() {
        var plan = plan(4, largest: 2)
        plan.note(plan.next()!, .moved)
        plan.noteEnded([2])
        plan.keepRest("the deadline has passed")
        #expect(plan.next() == nil && plan.fates[2] == .ended)
        #expect(plan.fates[3] == .stayed([.init(target: nil, reason: "the deadline has passed")]))
    }

    @Test func `whatever is refused, the plan ends and loses no session`() {
        for seed in 0..<200 {
            var state = UInt64(seed)
            func random(_ count: Int) -> Int {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                return Int(state >> 33) % count
            }
            var plan = DrainPlan(groups: (0..<30).map { _ in random(3) }, weights: (0..<3).map { _ in 1 + random(4) }, largest: 1 + random(12))
            _ = run(&plan) { _ in [.moved, .refused("a"), .refused("b"), .unreachable("c"), .unknown("d")][random(5)] }
            #expect(!plan.fates.contains(.waiting))
        }
    }
}
