// The memory that a server shares with the agent (sc_memory.h), read while the server is dead or stopped. Its owner may have been a stranger, or have
// crashed in the middle of a wild store: every length is checked, and nothing is mapped.

import CProc
import Glibc
import SC
import SCEngine
import SCImage

/// One server's memory file.
package struct ServerMemory {
    let file: SharedDescriptor

    package init(file: SharedDescriptor) { self.file = file }

    /// A channel of a session as its server has associated it: its number there, and what a mover calls it.
    package struct Channel: Sendable {
        package var index: UInt32
        package var fd: Int32
        package var role: String

        package init(index: UInt32 = 0, fd: Int32 = -1, role: String) { (self.index, self.fd, self.role) = (index, fd, role) }
    }

    /// What it says of the continuation with this number. Throws when that has no export, or none that is whole. `isParked`: its server says itself what
    /// its state is, and only how far its channels came is asked.
    package func session(_ number: UInt64, _ channels: [Channel], isParked: Bool = false) throws(CheckpointError) -> LoggedSession {
        let start = (number & 0xffff_ffff) * UInt64(SC_MEMORY_STRIDE)
        guard let slot = value(sc_memory_slot.self, at: start), slot.continuation == number else {
            throw LoggedSession.lost("its server keeps nothing of it")
        }
        let record = Self.newest(of: slot)
        var session = LoggedSession()
        if !isParked {
            guard let record, record.number > 0 else { throw LoggedSession.lost("its server has exported nothing") }
            guard record.state_index < 2, record.state_length <= SC_WIRE_STATE,
                let state = bytes(Int(record.state_length), at: start + UInt64(SC_MEMORY_STATES + record.state_index * UInt32(SC_WIRE_STATE))),
                sc_memory_hash(0, 0, state, UInt64(state.count)) == record.state_checksum
            else { throw LoggedSession.lost("its exported state is damaged") }
            (session.state, session.stateVersion) = (state, record.state_version)
        }
        let positions = record.map(Self.positions) ?? []
        for (index, log) in [slot.logs.0, slot.logs.1, slot.logs.2, slot.logs.3].enumerated() where log.size > 0 {
            guard let named = channels.first(where: { $0.index == log.channel }) else { continue }
            var channel = LoggedChannel()
            (channel.fd, channel.role, channel.hasLog) = (named.fd, named.role, true)
            read(log, hasBase: slot.has_base != 0, into: &channel)
            session.channels.append(channel)
            guard !isParked, let record else { continue }
            guard index < positions.count else { throw LoggedSession.lost("its last export is older than its log of \(named.role)") }
            channel.hasGap = log.gap == record.number
            try read(positions[index], of: log, at: start + UInt64(index) * UInt64(SC_MEMORY_LOG_BYTES), into: &channel)
            session.channels[session.channels.count - 1] = channel
        }
        // Without a log it stands exactly at its export, or cannot go on.
        if session.channels.isEmpty, let named = channels.first, let position = positions.first {
            var channel = LoggedChannel()
            (channel.fd, channel.role, channel.exported) = (named.fd, named.role, (position.in, position.out))
            channel.base = slot.has_base != 0 ? (0, 0) : nil
            session.channels = [channel]
        }
        return session
    }

    /// How far it came.
    private func read(_ log: sc_memory_log, hasBase: Bool, into channel: inout LoggedChannel) {
        channel.noted = (log.in, log.out)
        switch sc_memory_kind(log.kind) {
        case SC_MEMORY_TCP:
            channel.base = hasBase ? (log.base_in, log.base_out) : nil
        case SC_MEMORY_MESSAGES: channel.kind = .messages
        default: channel.kind = .stream
        }
        if channel.kind != .tcp { channel.arrived = (log.queued, log.base_out) }
        switch sc_memory_intent(log.intent) {
        case SC_MEMORY_RECEIVES: channel.intent = .receives(log.intent_length)
        case SC_MEMORY_SENDS: channel.intent = .sends(log.intent_length)
        default: break
        }
    }

    /// What lies in its areas since the export.
    private func read(
        _ position: sc_memory_position, of log: sc_memory_log, at start: UInt64, into channel: inout LoggedChannel
    ) throws(CheckpointError) {
        channel.exported = (position.in, position.out)
        (channel.literalStart, channel.hashed, channel.hash) = (position.literal, position.hashed, position.hash)
        // No more than what may be real: the kernel is ahead of what was noted by the call under way. Messages have their lengths besides.
        let isWhole = channel.kind == .messages
        let input = min(UInt64(min(log.size, SC_MEMORY_INPUT_MAX)), isWhole ? .max : log.in &- position.in &+ log.intent_length)
        let output = min(UInt64(SC_MEMORY_OUTPUT_SIZE), isWhole ? .max : log.out &- position.literal &+ log.intent_length)
        guard let logged = bytes(Int(input), at: start + UInt64(SC_MEMORY_INPUT)), let sent = bytes(Int(output), at: start + UInt64(SC_MEMORY_OUTPUT))
        else { throw LoggedSession.lost("its log cannot be read") }
        (channel.input, channel.output) = (logged, sent)
    }

    private static func positions(of record: sc_memory_record) -> [sc_memory_position] {
        Array([record.positions.0, record.positions.1, record.positions.2, record.positions.3].prefix(Int(record.positions_count)))
    }

    /// The record with the higher sequence whose checksum is right: the other one may be half written.
    private static func newest(of slot: sc_memory_slot) -> sc_memory_record? {
        [slot.records.0, slot.records.1].filter { record in
            guard record.sequence > 0, record.positions_count <= SC_MEMORY_LOGS else { return false }
            return withUnsafeBytes(of: record) { bytes in
                let positions = MemoryLayout<sc_memory_record>.offset(of: \.positions)!
                let checked = UInt64(MemoryLayout<sc_memory_record>.offset(of: \.checksum)!)
                let head = sc_memory_hash(0, 0, bytes.baseAddress, checked)
                let length = Int(record.positions_count) * MemoryLayout<sc_memory_position>.stride
                return sc_memory_hash(head, checked, bytes.baseAddress! + positions, UInt64(length)) == record.checksum
            }
        }.max { $0.sequence < $1.sequence }
    }

    private func bytes(_ count: Int, at offset: UInt64) -> [UInt8]? {
        var result = [UInt8](repeating: 0, count: count)
        return pread(file.raw, &result, count, off_t(offset)) == count ? result : nil
    }

    private func value<Value: BitwiseCopyable>(_ type: Value.Type, at offset: UInt64) -> Value? {
        bytes(MemoryLayout<Value>.size, at: offset).map { $0.withUnsafeBytes { $0.loadUnaligned(as: type) } }
    }
}

extension SocketView {
    /// The data bytes that the kernel counts as read and written, as in libsc (memory.c); nil when it has no connection, or does not hold still.
    package var counted: (read: UInt64, written: UInt64)? {
        for _ in 0..<100 {
            guard let before = tcpInfo else { return nil }
            let (unread, unacknowledged) = (cproc_siocinq(fd), cproc_siocoutq(fd))
            guard unread >= 0, unacknowledged >= 0, let after = tcpInfo else { return nil }
            guard (before.bytes_received, before.bytes_acked, before.state) == (after.bytes_received, after.bytes_acked, after.state),
                let state = TCPState(rawValue: after.state)
            else { continue }
            return (
                after.bytes_received &- (state.finReceived ? 1 : 0) &- UInt64(unread),
                after.bytes_acked &+ UInt64(unacknowledged) &- (state.finSent ? 1 : 0)
            )
        }
        return nil
    }
}
