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

    /// What it says of the continuation with this number. Throws when that has no export, or none that is whole.
    package func session(_ number: UInt64, role: String) throws(CheckpointError) -> LoggedSession {
        let start = (number & 0xffff_ffff) * UInt64(SC_MEMORY_STRIDE)
        guard let slot = value(sc_memory_slot.self, at: start), slot.continuation == number else {
            throw LoggedSession.lost("its server keeps nothing of it")
        }
        guard let record = Self.newest(of: slot), record.number > 0 else { throw LoggedSession.lost("its server has exported nothing") }
        var session = LoggedSession()
        (session.role, session.stateVersion) = (role, record.state_version)
        guard record.state_index < 2, record.state_length <= SC_WIRE_STATE,
            let state = bytes(Int(record.state_length), at: start + UInt64(SC_MEMORY_STATES + record.state_index * UInt32(SC_WIRE_STATE))),
            sc_memory_hash(0, state, UInt64(state.count)) == record.state_checksum
        else { throw LoggedSession.lost("its exported state is damaged") }
        session.state = state
        session.base = slot.has_base != 0 ? (slot.base_in, slot.base_out) : nil
        session.exported = (record.in, record.out)
        guard slot.log > 0 else { return session }
        session.hasLog = true
        session.noted = (slot.in, slot.out)
        session.hasGap = slot.gap == record.number
        (session.literalStart, session.hash) = (record.literal, record.hash)
        switch sc_memory_intent(slot.intent) {
        case SC_MEMORY_RECEIVES: session.intent = .receives(slot.intent_length)
        case SC_MEMORY_SENDS: session.intent = .sends(slot.intent_length)
        default: break
        }
        // No more than what may be real: the kernel is ahead of what was noted by the call under way.
        let input = min(UInt64(min(slot.log, SC_MEMORY_INPUT_MAX)), slot.in &- record.in &+ slot.intent_length)
        let output = min(UInt64(SC_MEMORY_OUTPUT_SIZE), slot.out &- record.literal &+ slot.intent_length)
        guard let logged = bytes(Int(input), at: start + UInt64(SC_MEMORY_INPUT)), let sent = bytes(Int(output), at: start + UInt64(SC_MEMORY_OUTPUT))
        else { throw LoggedSession.lost("its log cannot be read") }
        (session.input, session.output) = (logged, sent)
        return session
    }

    /// The record with the higher sequence whose checksum is right: the other one may be half written.
    private static func newest(of slot: sc_memory_slot) -> sc_memory_record? {
        [slot.records.0, slot.records.1].filter { record in
            record.sequence > 0
                && withUnsafeBytes(of: record) { sc_memory_hash(0, $0.baseAddress, UInt64(MemoryLayout<sc_memory_record>.offset(of: \.checksum)!)) }
                    == record.checksum
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
