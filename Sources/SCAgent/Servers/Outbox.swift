// Packets to a server, in order, without ever waiting for it: a server that does not read must not hold up the agent.

import CProc
import Glibc
import SCEngine

/// The sending side of one connection.
final class Outbox {
    private struct Packet {
        var bytes: [UInt8]
        var descriptors: [SharedDescriptor]
    }

    private let connection: SharedDescriptor
    private var waiting: [Packet] = []
    private var size = 0

    /// Bytes that may wait; a server that lets more pile up is not told.
    private static let limit = 128 << 20

    init(_ connection: SharedDescriptor) {
        self.connection = connection
        _ = fcntl(connection.raw, F_SETFL, O_NONBLOCK)
    }

    /// There is something to send when the connection can be written.
    var isWaiting: Bool { !waiting.isEmpty }

    /// False: too much waits already.
    @discardableResult
    func send<Fixed: BitwiseCopyable>(_ fixed: Fixed, _ more: [UInt8] = [], descriptors: [SharedDescriptor] = []) -> Bool {
        guard size < Self.limit else { return false }
        let packet = Packet(bytes: withUnsafeBytes(of: fixed) { Array($0) } + more, descriptors: descriptors)
        waiting.append(packet)
        size += packet.bytes.count
        flush()
        return true
    }

    /// Sends what the connection takes. One that has ended is noticed where it is read.
    func flush() {
        var sent = 0
        while sent < waiting.count {
            let packet = waiting[sent]
            let fds = packet.descriptors.map(\.raw)
            guard cproc_send_fds(connection.raw, packet.bytes, packet.bytes.count, fds, Int32(fds.count)) >= 0 else { break }
            size -= packet.bytes.count
            sent += 1
        }
        waiting.removeFirst(sent)
    }
}
