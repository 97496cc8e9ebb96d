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
        for segment in segments {
            count(segment)
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

    private mutating func count(_ segment: Segment) {
        if segment.isOutgoing {
            resetsFromClient += segment.isRST ? 1 : 0
            endsFromClient += segment.isFIN ? 1 : 0
            bytesFromClient += Int(segment.payload)
        } else {
            resetsToClient += segment.isRST ? 1 : 0
            endsFromServer += segment.isFIN ? 1 : 0
            bytesFromServer += Int(segment.payload)
        }
    }

    /// The report of one connection alone, named by the client's port.
    public func only(clientPort: UInt16) -> CaptureReport {
        CaptureReport(segments.filter { $0.ownPort == clientPort }, dropped: dropped)
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
