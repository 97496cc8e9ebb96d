// Feeds libFuzzer's inputs to the readers: whatever they accept must survive being written and read again.

import SCImage

/// Small budgets, so that an input cannot spend its time on memory alone.
private var limits: ImageLimits {
    var limits = ImageLimits()
    (limits.recordLength, limits.sessionBytes, limits.stateBytes, limits.arenaBytes) = (64 << 10, 64 << 10, 32 << 10, 256 << 10)
    return limits
}

/// Sessions of an image, as far as it is right.
private func sessions(_ image: [UInt8]) -> (inventory: Inventory, sessions: [Session])? {
    guard var reader = try? ImageReader(MemorySource(image), limits: limits) else { return nil }
    var sessions: [Session] = []
    while let session = (try? reader.next()) ?? nil { sessions.append(session) }
    return (reader.inventory, sessions)
}

/// Messages of a stream, as far as it is right.
private func messages(_ stream: [UInt8]) -> [WireMessage] {
    guard var reader = try? WireReader(MemorySource(stream), limits: limits) else { return [] }
    var messages: [WireMessage] = []
    while let message = (try? reader.next()) ?? nil { messages.append(message) }
    return messages
}

@c(LLVMFuzzerTestOneInput) public func fuzz(_ data: UnsafePointer<UInt8>?, _ size: Int) -> Int32 {
    let input = repaired(Array(UnsafeBufferPointer(start: data, count: size)))
    if let (inventory, found) = sessions(input) {
        guard var writer = try? ImageWriter(MemorySink(), inventory, limits: limits) else { fatalError("the inventory is not written") }
        for session in found {
            guard (try? writer.write(session)) != nil else { fatalError("a session that was read is not written") }
        }
        guard (try? writer.finish()) != nil, let (again, same) = sessions(writer.sink.bytes), again == inventory, same == found
        else { fatalError("an image changes when it is written again") }
    }
    let heard = messages(input)
    guard !heard.isEmpty, var writer = try? WireWriter(MemorySink(), limits: limits) else { return 0 }
    for message in heard {
        guard (try? writer.write(message)) != nil else { fatalError("a message that was read is not written") }
    }
    guard messages(writer.sink.bytes) == heard else { fatalError("a stream changes when it is written again") }
    return 0
}

/// The input with right checksums: without this, no mutation would ever get past them.
///
/// An input whose first byte is not that of a magic is taken as it is, so that the checks themselves are fuzzed as well.
private func repaired(_ input: [UInt8]) -> [UInt8] {
    guard input.count > 16, input[0] == 0x8b else { return input.first == 0 ? Array(input.dropFirst()) : input }
    var output = input
    var position = 16
    while position + 12 <= output.count {
        let length = Int(output[position + 4]) | Int(output[position + 5]) << 8
        guard output[position + 6] == 0, output[position + 7] == 0, position + 12 + length <= output.count else { break }
        let covered = Array(output[position..<position + 8] + output[position + 12..<position + 12 + length])
        let crc = crc32c(covered)
        for index in 0..<4 { output[position + 8 + index] = UInt8(truncatingIfNeeded: crc >> (8 * UInt32(index))) }
        position += 12 + length
    }
    return output
}
