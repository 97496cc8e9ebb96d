// A server with a log is killed at many random instructions. What is left in its memory, completed by the socket's own counters, has to be exactly what it
// had read and written.

import CProc
import Glibc
import SC
import SCAgent
import SCEngine
import Support
import Testing

/// The answers of sc-logged, as Tests/Programs/sc-logged/logged.h has them.
struct Cipher {
    var position: UInt64 = 0
    var sum: UInt64 = 0

    mutating func answer(_ bytes: some Sequence<UInt8>) -> [UInt8] {
        bytes.map { byte in
            defer {
                sum = sum &* 6_364_136_223_846_793_005 &+ UInt64(byte) &+ 1
                position += 1
            }
            return byte ^ UInt8(truncatingIfNeeded: sum >> 24)
        }
    }
}

@Suite(.serialized) struct LogKillTests {
    private static let path = "/tmp/libsc-kill-\(getpid()).sock"

    private struct Figures { var whole = 0, withInput = 0, withOutput = 0, inCall = 0 }

    /// Starts a server, talks to it for a random time, kills it; checks what is left.
    private func kill(after microseconds: UInt32, port: UInt16, options: [String], _ figures: inout Figures) throws {
        let agent = try FakeAgent(Self.path)
        let child = try spawn(
            [Lab.program("sc-logged"), "serve", "127.0.0.1", String(port)] + options,
            environment: currentEnvironment().filter { !$0.hasPrefix("SC_AGENT_SOCKET=") } + ["SC_AGENT_SOCKET=\(Self.path)"], in: nil,
            standard: (-1, -1, 2), passing: [], listenPID: false)
        var isAlive = true
        func endServer() {
            guard isAlive else { return }
            Glibc.kill(child, SIGKILL)
            waitpid(child, nil, 0)
            isAlive = false
        }
        defer { endServer() }
        _ = try agent.accept()
        try agent.welcome(version: 2)
        let memory = ServerMemory(file: try #require(try agent.next().fds.first))
        _ = try agent.next()
        var endpoint = cproc_endpoint()
        (endpoint.family, endpoint.port) = (UInt16(AF_INET), port)
        (endpoint.address.0, endpoint.address.3) = (127, 1)
        let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(client) }
        try #require(cproc_connect(client, &endpoint) >= 0)
        let told = try agent.next()
        let number = told.bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_head.self) }.continuation
        let duplicate = try #require(told.fds.first)
        // Before its first export there is nothing to be taken up.
        try #require(eventually(within: .seconds(5)) { (try? memory.session(number, [.init(role: "client")])) != nil })

        // With the first answer the first export is there as well.
        var (sent, received): ([UInt8], [UInt8]) = ([1], [])
        _ = send(client, sent, 1, 0)
        while received.isEmpty, cproc_poll(client, Int16(POLLIN), 3000) > 0 { hear(client, &received) }
        let end = monotonicNanoseconds() + UInt64(microseconds) * 1000
        var state: UInt64 = UInt64(microseconds) + 1
        while monotonicNanoseconds() < end {
            var piece = [UInt8](repeating: 0, count: Int(state >> 40) % 3000 + 1)
            for index in piece.indices {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                piece[index] = UInt8(truncatingIfNeeded: state >> 56)
            }
            let count = send(client, piece, piece.count, Int32(MSG_DONTWAIT))
            if count > 0 { sent += piece.prefix(count) }
            hear(client, &received)
        }
        endServer()
        hear(client, &received)

        var all = Cipher()
        let expected = all.answer(sent)
        #expect(received.elementsEqual(expected.prefix(received.count)))
        let counted = try #require(SocketView(duplicate.raw).counted)
        let logged = try memory.session(number, [.init(role: "client")])
        if logged.channels[0].intent != .none { figures.inCall += 1 }
        let parked = try logged.resolve(read: counted.read, written: counted.written)
        // The state is a cipher, and answers that wait.
        var cipher = Cipher(position: word(parked.state, 0), sum: word(parked.state, 8))
        let waiting = Array(parked.state.dropFirst(20))
        #expect(logged.channels[0].exported.input == cipher.position && logged.channels[0].exported.output == cipher.position - UInt64(waiting.count))
        let begin = Int(logged.channels[0].exported.input)
        #expect(parked.input.elementsEqual(sent[begin..<begin + parked.input.count]))
        #expect(begin + parked.input.count == Int(counted.read))
        // A successor with this state and input produces just what the client has, and perhaps more.
        let produced = waiting + cipher.answer(parked.input)
        let repetition = parked.repetition ?? Repetition(input: 0, hashed: 0, hash: 0, literal: [])
        let hashed = Int(repetition.hashed)
        #expect(hashed + repetition.literal.count <= produced.count)
        #expect(sc_memory_hash(0, 0, produced, repetition.hashed) == repetition.hash)
        #expect(repetition.literal.elementsEqual(produced.dropFirst(hashed).prefix(repetition.literal.count)))
        #expect(logged.channels[0].exported.output + repetition.hashed + UInt64(repetition.literal.count) == counted.written)
        figures.whole += 1
        if !parked.input.isEmpty { figures.withInput += 1 }
        if repetition.hasOutput { figures.withOutput += 1 }
    }

    private func hear(_ client: Int32, _ received: inout [UInt8]) {
        var buffer = [UInt8](repeating: 0, count: 65536)
        while true {
            let count = recv(client, &buffer, buffer.count, Int32(MSG_DONTWAIT))
            guard count > 0 else { return }
            received += buffer.prefix(count)
        }
    }

    private func word(_ bytes: [UInt8], _ start: Int) -> UInt64 { bytes[start..<start + 8].reversed().reduce(0) { $0 << 8 | UInt64($1) } }

    /// SC_MOMENTS tells how many.
    @Test(arguments: [[], ["rarely"]]) func `a kill at any instruction leaves a state that can be taken up`(options: [String]) throws {
        let count = getenv("SC_MOMENTS").flatMap { Int(String(cString: $0)) } ?? 60
        var figures = Figures()
        var random = UInt64(count) &* 0x9e37_79b9_7f4a_7c15 | 1
        for index in 0..<count {
            random ^= random << 13
            random ^= random >> 7
            random ^= random << 17
            try kill(after: 500 + UInt32(random % 8000), port: UInt16(20_000 + index % 5000), options: options, &figures)
        }
        #expect(figures.whole == count)
        #expect(figures.withInput > 0 && figures.withOutput > 0)
        if getenv("SC_FIGURES") != nil { print("\(options): \(figures)") }
    }
}
