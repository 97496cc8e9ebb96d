// Sessions to test with: random ones from a seed, idle ones, and help to write and read images in memory.

@testable import SCImage

/// SplitMix64: the same numbers on every machine, for ever.
struct Seeded: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}

extension Seeded {
    mutating func bytes(_ count: Int) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            for index in 0..<count { buffer[index] = UInt8(truncatingIfNeeded: next()) }
            filled = count
        }
    }

    mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }

    mutating func chance(_ oneIn: Int) -> Bool { below(oneIn) == 0 }

    /// Often an edge, otherwise anything.
    mutating func number<T: FixedWidthInteger & UnsignedInteger>(_ type: T.Type) -> T {
        switch below(4) {
        case 0: 0
        case 1: .max
        case 2: T(truncatingIfNeeded: next() & 0xff)
        default: T(truncatingIfNeeded: next())
        }
    }

    mutating func name(_ limit: Int) -> String {
        let letters = Array("abcXYZ019-_ .é漢🐘")
        var name = ""
        while name.utf8.count < 1 || (!chance(4) && name.utf8.count < limit - 4) { name.append(letters[below(letters.count)]) }
        return name
    }

    mutating func end(isIPv6: Bool) -> SocketAddress {
        let port = UInt16(1 + below(65535))
        guard isIPv6 else { return SocketAddress(IPAddress(ipv4: number(UInt32.self)), port: port) }
        switch below(3) {
        case 0: return SocketAddress(IPAddress(ipv6High: 0xfe80 << 48, low: next()), port: port, scope: number(UInt32.self))
        case 1: return SocketAddress(IPAddress(ipv6High: 0, low: 0xffff << 32 | UInt64(number(UInt32.self))), port: port)
        default: return SocketAddress(IPAddress(ipv6High: 0x2001_0db8 << 32, low: next()), port: port)
        }
    }

    mutating func channel(queues: Int) -> TCPChannel {
        let isIPv6 = chance(2)
        var channel = TCPChannel(local: end(isIPv6: isIPv6), peer: end(isIPv6: isIPv6))
        channel.isIPv6Socket = isIPv6
        channel.fd = chance(4) ? -1 : Int32(below(1 << 20))
        if chance(3) { channel.name = name(255) }
        channel.state = TCPState.allCases.filter(\.isMovable)[below(6)]
        (channel.writeSeq, channel.rcvNxt) = (number(UInt32.self), number(UInt32.self))
        if chance(2) { channel.receiveQueue = bytes(below(queues)) }
        if chance(2) { channel.sendQueue = bytes(below(queues)) }
        channel.unsentLength = below(channel.sendQueue.count + 1)
        channel.options.timestamps = chance(2)
        channel.options.sack = chance(2)
        channel.options.windowScaling = chance(2)
        channel.options.ecn = chance(2)
        (channel.options.sendScale, channel.options.receiveScale) = (UInt8(below(15)), UInt8(below(15)))
        channel.options.mssClamp = number(UInt16.self)
        channel.window.sndWl1 = number(UInt32.self)
        channel.window.sndWnd = number(UInt32.self)
        channel.window.maxWindow = number(UInt32.self)
        channel.window.rcvWnd = number(UInt32.self)
        channel.window.rcvWup = number(UInt32.self)
        channel.timestamp = number(UInt32.self)
        (channel.sendMSS, channel.congestionWindow) = (number(UInt32.self), number(UInt32.self))
        channel.congestionControl = ["", "cubic", "bbr", "dctcp", "fifteen_letters"][below(5)]
        (channel.sendBuffer, channel.receiveBuffer) = (number(UInt32.self), number(UInt32.self))
        channel.bufferLock = UInt32(below(4))
        channel.socketOptions = (0..<(chance(2) ? 0 : below(6))).map { _ in
            SocketOption(
                level: Int32(truncatingIfNeeded: next()), name: Int32(truncatingIfNeeded: next()), value: bytes(below(20)))
        }
        (channel.bytesWritten, channel.bytesRead) = (number(UInt64.self), number(UInt64.self))
        return channel
    }

    /// A session, often with what joins several processes.
    mutating func session(queues: Int = 300) -> Session {
        var session = connections(queues: queues)
        if chance(2) { addLocals(to: &session, queues: queues) }
        return session
    }

    private mutating func connections(queues: Int) -> Session {
        Session(
            id: SessionID(high: next(), low: next()),
            channels: (0..<(chance(2) ? 1 : below(5))).map { _ in channel(queues: queues) },
            state: chance(2) ? [] : bytes(below(queues)),
            adapter: chance(2) ? nil : AdapterState(name: name(255), bytes: chance(2) ? [] : bytes(below(queues))))
    }

    mutating func inventory() -> Inventory {
        var inventory = Inventory()
        inventory.host = chance(4) ? "" : name(255)
        inventory.tool = chance(4) ? "" : name(255)
        inventory.command = chance(4) ? "" : name(400)
        inventory.pid = Int32(truncatingIfNeeded: next())
        inventory.createdAt = number(UInt64.self)
        return inventory
    }
}

/// An idle IPv4 connection such as a busy server has by the thousand; the numbers are those of a real one.
func idleSession(_ index: Int, _ random: inout Seeded) -> Session {
    var channel = TCPChannel(
        local: SocketAddress(IPAddress(ipv4: 0xc000_0201), port: 8080),
        peer: SocketAddress(IPAddress(ipv4: 0xc633_6400 | UInt32(index & 0xff)), port: UInt16(32768 + index % 28000)))
    channel.fd = Int32(8 + index)
    (channel.writeSeq, channel.rcvNxt) = (UInt32(truncatingIfNeeded: random.next()), UInt32(truncatingIfNeeded: random.next()))
    channel.options.timestamps = true
    channel.options.sack = true
    channel.options.windowScaling = true
    (channel.options.sendScale, channel.options.receiveScale, channel.options.mssClamp) = (7, 7, 1460)
    channel.window.sndWl1 = channel.rcvNxt &- 420
    channel.window.sndWnd = 64256
    channel.window.maxWindow = 65152
    channel.window.rcvWnd = 65024
    channel.window.rcvWup = channel.rcvNxt
    channel.timestamp = UInt32(truncatingIfNeeded: random.next()) & ~1
    (channel.sendMSS, channel.congestionWindow, channel.congestionControl) = (1448, 10, "cubic")
    (channel.sendBuffer, channel.receiveBuffer) = (87040, 131072)
    (channel.bytesWritten, channel.bytesRead) = (180_000, 420)
    return Session(id: SessionID(high: random.next(), low: random.next()), channels: [channel])
}

func image(
    _ sessions: [Session], _ inventory: Inventory = Inventory(), limits: ImageLimits = ImageLimits()
) throws(ImageError) -> [UInt8] {
    var writer = try ImageWriter(MemorySink(), inventory, limits: limits)
    for session in sessions { try writer.write(session) }
    try writer.finish()
    return writer.sink.bytes
}

func sessions(_ image: [UInt8], limits: ImageLimits = ImageLimits()) throws(ImageError) -> [Session] {
    var reader = try ImageReader(MemorySource(image), limits: limits)
    var sessions: [Session] = []
    while let session = try reader.next() { sessions.append(session) }
    return sessions
}
