// The shape of all messages, for the rules that `images/` sets itself.

internal import CSCImage

/// What the generated descriptors say about the messages of `images/`.
package enum MessageSchema {
    /// One message type.
    package struct Message: Equatable, Sendable {
        package var name: String
        /// The types of the messages inside it.
        package var contains: Set<String> = []
        /// Fields of protobuf's `string` type, which is not to be used.
        package var strings: Set<String> = []
    }

    /// All message types.
    package static var messages: [Message] {
        var count = 0
        guard let list = unsafe csci_descriptors(&count) else { return [] }
        return unsafe UnsafeBufferPointer(start: list, count: count).compactMap { descriptor in
            guard let descriptor = unsafe descriptor?.pointee else { return nil }
            var message = unsafe Message(name: String(cString: descriptor.name))
            for index in 0..<(unsafe Int(descriptor.n_fields)) {
                let field = unsafe descriptor.fields[index]
                if unsafe field.type == PROTOBUF_C_TYPE_STRING { unsafe message.strings.insert(String(cString: field.name)) }
                guard unsafe field.type == PROTOBUF_C_TYPE_MESSAGE, let inner = unsafe field.descriptor else { continue }
                let type = unsafe inner.assumingMemoryBound(to: ProtobufCMessageDescriptor.self)
                unsafe message.contains.insert(String(cString: type.pointee.name))
            }
            return message
        }
    }
}
