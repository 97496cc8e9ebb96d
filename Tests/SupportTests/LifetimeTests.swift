// Labs end with their owners, however those end.

import Glibc
import Testing

@testable import Support

@Suite(.serialized, .enabled(if: geteuid() == 0, "needs root: it makes network namespaces"))
struct LifetimeTests {
    @Test func `sweep removes the lab of an owner that was killed and no other`() throws {
        let mine = try Lab()
        defer { mine.down() }
        let owner = try mine.spawn(in: nil, ["sleep", "60"])
        let orphan = try Lab(prefix: "scl" + String(UInt32.random(in: 0x100000...0xffffff), radix: 16), owner: owner.pid, guarded: false)
        let inhabitant = try orphan.spawn(in: .b, ["sleep", "60"])
        #expect(!Lab.sweep().contains(orphan.prefix))
        owner.signal(SIGKILL)
        try owner.wait()
        #expect(Lab.sweep().contains(orphan.prefix))
        #expect(listFolder("/run/netns").filter { $0.hasPrefix(orphan.prefix) } == [])
        #expect(inhabitant.poll() == 128 + SIGKILL)
        #expect(listFolder("/run/netns").filter { $0.hasPrefix(mine.prefix) }.count == 4)
    }

    @Test(arguments: [SIGINT, SIGTERM, SIGHUP, SIGKILL]) func `a lab ends with its process`(signal: Int32) throws {
        let mine = try Lab()
        defer { mine.down() }
        let owner = try mine.spawn(in: nil, [Lab.program("sc-lab"), "hold"], stdin: .pipe)
        try owner.waitForOutput("\n")
        let prefix = try #require(owner.lines.first)
        #expect(listFolder("/run/netns").filter { $0.hasPrefix(prefix) }.count == 4)
        owner.signal(signal)
        try owner.wait()
        #expect(
            eventually(within: .seconds(3)) {
                listFolder("/run/netns").filter { $0.hasPrefix(prefix) }.isEmpty && !Lab.existing().contains(prefix)
                    && !listFolder("/tmp").contains(prefix)
            })
    }
}
