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

    init(queued: Int) throws {
        self.queued = queued
        namespace = try NetworkNamespace.current()
        program = try DropProgram()
        baseline = try OptionBaseline(in: namespace, ipv6: false)
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

    func engine(port: UInt16) throws -> Times {
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
        try withExtendedLifetime((held, restored)) { try verify(clients) }
        end(clients)
        return times
    }

    func floor(port: UInt16) throws -> Times {
        let (servers, clients) = try connections(port: port)
        let options = SocketOptionList.all(ipv6: false).map { cfloor_option(level: $0.level, name: $0.name, length: UInt32($0.length)) }
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
        try verify(clients)
        end(clients + servers + restored)
        return times
    }

    /// A restored connection that does not live would make the figures worth nothing.
    private func verify(_ clients: [Int32]) throws {
        for client in clients {
            var info = cproc_tcp_info()
            guard cproc_tcp_info(client, &info) >= 0, info.state == 1 else {
                throw CheckpointError("a session did not survive", why: "state \(info.state)")
            }
        }
    }
}

/// Floor, engine and floor again in every repetition, so that all three meet the same machine.
func benchSockets() throws {
    print(pad("", 26) + "   floor  engine   ratio (spread)        control")
    for (name, queued) in [("idle", 0), ("64 KiB in each queue", 65536)] {
        let bench = try SocketBench(queued: queued)
        var rows: [(floor: SocketBench.Times, engine: SocketBench.Times, again: SocketBench.Times)] = []
        for repetition in 0...SocketBench.repetitions {
            let port = UInt16(20000 + 10 * repetition + (queued > 0 ? 1000 : 0))
            let row = (try bench.floor(port: port), try bench.engine(port: port + 1), try bench.floor(port: port + 2))
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
                    + "    " + text(control.median, width: 0) + " (\(text(control.low, width: 0))-\(text(control.high, width: 0)))")
        }
    }
}
