// Dump, let go and restore of a thousand sessions over loopback: the engine, the floor, and the floor against itself.

import CFloor
import CProc
import Glibc
import SCEngine
import SCImage

/// Connections of one repetition. The server's ends are dumped and rebuilt, the clients' stay.
struct SocketBench {
    static let sessions = 1000
    static let repetitions = 9

    struct Times {
        var dump = 0.0
        var letGo = 0.0
        var restore = 0.0
    }

    let queued: Int
    let namespace: NetworkNamespace
    let program: DropProgram
    let baseline: OptionBaseline
    /// What the floor reads: the engine's list, with a fresh socket's values.
    private let options: [cfloor_option]

    init(queued: Int) throws {
        self.queued = queued
        namespace = try NetworkNamespace.current()
        program = try DropProgram()
        baseline = try OptionBaseline(in: namespace, ipv6: false)
        let fresh = try namespace.socket(family: AF_INET, type: Int32(SOCK_STREAM.rawValue))
        let descriptor = fresh.raw
        options = SocketOptionList.all(ipv6: false).compactMap { known in
            var option = cfloor_option()
            (option.level, option.name, option.length) = (known.level, known.name, UInt32(known.length))
            option.fresh_length = cproc_getsockopt(descriptor, option.level, option.name, &option.fresh, option.length)
            return option.fresh_length < 0 ? nil : option
        }
        _ = consume fresh
    }

    private func connections(port: UInt16) throws -> (servers: [Int32], clients: [Int32]) {
        let listener = try namespace.socket(family: AF_INET, type: Int32(SOCK_STREAM.rawValue))
        _ = cproc_setsockopt_int(listener.raw, SOL_SOCKET, SO_REUSEADDR, 1)
        var address = SocketAddress(IPAddress("127.0.0.1")!, port: port).endpoint
        try check(cproc_bind(listener.raw, &address), "bind")
        guard listen(listener.raw, 4096) == 0 else { throw CheckpointError("listen", result: Int(-errno)) }
        var servers: [Int32] = []
        var clients: [Int32] = []
        let block = [UInt8](repeating: 7, count: max(1, queued))
        for _ in 0..<Self.sessions {
            let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            if queued > 0 { _ = cproc_setsockopt_int(client, SOL_SOCKET, SO_RCVBUF, 2304) }
            try check(cproc_connect(client, &address), "connect")
            let server = accept(listener.raw, nil, nil)
            if queued > 0 {
                _ = cproc_setsockopt_int(server, SOL_SOCKET, SO_SNDBUF, Int32(4 * queued))
                _ = send(client, block, queued, Int32(MSG_DONTWAIT))
                _ = send(server, block, queued, Int32(MSG_DONTWAIT))
            }
            servers.append(server)
            clients.append(client)
        }
        return (servers, clients)
    }

    private func end(_ descriptors: [Int32]) {
        var linger = linger(l_onoff: 1, l_linger: 0)
        for fd in descriptors {
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<Glibc.linger>.size))
            close(fd)
        }
    }

    private func each(_ body: () throws -> Void) rethrows -> Double {
        let start = monotonicNanoseconds()
        try body()
        return Double(monotonicNanoseconds() - start) / 1000 / Double(Self.sessions)
    }

    /// `isFirst`: also shows that the floor reads the same of the same sockets, and what the sessions' image takes.
    func engine(port: UInt16, isFirst: Bool) throws -> Times {
        let (servers, clients) = try connections(port: port)
        let held = servers.map { HeldSocket(OwnedDescriptor($0), fd: $0) }
        var channels: [TCPChannel] = []
        channels.reserveCapacity(held.count)
        var times = Times()
        times.dump = try each {
            for socket in held {
                try socket.lock(with: program.raw)
                channels.append(try socket.dump(options: baseline))
            }
        }
        if isFirst {
            try compare(held, channels)
            if queued == 0 { imageBytes = try benchImage(channels) }
        }
        times.letGo = try each { for socket in held { try socket.letGo() } }
        var restored: [RestoredSocket] = []
        restored.reserveCapacity(held.count)
        times.restore = try each {
            for channel in channels {
                let socket = try RestoredSocket(channel, in: namespace)
                try socket.activate()
                restored.append(socket)
            }
        }
        try withExtendedLifetime((held, restored)) { try verify(clients, restored.map(\.raw), reading: isFirst) }
        end(clients)
        return times
    }

    func floor(port: UInt16, isFirst: Bool) throws -> Times {
        let (servers, clients) = try connections(port: port)
        let capacity = max(64, queued * 2)
        let memory = UnsafeMutablePointer<UInt8>.allocate(capacity: 2 * capacity * servers.count)
        // Not touched before: the engine's arrays are cold as well, and page faults are a large part of a dump with full queues.
        defer { memory.deallocate() }
        var states = servers.indices.map { index in
            var state = cfloor_state()
            state.send_queue = memory + 2 * capacity * index
            state.receive_queue = memory + 2 * capacity * index + capacity
            state.capacity = UInt32(capacity)
            return state
        }
        var times = Times()
        times.dump = try each {
            for index in servers.indices {
                try check(cfloor_dump(servers[index], program.raw, options, Int32(options.count), &states[index]), "floor dump")
            }
        }
        times.letGo = try each {
            for index in servers.indices { try check(cfloor_let_go(servers[index], &states[index]), "floor let go") }
        }
        var restored: [Int32] = []
        restored.reserveCapacity(servers.count)
        times.restore = try each {
            for index in servers.indices { restored.append(try check(cfloor_restore(&states[index]), "floor restore")) }
        }
        try verify(clients, restored, reading: isFirst)
        end(clients + servers + restored)
        return times
    }

    /// A restored connection that does not live would make the figures worth nothing. `reading`: some are read to the end of their queues, and beyond.
    private func verify(_ clients: [Int32], _ servers: [Int32], reading: Bool) throws {
        for client in clients {
            var info = cproc_tcp_info()
            guard cproc_tcp_info(client, &info) >= 0, info.state == 1 else {
                throw CheckpointError("a session did not survive", why: "state \(info.state)")
            }
        }
        guard reading else { return }
        for (client, server) in zip(clients, servers).prefix(20) {
            try carry(from: client, to: server)
            try carry(from: server, to: client)
        }
    }

    /// What was queued, and one byte more.
    private func carry(from sender: Int32, to receiver: Int32) throws {
        var (byte, bytes): (UInt8, [UInt8]) = (9, [UInt8](repeating: 0, count: queued + 1))
        guard send(sender, &byte, 1, Int32(MSG_DONTWAIT)) == 1 else { throw CheckpointError("a session takes no byte", result: Int(-errno)) }
        _ = cproc_setsockopt_int(receiver, SOL_SOCKET, SO_RCVBUF, Int32(queued + 65536))
        var limit = timeval(tv_sec: 5, tv_usec: 0)
        setsockopt(receiver, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        let count = recv(receiver, &bytes, bytes.count, Int32(MSG_WAITALL))
        guard count == bytes.count, bytes.last == 9, bytes.dropLast().allSatisfy({ $0 == 7 }) else {
            throw CheckpointError("a session was not restored whole", why: "\(count) of \(bytes.count) bytes came, or they differ")
        }
    }

    /// A floor that read less than the engine would be no floor.
    private func compare(_ held: [HeldSocket], _ channels: [TCPChannel]) throws {
        let capacity = max(64, queued * 2)
        let memory = UnsafeMutablePointer<UInt8>.allocate(capacity: 2 * capacity)
        defer { memory.deallocate() }
        for (socket, channel) in zip(held, channels) {
            var state = cfloor_state()
            (state.send_queue, state.receive_queue, state.capacity) = (memory, memory + capacity, UInt32(capacity))
            try check(cfloor_dump(socket.raw, program.raw, options, Int32(options.count), &state), "floor dump")
            let send = UnsafeBufferPointer(start: state.send_queue, count: Int(state.send_length))
            let receive = UnsafeBufferPointer(start: state.receive_queue, count: Int(state.receive_length))
            let (window, info) = (channel.window, channel.options)
            guard send.elementsEqual(channel.sendQueue), receive.elementsEqual(channel.receiveQueue), receive.count == queued,
                // The client's kernel took the beginning, up to its window.
                (queued - queued / 20...queued).contains(send.count),
                state.write_seq == channel.writeSeq, state.rcv_nxt == channel.rcvNxt, Int(state.unsent) == channel.unsentLength,
                (state.window.snd_wl1, state.window.snd_wnd, state.window.max_window) == (window.sndWl1, window.sndWnd, window.maxWindow),
                (state.window.rcv_wnd, state.window.rcv_wup) == (window.rcvWnd, window.rcvWup), UInt16(state.mss_clamp) == info.mssClamp,
                state.info.snd_mss == channel.sendMSS, (state.info.snd_scale, state.info.rcv_scale) == (info.sendScale, info.receiveScale),
                UInt32(state.send_buffer) == channel.sendBuffer, UInt32(state.receive_buffer) == channel.receiveBuffer,
                UInt32(state.buffer_lock) == channel.bufferLock, state.differing == channel.socketOptions.count, state.differing == 0,
                SocketAddress(state.local) == channel.local, SocketAddress(state.peer) == channel.peer
            else { throw CheckpointError("the floor reads another state than the engine", why: "\(state) \(channel.window)") }
        }
    }
}

/// Bytes that the image of the sessions of the first repetition takes for each of them.
nonisolated(unsafe) private var imageBytes = 0.0

/// Floor, engine and floor again in every repetition, so that all three meet the same machine.
func benchSockets() throws {
    print(pad("", 26) + "   floor  engine   ratio (spread)        control (spread)     target 1.30")
    for (name, queued) in [("idle", 0), ("64 KiB in each queue", 65536)] {
        let bench = try SocketBench(queued: queued)
        var rows: [(floor: SocketBench.Times, engine: SocketBench.Times, again: SocketBench.Times)] = []
        for repetition in 0...SocketBench.repetitions {
            let port = UInt16(20000 + 10 * repetition + (queued > 0 ? 1000 : 0))
            let row = (
                try bench.floor(port: port, isFirst: repetition == 0), try bench.engine(port: port + 1, isFirst: repetition == 0),
                try bench.floor(port: port + 2, isFirst: false)
            )
            if repetition > 0 { rows.append(row) }
        }
        for (step, path) in [("dump", \SocketBench.Times.dump), ("close", \.letGo), ("restore", \.restore)] {
            let floor = Spread(rows.map { $0.floor[keyPath: path] })
            let engine = Spread(rows.map { $0.engine[keyPath: path] })
            let ratio = Spread(rows.map { $0.engine[keyPath: path] / (($0.floor[keyPath: path] + $0.again[keyPath: path]) / 2) })
            let control = Spread(rows.map { $0.again[keyPath: path] / $0.floor[keyPath: path] })
            print(
                pad("\(step), \(name)", 26) + text(floor.median) + text(engine.median) + text(ratio.median)
                    + " (\(text(ratio.low, width: 0))-\(text(ratio.high, width: 0)))"
                    + "    " + text(control.median, width: 0) + " (\(text(control.low, width: 0))-\(text(control.high, width: 0)))"
                    + "    " + verdict(ratio.median <= 1.3))
        }
    }
    print("\nimage of \(SocketBench.sessions) idle sessions: \(text(imageBytes, width: 0)) bytes each (target 160): \(verdict(imageBytes <= 160))")
}
