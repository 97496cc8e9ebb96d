// One process of a session of several is killed at many random instructions. What is left in its memory, completed by what the other ends of its channels
// count and by what is in them, has to be exactly what it had read and written.

import CProc
import Glibc
import SC
import SCAgent
import SCEngine
import SCImage
import Support
import Testing

/// The process's channels, and all that has gone through them.
private final class Chain {
    /// Here and there: messages, the pipe that it reads, the pipe that it writes.
    private let here: [SharedDescriptor]
    private var there: [SharedDescriptor]
    private let child: Int32
    private(set) var duplicates: [SharedDescriptor] = []
    let memory: ServerMemory
    let number: UInt64
    private let agent: FakeAgent
    private var isAlive = true

    var sent: [[UInt8]] = []
    var answers: [[UInt8]] = []
    var sentBytes: [UInt8] = []
    var answerBytes: [UInt8] = []

    init(_ path: String, _ options: [String]) throws {
        var (pair, into, out): ([Int32], [Int32], [Int32]) = ([-1, -1], [-1, -1], [-1, -1])
        try #require(socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &pair) == 0)
        try #require(pipe(&into) == 0 && pipe(&out) == 0)
        for fd in into + out { _ = fcntl(fd, F_SETFL, O_NONBLOCK) }
        here = [pair[0], into[1], out[0]].map { SharedDescriptor($0) }
        there = [pair[1], into[0], out[1]].map { SharedDescriptor($0) }
        agent = try FakeAgent(path)
        child = try spawn(
            [Lab.program("sc-logged"), "chain"] + options,
            environment: currentEnvironment().filter { !$0.hasPrefix("SC_AGENT_SOCKET=") } + ["SC_AGENT_SOCKET=\(path)"], in: nil,
            standard: (-1, -1, 2), passing: there.map(\.raw), listenPID: false)
        there = []
        _ = try agent.accept()
        try agent.welcome(version: 4)
        memory = ServerMemory(file: try #require(try agent.next().fds.first))
        var number: UInt64 = 0
        while duplicates.count < 3 {
            let told = try agent.next()
            number = told.bytes.withUnsafeBytes { $0.loadUnaligned(as: sc_wire_head.self) }.continuation
            duplicates += told.fds
        }
        self.number = number
        let (memory, first) = (memory, number)
        try #require(eventually(within: .seconds(5)) { (try? memory.session(first, Self.channels)) != nil })
    }

    deinit { end() }

    func end() {
        guard isAlive else { return }
        kill(child, SIGKILL)
        waitpid(child, nil, 0)
        isAlive = false
    }

    static let channels: [ServerMemory.Channel] = [
        .init(index: 0, fd: 3, role: "messages"), .init(index: 1, fd: 4, role: "in"), .init(index: 2, fd: 5, role: "out"),
    ]

    func say(_ message: [UInt8]) {
        if send(here[0].raw, message, message.count, Int32(MSG_DONTWAIT)) > 0 { sent.append(message) }
        let count = write(here[1].raw, message, message.count)
        if count > 0 { sentBytes += message.prefix(count) }
    }

    func hear() {
        var buffer = [UInt8](repeating: 0, count: 65536)
        while case let count = recv(here[0].raw, &buffer, buffer.count, Int32(MSG_DONTWAIT)), count > 0 {
            answers.append(Array(buffer.prefix(count)))
        }
        while case let count = read(here[2].raw, &buffer, buffer.count), count > 0 { answerBytes += buffer.prefix(count) }
    }

    /// The session as a capture would have it, when everything has been heard.
    func complete(_ logged: LoggedSession) throws(CheckpointError) -> Session {
        var locals = [
            LocalChannel(.unix(UnixSocketState(type: Int32(SOCK_SEQPACKET.rawValue), peer: 1))),
            LocalChannel(.unix(UnixSocketState(type: Int32(SOCK_SEQPACKET.rawValue), peer: 0))),
            LocalChannel(.pipe(PipeEndState(pipe: 0, capacity: 65536))), LocalChannel(.pipe(PipeEndState(pipe: 0, capacity: 65536))),
            LocalChannel(.pipe(PipeEndState(pipe: 1, capacity: 65536))), LocalChannel(.pipe(PipeEndState(pipe: 1, capacity: 65536))),
        ]
        (locals[3].flags, locals[4].flags) = (.writeOnly, .writeOnly)
        for (index, duplicate) in [(0, 0), (2, 1)] {
            locals[index].queue = [UInt8](repeating: 0, count: Int(cproc_siocinq(duplicates[duplicate].raw)))
        }
        let process = try TargetProcess(pid: getpid())
        func end(_ kind: Channel.Kind, _ member: Int, _ fd: Int32, _ inode: UInt64, peer: Int? = nil, writes: Bool = false) -> SessionGroup.End {
            var end = SessionGroup.End(kind: kind, holders: [(member, fd)], inode: inode, peer: peer)
            (end.isWriter, end.isReader) = (writes, !writes)
            return end
        }
        let group = SessionGroup(
            connections: [], members: [.init(process: process, role: "chain"), .init(process: process, role: "other")],
            ends: [
                end(.unix, 0, 3, 1, peer: 1), end(.unix, 1, 3, 2, peer: 0), end(.pipe, 0, 4, 3), end(.pipe, 1, 4, 3, writes: true),
                end(.pipe, 0, 5, 4, writes: true), end(.pipe, 1, 5, 4),
            ])
        let processes = [
            SessionProcess(
                role: "chain",
                descriptors: [
                    .init(fd: 3, channel: 0, name: "messages"), .init(fd: 4, channel: 2, name: "in"), .init(fd: 5, channel: 4, name: "out"),
                ]),
            SessionProcess(role: "other"),
        ]
        var other = LoggedSession()
        for (fd, input, output) in [(Int32(3), answers.joined().count, sent.joined().count), (4, 0, sentBytes.count), (5, answerBytes.count, 0)] {
            var channel = LoggedChannel()
            (channel.fd, channel.hasLog, channel.noted) = (fd, true, (UInt64(input), UInt64(output)))
            other.channels.append(channel)
        }
        var parts = LoggedParts(Session(id: .random(), channels: [], locals: locals, processes: processes, state: []), group, [])
        return try parts.complete(parts: [], late: ["chain"], ["chain": logged, "other": other])
    }
}

@Suite(.serialized) struct PartKillTests {
    private struct Figures { var inCall = 0, withInput = 0, withOutput = 0 }

    private func framed(_ message: [UInt8]) -> [UInt8] { withUnsafeBytes(of: UInt32(message.count)) { Array($0) } + message }

    private func word(_ bytes: ArraySlice<UInt8>, _ start: Int) -> UInt64 {
        bytes.dropFirst(start).prefix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// One half of the state: where its cipher stands, and the answer that found no room.
    private func half(_ state: [UInt8], _ index: Int) -> (cipher: Cipher, pending: [UInt8]) {
        let own = state[index * (24 + 4096)..<(index + 1) * (24 + 4096)]
        return (Cipher(position: word(own, 0), sum: word(own, 8)), Array(own.dropFirst(24).prefix(Int(word(own, 16) & 0xffff_ffff))))
    }

    /// What a successor would write again is what was written.
    private func expectProduced(_ produced: [UInt8], _ session: Session, _ name: String, _ figures: inout Figures) {
        guard let repetition = session.adapter?.partRepetitions.first(where: { $0.name == name })?.repetition else { return }
        let hashed = Int(repetition.hashed)
        #expect(hashed + repetition.literal.count <= produced.count)
        #expect(sc_memory_hash(0, 0, produced, repetition.hashed) == repetition.hash)
        #expect(repetition.literal.elementsEqual(produced.dropFirst(hashed).prefix(repetition.literal.count)))
        if repetition.hasOutput { figures.withOutput += 1 }
    }

    private func kill(after microseconds: UInt32, _ options: [String], _ figures: inout Figures) throws {
        let chain = try Chain("/tmp/libsc-part-\(getpid()).sock", options)
        let end = monotonicNanoseconds() + UInt64(microseconds) * 1000
        var random: UInt64 = UInt64(microseconds) + 1
        while monotonicNanoseconds() < end {
            random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            chain.say((0..<Int(random >> 40) % 900 + 1).map { UInt8(truncatingIfNeeded: random >> (8 + UInt64($0 % 7) * 8)) })
            chain.hear()
        }
        chain.end()
        chain.hear()
        let logged = try chain.memory.session(chain.number, Chain.channels)
        if logged.channels.contains(where: { $0.intent != .none }) { figures.inCall += 1 }
        let session = try chain.complete(logged)

        var (messages, bytes) = (half(session.state, 0), half(session.state, 1))
        // The messages: those before it again are the next ones after the state's, each whole.
        var count = 0
        var start = 0
        while start < Int(messages.cipher.position) { (start, count) = (start + chain.sent[count].count, count + 1) }
        // Only those are in this list: what waits in the queue was put there as bytes.
        let lengths = session.locals[0].messages.map(\.length)
        for (index, length) in lengths.enumerated() { #expect(length == chain.sent[count + index].count) }
        let input = Array(chain.sent[count..<count + lengths.count])
        #expect(session.locals[0].queue.prefix(input.joined().count).elementsEqual(input.joined()))
        var produced = messages.pending.isEmpty ? [] : framed(messages.pending)
        for message in input { produced += framed(messages.cipher.answer(message)) }
        expectProduced(produced, session, "messages", &figures)
        if !input.isEmpty { figures.withInput += 1 }

        // The bytes: as many as its reader has lost lie in the pipe again.
        let position = Int(bytes.cipher.position)
        let put = session.locals[2].queue.count - Int(cproc_siocinq(chain.duplicates[1].raw))
        #expect(session.locals[2].queue.prefix(put).elementsEqual(chain.sentBytes.dropFirst(position).prefix(put)))
        expectProduced(bytes.pending + bytes.cipher.answer(chain.sentBytes.dropFirst(position).prefix(put)), session, "out", &figures)

        var (all, allBytes) = (Cipher(), Cipher())
        for (message, answer) in zip(chain.sent, chain.answers) { #expect(all.answer(message) == answer) }
        #expect(allBytes.answer(chain.sentBytes).starts(with: chain.answerBytes))
    }

    /// SC_MOMENTS tells how many.
    @Test(arguments: [[], ["rarely"]]) func `a kill at any instruction leaves a state that can be taken up`(options: [String]) throws {
        let count = getenv("SC_MOMENTS").flatMap { Int(String(cString: $0)) } ?? 60
        var figures = Figures()
        var random = UInt64(count) &* 0x9e37_79b9_7f4a_7c15 | 1
        for _ in 0..<count {
            random ^= random << 13
            random ^= random >> 7
            random ^= random << 17
            try kill(after: 500 + UInt32(random % 8000), options, &figures)
        }
        #expect(figures.withInput > 0 && figures.withOutput > 0)
        if getenv("SC_FIGURES") != nil { print("\(options): \(figures)") }
    }
}
