// A session that has come goes to the servers that have accepted it: state, descriptors, and the output that they will produce again.

import Glibc
import SC
import SCEngine

extension ReceiverConversation {
    func bring(_ message: ReceiverMessage, _ descriptors: [SharedDescriptor]) {
        let channels = message.channels ?? []
        let length = message.state_bytes ?? 0
        let limit = Int(SC_STATE_MAX) * max(1, offers.count(where: { $0.part != nil }))
        guard (0...limit).contains(length) else { return decline("its state has \(length) bytes, \(limit) are allowed") }
        let repeats = message.repeated
        for entry in repeats where !(0...MemoryLayout<sc_memory_repeat>.size + Int(SC_MEMORY_OUTPUT_SIZE)).contains(entry.bytes) {
            return decline("its server would have to repeat \(entry.bytes) bytes of output")
        }
        guard repeats.count <= Int(SC_WIRE_CHANNELS) * max(1, offers.count) else {
            return decline("it would have to repeat \(repeats.count) channels")
        }
        let all = length + repeats.reduce(0) { $0 + $1.bytes }
        guard descriptors.count == channels.count + (all > 0 ? 1 : 0) else { return decline("a session came without its descriptors") }
        var state = [UInt8](repeating: 0, count: all)
        if !state.isEmpty, pread(descriptors[channels.count].raw, &state, state.count, 0) != state.count {
            return decline("its state cannot be read")
        }
        let arrived = zip(channels, descriptors).map { (channel: $0, descriptor: $1) }
        guard channels.first?.process != nil else {
            guard let first = channels.first, let offered = offers.first(where: { $0.local == first.local && $0.peer == first.peer }),
                let number = offered.continuation, channels.count <= Int(SC_WIRE_CHANNELS)
            else { return decline("a session came that was not offered") }
            tellRepeats(repeats, state[length...], to: offered, number)
            return bring(to: offered, arrived, Array(state[..<length]), version: message.state_version ?? 0, names: channels.map(\.name))
        }
        var offset = 0
        var states: [String: (bytes: ArraySlice<UInt8>, version: UInt32)] = [:]
        for entry in message.states ?? [] {
            guard entry.bytes >= 0, entry.bytes <= length - offset else { return decline("its states are longer than they are together") }
            states[entry.process] = (state[offset..<offset + entry.bytes], entry.version)
            offset += entry.bytes
        }
        for index in offers.indices {
            let offered = offers[index]
            let own = arrived.filter { $0.channel.process == offered.part }
            offers[index].hasConnection = own.contains { $0.channel.kind == "tcp" }
            guard !own.isEmpty, own.count <= Int(SC_WIRE_CHANNELS) else {
                return decline("\(offered.part ?? "-") has \(own.count) channels, 1 to \(SC_WIRE_CHANNELS) are expected")
            }
            let known = states[offered.part ?? ""]
            guard (known?.bytes.count ?? 0) <= Int(SC_STATE_MAX) else { return decline("the state of \(offered.part ?? "-") is too long") }
            if let number = offered.continuation { tellRepeats(repeats, state[length...], to: offered, number) }
            bring(
                to: offered, own, Array(known?.bytes ?? []), version: known?.version ?? 0,
                names: own.map { String($0.channel.name.drop { $0 != "." }.dropFirst()) })
        }
        guard arrived.allSatisfy({ entry in offers.contains { $0.part == entry.channel.process } }) else {
            return decline("a process came that was not offered")
        }
    }

    private func bring(
        to offered: Offered, _ arrived: [(channel: ReceiverMessage.Channel, descriptor: SharedDescriptor)], _ state: [UInt8], version: UInt32,
        names: [String]
    ) {
        guard let number = offered.continuation, let server = offered.server else { return decline("a session came that nobody has accepted") }
        var packet = sc_wire_import()
        packet.head = packetHead(SC_WIRE_IMPORT, number, sc_wire_import.self, more: state.count)
        (packet.state_version, packet.state_length, packet.channels) = (version, UInt32(state.count), UInt32(arrived.count))
        withUnsafeMutableBytes(of: &packet.roles) { roles in
            for (index, name) in names.enumerated() {
                let start = index * Int(SC_WIRE_ROLE)
                for (place, byte) in name.utf8.prefix(Int(SC_WIRE_ROLE) - 1).enumerated() { roles[start + place] = byte }
            }
        }
        var descriptors = arrived.map(\.descriptor)
        let isLong = state.count > Int(SC_WIRE_STATE)
        if isLong {
            guard server.version >= 5, let file = try? makeStateFile(state) else {
                return decline("process \(server.pid) takes no state of \(state.count) bytes")
            }
            packet.head.length = UInt32(MemoryLayout<sc_wire_import>.size)
            descriptors.append(file)
        }
        guard server.outbox.send(packet, isLong ? [] : state, descriptors: descriptors) else {
            return decline("process \(server.pid) does not read what it is told")
        }
    }

    /// Output that the server will produce again; each channel's own.
    private func tellRepeats(
        _ repeats: [(process: String?, name: String, bytes: Int)], _ file: ArraySlice<UInt8>, to offered: Offered, _ number: UInt64
    ) {
        var rest = file
        for entry in repeats {
            if entry.process == offered.part, entry.bytes > 0 {
                var packet = sc_wire_repeat()
                packet.head = packetHead(SC_WIRE_REPEAT, number, sc_wire_repeat.self, more: entry.bytes)
                setField(&packet.role, to: entry.name)
                offered.server?.outbox.send(packet, Array(rest.prefix(entry.bytes)))
            }
            rest = rest.dropFirst(entry.bytes)
        }
    }
}
