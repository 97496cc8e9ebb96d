// What the client's link carried during a move: resets, ends, retransmissions and the largest silence.

internal import CSupport
internal import Glibc
internal import Synchronization

/// A TCP segment as it passed a link.
public struct Segment: Sendable {
    /// Nanoseconds since the epoch.
    public let time: UInt64
    /// The machine of the link sent it.
    public let isOutgoing: Bool
    /// The port on the machine of the link, and the one of its peer.
    public let ownPort: UInt16
    public let peerPort: UInt16
    public let sequence: UInt32
    public let acknowledgement: UInt32
    public let payload: UInt32
    public let window: UInt16
    public let isFIN: Bool
    public let isSYN: Bool
    public let isRST: Bool
}

/// Counts and times of the segments of one capture, seen from the client.
public struct CaptureReport: Sendable {
    public var segments: [Segment] = []
    /// Segments the kernel had no room for; anything but 0 makes the other numbers unsafe.
    public var dropped = 0
    /// Without those that came when the client had got both ends' last byte acknowledged: such an RST answers a segment that was late, of a connection
    /// that had ended as it should.
    public var resetsToClient = 0
    public var resetsFromClient = 0
    public var endsFromServer = 0
    public var endsFromClient = 0
    /// Data segments that begin before the end of what their sender had sent.
    public var retransmissionsFromClient = 0
    public var retransmissionsFromServer = 0
    /// Data bytes seen, retransmissions included.
    public var bytesFromClient = 0
    public var bytesFromServer = 0
    /// The longest time between two data segments from the server, of any one connection.
    public var largestGapFromServer: Duration = .zero

    init(_ segments: [Segment], dropped: Int) {
        self.segments = segments
        self.dropped = dropped
        var ends: [UInt64: UInt32] = [:]
        var lastData: [UInt64: UInt64] = [:]
        var closings: [UInt32: Closing] = [:]
        for segment in segments {
            let port = UInt32(segment.ownPort) << 16 | UInt32(segment.peerPort)
            closings[port, default: Closing()].see(segment)
            count(segment, hasEnded: closings[port, default: Closing()].isOver)
            guard segment.payload > 0 else { continue }
            let flow = UInt64(segment.ownPort) << 32 | UInt64(segment.peerPort) << 1 | (segment.isOutgoing ? 1 : 0)
            let end = segment.sequence &+ segment.payload
            if let known = ends[flow] {
                if Int32(bitPattern: segment.sequence &- known) < 0 {
                    if segment.isOutgoing { retransmissionsFromClient += 1 } else { retransmissionsFromServer += 1 }
                }
                if Int32(bitPattern: end &- known) > 0 { ends[flow] = end }
            } else {
                ends[flow] = end
            }
            if !segment.isOutgoing {
                if let before = lastData[flow], segment.time > before {
                    largestGapFromServer = max(largestGapFromServer, .nanoseconds(Int64(segment.time - before)))
                }
                lastData[flow] = segment.time
            }
        }
    }

    private mutating func count(_ segment: Segment, hasEnded: Bool) {
        if segment.isOutgoing {
            resetsFromClient += segment.isRST ? 1 : 0
            endsFromClient += segment.isFIN ? 1 : 0
            bytesFromClient += Int(segment.payload)
        } else {
            resetsToClient += segment.isRST && !hasEnded ? 1 : 0
            endsFromServer += segment.isFIN ? 1 : 0
            bytesFromServer += Int(segment.payload)
        }
    }

    /// The report of one connection alone, named by the client's port.
    public func only(clientPort: UInt16) -> CaptureReport {
        CaptureReport(segments.filter { $0.ownPort == clientPort }, dropped: dropped)
    }
}

extension CaptureReport: CustomStringConvertible {
    /// The segments that begin and end connections; what lies between is too much to read.
    public var description: String {
        let marks = segments.filter { $0.isSYN || $0.isFIN || $0.isRST }.map { segment in
            let kind = segment.isRST ? "RST" : segment.isFIN ? "FIN" : "SYN"
            return
                "\(segment.time) \(segment.ownPort) \(segment.isOutgoing ? "->" : "<-") \(segment.peerPort) \(kind) \(segment.sequence) ack \(segment.acknowledgement)"
        }
        return "\(segments.count) segments, \(dropped) dropped, resets \(resetsToClient) in \(resetsFromClient) out\n\(marks.joined(separator: "\n"))"
    }
}

/// How far a connection's end has come: the sequence numbers after both FINs, and whether the other end has acknowledged them.
private struct Closing {
    var ends: (client: UInt32?, server: UInt32?)
    var isAcknowledged = (client: false, server: false)
    var isOver: Bool { isAcknowledged.client && isAcknowledged.server }

    mutating func see(_ segment: Segment) {
        if segment.isSYN { self = Closing() }
        guard !segment.isRST else { return }
        if segment.isOutgoing {
            if segment.isFIN { ends.client = segment.sequence &+ segment.payload &+ 1 }
            if ends.server == segment.acknowledgement { isAcknowledged.server = true }
        } else {
            if segment.isFIN { ends.server = segment.sequence &+ segment.payload &+ 1 }
            if ends.client == segment.acknowledgement { isAcknowledged.client = true }
        }
    }
}

/// A running capture of all TCP on the link of one machine of a lab.
public final class Capture: Sendable {
    private let handle: Mutex<UInt>

    /// Starts it; every segment from now on is in the report.
    public init(_ lab: Lab, on host: Lab.Host = .client) throws(LabError) {
        var error: Int32 = 0
        guard let capture = csupport_capture_start(lab.handle(host), lab.link(host), &error) else {
            throw .errno("cannot capture on \(host.rawValue)", error)
        }
        handle = Mutex(UInt(bitPattern: capture))
    }

    deinit {
        if let capture = take() {
            csupport_capture_stop(capture)
            csupport_capture_free(capture)
        }
    }

    /// Ends the capture after `settle`, in which late answers still arrive. A second stop gives an empty report.
    public func stop(settle: Duration = .milliseconds(20)) -> CaptureReport {
        usleep(UInt32(settle / .microseconds(1)))
        guard let capture = take() else { return CaptureReport([], dropped: 0) }
        let count = csupport_capture_stop(capture)
        let packets = UnsafeBufferPointer(start: csupport_capture_packets(capture), count: count)
        let report = CaptureReport(packets.map(Segment.init), dropped: Int(csupport_capture_dropped(capture)))
        csupport_capture_free(capture)
        return report
    }

    private func take() -> OpaquePointer? {
        handle.withLock { value in
            defer { value = 0 }
            return OpaquePointer(bitPattern: value)
        }
    }
}

extension Segment {
    init(_ packet: csupport_packet) {
        time = packet.time_ns
        isOutgoing = packet.outgoing != 0
        ownPort = isOutgoing ? packet.source_port : packet.destination_port
        peerPort = isOutgoing ? packet.destination_port : packet.source_port
        sequence = packet.sequence
        acknowledgement = packet.acknowledgement
        payload = packet.payload
        window = packet.window
        isFIN = packet.flags & 1 != 0
        isSYN = packet.flags & 2 != 0
        isRST = packet.flags & 4 != 0
    }
}
