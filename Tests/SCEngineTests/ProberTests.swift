// What is looked at while it changes.

import Glibc
import Support
import Testing

@testable import SCEngine

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct ProberTests {
    /// A prefork server does this.
    @Test func `processes of a tree that end meanwhile are left out`() throws {
        let lab = try Lab()
        defer { lab.down() }
        let parent = try lab.spawn(in: nil, ["sh", "-c", "while :; do /bin/true & /bin/true & wait; done"])
        let root = try TargetProcess(pid: parent.pid)
        var most = 0
        for _ in 0..<500 { most = max(most, try Prober().channels(ofTree: root).count) }
        #expect(most > 1)
        parent.terminate()
    }
}
