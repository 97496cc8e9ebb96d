// Sessions of servers that take part: they hold still because they were asked to, and say what their state is.

import SCImage

/// What a server said of one of its sessions when it parked.
package struct ParkedSession: Sendable, Equatable {
    package var state: [UInt8]
    /// The form of the state: only the server's own kind knows it.
    package var stateVersion: UInt32
    /// What the server calls the channel.
    package var role: String

    package init(state: [UInt8], stateVersion: UInt32, role: String) { (self.state, self.stateVersion, self.role) = (state, stateVersion, role) }
}

/// Takes the place of stopping processes for the sessions that it knows. After `park`, one of `resume` and `gone`; when neither comes, because this
/// process has died, whoever asked the servers finds out from the sockets.
package protocol SessionParking: AnyObject {
    /// Sockets, by inode, whose servers take part.
    var sockets: Set<UInt64> { get }
    /// Returns when no server touches its sessions any longer; throws when one does not park in time, and then none is parked.
    func park() throws(CheckpointError) -> [UInt64: ParkedSession]
    /// The sessions stay: their servers go on with them.
    func resume()
    /// The sessions are served elsewhere: their servers close what is left.
    func gone()
}

extension AdapterState {
    /// The "adapter" of a session whose server exported its state itself: it remembers the state's version.
    package static let serverName = "libsc"

    init(stateVersion: UInt32) {
        self.init(name: Self.serverName, bytes: (0..<4).map { UInt8(truncatingIfNeeded: stateVersion >> (8 * $0)) })
    }

    /// The version of an exported state; nil when the state was not exported by a server.
    package var stateVersion: UInt32? {
        guard name == Self.serverName, bytes.count == 4 else { return nil }
        return bytes.reversed().reduce(0) { $0 << 8 | UInt32($1) }
    }
}

/// The most bytes of state that a server exports of one session (SC_STATE_MAX of sc.h).
package let exportedStateLimit = 65536
