// Local channels and processes in images: what is right comes back, what is impossible is refused.

import Testing

@testable import SCImage

@Suite struct LocalChannelTests {
    /// What `Golden/v1-local.sci` holds. Never to be changed.
    static let golden: Session = {
        let base = EvolutionTests.golden.sessions[0]
        var front = LocalChannel(.unix(UnixSocketState(type: 5, peer: 2)))
        var worker = LocalChannel(.unix(UnixSocketState(type: 5, peer: 1)))
        (front.flags, front.sendBuffer, front.receiveBuffer) = ([.readWrite, .nonBlocking], 212_992, 212_992)
        (front.queue, front.messages) = (Array("DATA0DATA1".utf8), [QueuedMessage(length: 5), QueuedMessage(length: 0), QueuedMessage(length: 5)])
        if case .unix(var state) = worker.detail {
            (state.shutdown, state.name, state.peerCredentials) = (1, [0] + Array("worker".utf8), Credentials(pid: 812, uid: 33, gid: 33))
            worker.detail = .unix(state)
        }
        worker.queue = Array("GET".utf8)
        worker.messages = [QueuedMessage(length: 3, descriptors: [3, 6], sender: Credentials(pid: 811, uid: 33, gid: 33))]
        worker.socketOptions = [SocketOption(level: 1, name: 16, value: [1, 0, 0, 0])]
        var reading = LocalChannel(.pipe(PipeEndState(pipe: 9, capacity: 65_536)))
        (reading.queue, reading.messages) = (Array("line\n".utf8), [QueuedMessage(length: 5)])
        var writing = LocalChannel(.pipe(PipeEndState(pipe: 9, capacity: 65_536)))
        writing.flags = [.writeOnly, .direct]
        let udp = LocalChannel(
            .udp(
                UDPSocketState(
                    local: SocketAddress(IPAddress(ipv4: 0xc000_0201), port: 5000), peer: SocketAddress(IPAddress(ipv4: 0xc000_0235), port: 53))))
        var state = RegularFileState(path: Array("/srv/big.iso".utf8), size: 1 << 33, modified: 1_700_000_000_000_000_001)
        (state.position, state.sha256) = (1 << 32, Array(0..<32))
        return Session(
            id: SessionID(high: 3, low: 4), channels: base.channels, locals: [front, worker, reading, writing, udp, LocalChannel(.file(state))],
            processes: [
                SessionProcess(
                    role: "front", pid: 811,
                    descriptors: [SessionDescriptor(fd: 4, channel: 0, name: "tcp"), SessionDescriptor(fd: 5, channel: 1, name: "unix-worker")]),
                SessionProcess(
                    role: "worker", pid: 812,
                    descriptors: [
                        SessionDescriptor(fd: 4, channel: 2, name: "unix-front"), SessionDescriptor(fd: 6, channel: 4, name: "pipe-to-logger"),
                        SessionDescriptor(fd: 7, channel: 5, name: "udp"), SessionDescriptor(fd: 8, channel: 6, name: "file"),
                    ]),
                SessionProcess(role: "logger", pid: 813, descriptors: [SessionDescriptor(fd: 0, channel: 3, name: "pipe-from-worker")]),
            ], state: Array("state".utf8))
    }()

    @Test func `The golden image with local channels is read and written exactly`() throws {
        let bytes = try EvolutionTests.goldenFile("v1-local.sci", orElse: try image([Self.golden], EvolutionTests.golden.inventory))
        #expect(try sessions(bytes) == [Self.golden])
        #expect(try image([Self.golden], EvolutionTests.golden.inventory) == bytes)
    }

    @Test func `The receiver's descriptors are those of each process`() {
        #expect(
            Self.golden.deliveries.map(\.name) == [
                "front.tcp", "front.unix-worker", "worker.unix-front", "worker.pipe-to-logger", "worker.udp", "worker.file",
                "logger.pipe-from-worker",
            ])
        #expect(Self.golden.deliveries.map(\.channel) == [0, 1, 2, 4, 5, 6, 3])
        #expect(EvolutionTests.golden.sessions[1].deliveries.map(\.name) == EvolutionTests.golden.sessions[1].channels.map(\.name))
    }

    @Test func `A session without local channels has the bytes it always had`() throws {
        let types = try records(image(EvolutionTests.golden.sessions)).map(\.type)
        #expect(!types.contains(.localChannel) && !types.contains(.process) && !types.contains(.localQueue))
    }

    /// A program from before these records stops at the first of them: each is one that must not be skipped.
    @Test func `Every new record is a required one`() throws {
        for record in try records(image([Self.golden])) where [.localChannel, .localQueue, .process].contains(record.type) {
            #expect(record.flags == .required)
        }
    }

    @Test func `An image cut or changed anywhere is refused`() throws {
        let bytes = try image([Self.golden])
        for length in 0..<bytes.count { #expect(outcome(Array(bytes[..<length])).error != nil, "cut at \(length)") }
        for index in bytes.indices {
            var changed = bytes
            changed[index] ^= 0x10
            #expect(outcome(changed).error != nil, "byte \(index)")
        }
    }

    @Test func `Missing, doubled and misplaced records are refused`() throws {
        let all = try records(image([Self.golden]))
        for index in all.indices.dropFirst(2) {
            var fewer = all
            fewer.remove(at: index)
            #expect(outcome(try assemble(fewer)).error != nil, "without record \(index)")
            var more = all
            more.insert(all[index], at: index)
            #expect(outcome(try assemble(more)).error != nil, "record \(index) twice")
        }
    }

    @Test func `What is impossible is neither written nor read`() throws {
        var cases: [(String, Session)] = []
        func add(_ what: String, _ change: (inout Session) -> Void) {
            var session = Self.golden
            change(&session)
            cases.append((what, session))
        }
        func unix(_ index: Int, _ change: @escaping (inout UnixSocketState) -> Void) -> (inout Session) -> Void {
            { session in
                guard case .unix(var state) = session.locals[index].detail else { return }
                change(&state)
                session.locals[index].detail = .unix(state)
            }
        }
        func file(_ change: @escaping (inout RegularFileState) -> Void) -> (inout Session) -> Void {
            { session in
                guard case .file(var state) = session.locals[5].detail else { return }
                change(&state)
                session.locals[5].detail = .file(state)
            }
        }
        add("a peer that is a pipe", unix(0) { $0.peer = 3 })
        add("a peer that is a TCP connection", unix(0) { $0.peer = 0 })
        add("a peer beyond the end", unix(0) { $0.peer = 7 })
        add("a peer that has another peer", unix(0) { $0.peer = nil })
        add("another type than the peer's", unix(0) { $0.type = 1 })
        add("a type that is none", unix(0) { ($0.type, $0.peer) = (4, nil) })
        add("a shutdown that is none", unix(0) { $0.shutdown = 4 })
        add("a long name", unix(0) { $0.name = [UInt8](repeating: 1, count: 109) })
        add("a descriptor in flight that is no channel") { $0.locals[1].messages[0].descriptors = [7] }
        add("a descriptor in a pipe") { $0.locals[2].messages[0].descriptors = [0] }
        add("a queue without messages") { $0.locals[0].messages = [] }
        add("messages without a queue") { $0.locals[0].queue = [] }
        add("a negative length") { $0.locals[0].messages[0].length = -1 }
        add("a flag that is none") { $0.locals[0].flags.insert(DescriptionFlags(rawValue: 0o100)) }
        add("an access mode that is none") { $0.locals[0].flags.insert([.writeOnly, .readWrite]) }
        add("a relative path", file { $0.path = Array("x".utf8) })
        add("a NUL in a path", file { $0.path.append(0) })
        add("a short digest", file { $0.sha256 = [1] })
        add("a huge position", file { $0.position = .max })
        add("two processes of one role") { $0.processes[1].role = "front" }
        add("a dot in a role") { $0.processes[1].role = "a.b" }
        add("a colon in a name") { $0.processes[1].descriptors[0].name = "a:b" }
        add("two descriptors of one name") { $0.processes[0].descriptors[1].name = "tcp" }
        add("a descriptor of no channel") { $0.processes[0].descriptors[0].channel = 7 }
        add("a connection without a holder") { $0.processes[0].descriptors.removeFirst() }
        add("local channels without processes") { $0.processes = [] }
        add("too many descriptors") {
            $0.processes[0].descriptors += (0..<253).map { SessionDescriptor(fd: 10, channel: 0, name: "copy-\($0)") }
        }
        for (what, session) in cases {
            #expect(throws: ImageError.self, "\(what)") { try image([session]) }
        }
        #expect(cases.count == 27)
    }

    @Test func `An offer tells of local channels without their queues`() throws {
        var offer = Offer()
        offer.flows = Self.golden.channels.map { Flow(local: $0.local, peer: $0.peer) }
        offer.locals = Self.golden.locals.map { channel in
            var channel = channel
            (channel.queue, channel.messages) = ([], [])
            return channel
        }
        offer.processes = Self.golden.processes
        var answer = Answer(accepted: true)
        answer.knowsLocalChannels = true
        var reader = try WireReader(MemorySource(try WireTests.stream([.offer(offer), .answer(answer), .session(Self.golden)])))
        #expect(try reader.next() == .offer(offer))
        #expect(try reader.next() == .answer(answer))
        #expect(try reader.next() == .session(Self.golden))
    }
}
