// Between Swift values and protobuf-c: a bounded arena for both directions.

internal import CSCImage

/// Memory of one message at a time: what is decoded, or what a message to encode points to.
@safe struct RecordArena: ~Copyable {
    private let arena: UnsafeMutablePointer<csci_arena>

    init(budget: Int) throws(ImageError) {
        guard let arena = unsafe csci_arena_new(budget) else { throw .io(errno: 12, operation: "reserving memory for messages") }
        unsafe self.arena = unsafe arena
    }

    deinit { unsafe csci_arena_free(arena) }

    /// Forgets the message before.
    mutating func reset() { unsafe csci_arena_reset(arena) }

    /// Decodes one message by its generated `unpack`. The result is good until the next reset.
    @unsafe mutating func unpack<Message>(
        _ bytes: UnsafeRawBufferPointer, _ what: String, at offset: UInt64,
        by unpack: (UnsafeMutablePointer<ProtobufCAllocator>?, Int, UnsafePointer<UInt8>?) -> UnsafeMutablePointer<Message>?
    ) throws(ImageError) -> UnsafeMutablePointer<Message> {
        unsafe csci_arena_reset(arena)
        let data = unsafe bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
        if let message = unsafe unpack(&arena.pointee.allocator, bytes.count, data) { return unsafe message }
        guard unsafe arena.pointee.exceeded else { throw .malformed(what: "the \(what) message cannot be decoded", offset: offset) }
        throw .overBudget(
            what: "memory of the \(what) message", value: unsafe UInt64(arena.pointee.used),
            limit: unsafe UInt64(arena.pointee.budget), offset: offset)
    }

    /// Memory for `count` values, uninitialised.
    @unsafe mutating func allocate<T>(_ type: T.Type, _ count: Int) throws(ImageError) -> UnsafeMutablePointer<T> {
        guard let memory = unsafe csci_arena_alloc(arena, count * MemoryLayout<T>.stride) else {
            throw unsafe .overBudget(
                what: "memory of a message", value: UInt64(arena.pointee.used) + UInt64(count * MemoryLayout<T>.stride),
                limit: UInt64(arena.pointee.budget), offset: nil)
        }
        return unsafe memory.bindMemory(to: type, capacity: count)
    }

    /// A copy of some bytes for a message to point to.
    @unsafe mutating func lend(_ bytes: [UInt8]) throws(ImageError) -> ProtobufCBinaryData {
        let copy = try unsafe allocate(UInt8.self, bytes.count)
        unsafe UnsafeMutableRawBufferPointer(start: copy, count: bytes.count).copyBytes(from: bytes)
        return unsafe ProtobufCBinaryData(len: bytes.count, data: copy)
    }

    /// A copy of a text for a message to point to.
    @unsafe mutating func lend(_ text: String) throws(ImageError) -> ProtobufCBinaryData {
        let utf8 = text.utf8
        let copy = try unsafe allocate(UInt8.self, utf8.count)
        _ = unsafe UnsafeMutableBufferPointer(start: copy, count: utf8.count).update(fromContentsOf: utf8)
        return unsafe ProtobufCBinaryData(len: utf8.count, data: copy)
    }

    /// An address and a port in network order, one after the other.
    @unsafe mutating func lend(_ end: SocketAddress) throws(ImageError) -> ProtobufCBinaryData {
        let length = end.address.isIPv6 ? 18 : 6
        let copy = try unsafe allocate(UInt8.self, length)
        let bytes = unsafe UnsafeMutableRawBufferPointer(start: copy, count: length)
        if end.address.isIPv6 {
            unsafe bytes.storeBytes(of: end.address.high.bigEndian, as: UInt64.self)
            unsafe bytes.storeBytes(of: end.address.low.bigEndian, toByteOffset: 8, as: UInt64.self)
        } else {
            unsafe bytes.storeBytes(of: UInt32(truncatingIfNeeded: end.address.low).bigEndian, as: UInt32.self)
        }
        unsafe bytes.storeBytes(of: end.port.bigEndian, toByteOffset: length - 2, as: UInt16.self)
        return unsafe ProtobufCBinaryData(len: length, data: copy)
    }

    /// An array of `count` sub-messages, and the array of pointers to them that protobuf-c wants.
    @unsafe mutating func messages<Message>(
        _ type: Message.Type, _ count: Int
    ) throws(ImageError) -> (UnsafeMutablePointer<Message>, UnsafeMutablePointer<UnsafeMutablePointer<Message>?>) {
        let messages = try unsafe allocate(type, count)
        let pointers = try unsafe allocate(UnsafeMutablePointer<Message>?.self, count)
        for index in 0..<count { unsafe (pointers + index).initialize(to: messages + index) }
        return unsafe (messages, pointers)
    }
}

extension ProtobufCBinaryData {
    /// The bytes, copied.
    var array: [UInt8] { unsafe Array(UnsafeBufferPointer(start: data, count: len)) }

    /// The text, if it is UTF-8.
    func text(_ what: String, at offset: UInt64) throws(ImageError) -> String {
        guard let text = unsafe String(validating: UnsafeBufferPointer(start: data, count: len), as: UTF8.self) else {
            throw .malformed(what: "\(what) is not UTF-8", offset: offset)
        }
        return text
    }

    /// Reads what `RecordArena.lend` makes of an address and a port.
    func socketAddress(_ what: String, scope: UInt32 = 0, at offset: UInt64) throws(ImageError) -> SocketAddress {
        let bytes = unsafe UnsafeRawBufferPointer(start: data, count: len)
        guard let address = unsafe IPAddress(raw: bytes.dropLast(2)) else {
            throw .malformed(what: "\(what) address of \(max(0, bytes.count - 2)) bytes", offset: offset)
        }
        let port = unsafe UInt16(bytes[len - 2]) << 8 | UInt16(bytes[len - 1])
        return SocketAddress(address, port: port, scope: scope)
    }
}

extension IPAddress {
    /// 4 or 16 bytes in network order, read without a copy.
    @unsafe init?(raw bytes: Slice<UnsafeRawBufferPointer>) {
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: bytes)
        switch bytes.count {
        case 4: self.init(ipv4: unsafe UInt32(bigEndian: bytes.loadUnaligned(as: UInt32.self)))
        case 16:
            self.init(
                ipv6High: unsafe UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self)),
                low: unsafe UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)))
        default: return nil
        }
    }
}
