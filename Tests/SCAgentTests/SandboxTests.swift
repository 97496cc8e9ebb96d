// What gets through a terminator, and what is left to one that was taken over.

import CProc
import Glibc
import SCAgent
import SCEngine
import SCImage
import Support
import Testing

@Suite(.serialized)
struct SandboxTests {
    /// A trusted stranger sends `bytes` through TLS: what the engine gets to read, and the largest memory of the terminator in KiB.
    private func passedOn(_ bytes: [UInt8], _ limits: TerminatorLimits = testLimits()) throws -> (bytes: [UInt8], pid: Int32) {
        let (a, b, door) = (try Host(), try Host(), try Door())
        try b.trust("a", a)
        let stranger = try openssl(a, port: door.port, sending: bytes)
        return try withExtendedLifetime(stranger) {
            let pending = try acceptPeer(door.accept(), store: b.store, limits: limits)
            #expect(try pending.result().name == "a")
            return (drain(pending.link.raw), pending.pid)
        }
    }

    private func messages(_ bytes: [UInt8]) throws -> [WireMessage] {
        var reader = try WireReader(MemorySource(bytes))
        var result: [WireMessage] = []
        while let message = try reader.next() { result.append(message) }
        return result
    }

    @Test func `a flipped byte is not passed on, and the engine sees the end`() throws {
        let good = try wire([report(1), report(2)])
        for place in [good.count - 1, good.count - 20] {
            var bad = good
            bad[place] ^= 0x40
            let heard = try messages(passedOn(bad).bytes)
            #expect(heard.first == report(1))
            guard heard.count == 2, case .failure(let failure) = heard[1] else {
                Issue.record("\(heard)")
                continue
            }
            #expect(failure.what.contains("does not speak this tool's protocol"))
        }
        var noWire = good
        noWire[1] ^= 1
        #expect(try passedOn(noWire).bytes.isEmpty)
    }

    @Test func `a record longer than the limit is refused before it comes`() throws {
        let header: [UInt8] = [2, 0, 1, 0, 0xff, 0xff, 0xff, 0x7f, 1, 2, 3, 4]
        let heard = try messages(passedOn(wire([]) + header).bytes)
        guard heard.count == 1, case .failure(let failure) = heard[0] else { throw LabError("\(heard)") }
        #expect(failure.why.contains("over the limit"), "\(failure)")
    }

    @Test func `a session that does not fit into the memory is refused`() throws {
        var session = Session(id: SessionID(high: 1, low: 2), channels: [])
        session.state = [UInt8](repeating: 7, count: 20 << 20)
        let whole = try wire([.session(session)])
        var limits = testLimits()
        limits.memoryBytes = 32 << 20
        let heard = try messages(passedOn(Array(whole.prefix(1 << 15)), limits).bytes)
        guard heard.count == 1, case .failure(let failure) = heard[0] else { throw LabError("\(heard)") }
        #expect(failure.why.contains("over the limit"), "\(failure)")
    }

    @Test(.enabled(if: geteuid() == 0, "only root can become nobody")) func `a terminator has no rights and no way to any`() throws {
        let joined = try Joined()
        let pid = joined.server.pid
        var status: [Substring: [Substring]] = [:]
        for line in Support.readText("/proc/\(pid)/status").split(separator: "\n") {
            let words = line.split { $0 == ":" || $0 == "\t" || $0 == " " }
            status[words[0]] = Array(words.dropFirst())
        }
        #expect(status["Uid"] == ["65534", "65534", "65534", "65534"])
        #expect(status["Gid"] == ["65534", "65534", "65534", "65534"])
        #expect(status["Groups"] == [])
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] as [Substring] { #expect(status[set] == ["0000000000000000"], "\(set)") }
        #expect(status["NoNewPrivs"] == ["1"])
        #expect(status["Seccomp"] == ["2"])
        #expect(status["Threads"] == ["1"])
        #expect(eventually(within: .seconds(5)) { listFolder("/proc/\(pid)/fd").count == 5 })
        let limits = Support.readText("/proc/\(pid)/limits")
        for line in ["Max open files            3 ", "Max processes             0 ", "Max file size             0 ", "Max core file size        0 "] {
            #expect(limits.contains(line), "\(line)")
        }
    }

    @Test(.enabled(if: geteuid() == 0)) func `the private key is gone from memory before the first message`() throws {
        let joined = try Joined()
        let seed = try privateSeed(joined.b)
        #expect(try occurrences(of: seed, in: joined.server.pid) == 0)
        #expect(try occurrences(of: Array("-----BEGIN PRIVATE KEY-----".utf8), in: joined.server.pid) <= 1)
        let base64 = Array(Support.readText("\(joined.b.directory)/key.pem").split(separator: "\n")[1].utf8)
        #expect(try occurrences(of: base64, in: joined.server.pid) == 0)
        // The way of looking works: the certificate's name is there.
        #expect(try occurrences(of: Array("does not speak this tool".utf8), in: joined.server.pid) > 0)
    }

    private func privateSeed(_ host: Host) throws -> [UInt8] {
        let text = Array(Support.readText("\(host.directory)/key.pem").split(separator: "\n")[1])
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
        let bits = text.compactMap { alphabet.firstIndex(of: $0) }
        let bytes = stride(from: 0, to: bits.count - 3, by: 4).flatMap { index -> [UInt8] in
            let word = bits[index] << 18 | bits[index + 1] << 12 | bits[index + 2] << 6 | bits[index + 3]
            return [UInt8(word >> 16 & 255), UInt8(word >> 8 & 255), UInt8(word & 255)]
        }
        return Array(bytes.suffix(32))
    }

    private func occurrences(of needle: [UInt8], in pid: Int32) throws -> Int {
        let memory = try check(open("/proc/\(pid)/mem", O_RDONLY | O_CLOEXEC), "mem")
        defer { close(memory) }
        var found = 0
        for line in Support.readText("/proc/\(pid)/maps").split(separator: "\n") where line.contains(" r") {
            let ends = line.split(separator: " ")[0].split(separator: "-").compactMap { UInt64($0, radix: 16) }
            guard ends.count == 2, ends[1] - ends[0] < 512 << 20, ends[1] < 1 << 47 else { continue }
            var bytes = [UInt8](repeating: 0, count: Int(ends[1] - ends[0]))
            let count = pread(memory, &bytes, bytes.count, Int(ends[0]))
            guard count > 0 else { continue }
            bytes.withUnsafeBytes { hay in
                var start = 0
                while start < count {
                    let hit = cproc_find(hay.baseAddress! + start, count - start, needle, needle.count)
                    if hit < 0 { break }
                    (found, start) = (found + 1, start + Int(hit) + 1)
                }
            }
        }
        return found
    }

    @Test func `a terminator ends with either end of its conversation`() throws {
        for closing in [true, false] {
            var joined: Joined? = try Joined()
            let pid = joined!.server.pid
            if closing {
                joined = nil
            } else {
                kill(pid, SIGKILL)
                #expect(drain(joined!.client.raw).isEmpty)
            }
            #expect(eventually(within: .seconds(5)) { waitpid(pid, nil, WNOHANG) != 0 })
        }
    }

    @Test func `a silent peer is dropped when its time is over`() throws {
        var limits = testLimits()
        limits.idleMilliseconds = 300
        let joined = try Joined(limits)
        #expect(drain(joined.server.link.raw).isEmpty)
        #expect(drain(joined.client.raw).isEmpty)
    }
}
