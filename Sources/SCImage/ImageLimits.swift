// How much an image may ask of the program that reads it.

/// Budgets of reading and writing. What exceeds one is refused before memory is spent on it.
package struct ImageLimits: Equatable, Sendable {
    /// Payload bytes of one record. Bulk is split into records of at most this size, so it bounds the reader's buffer as well.
    package var recordLength = 1 << 20
    /// Bytes of all queues, adapter memory and state of one session.
    package var sessionBytes = 256 << 20
    /// Bytes of application state, and of an adapter's memory, of one session.
    package var stateBytes = 64 << 20
    /// Channels of one session: as many as one SCM_RIGHTS message can hand over.
    package var channels = 253
    /// Bytes that the decoded form of one message may take (protobuf-c amplifies hostile messages 12 to 53 times).
    package var arenaBytes = 4 << 20

    package init() {}
}

/// Fixed bounds of the format: a value beyond them is malformed under any budget.
enum FormatBounds {
    /// RFC 7323 section 2.3.
    static let windowScale = 14
    /// TCP_CA_NAME_MAX less the terminating NUL.
    static let congestionControl = 15
    /// LISTEN_FDNAMES' limit of a name (sd_listen_fds_with_names).
    static let name = 255
    /// The parts of a descriptor's name before and after the '.': together they fit into a name.
    static let role = 64
    static let descriptorName = 128
    /// sun_path of sockaddr_un, and PATH_MAX.
    static let socketName = 108
    static let path = 4096
    /// Host and tool of an inventory.
    static let label = 255
    /// A command line is cut at so many bytes.
    static let command = 4096
    static let socketOptions = 256
    static let socketOptionValue = 4096
    /// A window is below 2^30 bytes, and so is a queue.
    static let queue = 1 << 30
}
