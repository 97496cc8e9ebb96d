// What workers report, as metrics.

import SCEngine

extension Metrics {
    func note(_ report: WorkerReport) {
        if ["accepted", "answered"].contains(report.outcome) { return }
        add(Family.migrations, [report.role, report.outcome])
        if report.outcome == "moved" { add(Family.sessionsMoved, [report.role], Double(report.sessions)) }
        if let check = report.check { add(Family.refusals, [check]) }
        if let blackout = report.blackout { observe(Family.blackout, nanoseconds: blackout) }
        for stage in report.stages { observe(Family.stageDuration, [stage.name], nanoseconds: stage.nanoseconds) }
    }
}
