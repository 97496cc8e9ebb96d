// Sessions of servers that take part: they hold still because they were asked to, and say what their state is.

import Glibc
import SCImage

/// What a server said of one of its sessions when it parked.
package struct ParkedSession: Sendable, Equatable {
    package var state: [UInt8]
    /// The form of the state: only the server's own kind knows it.
    package var stateVersion: UInt32
    /// What the server calls the channel.
    package var role: String
    /// What it had read since its export, of a server that could not be asked.
    package var input: [UInt8] = []
    package var repetition: Repetition?
    /// Of a session of several processes: what each said, in the order of the group's parts.
    package var parts: [PartState] = []

    /// What one process of several said.
    package struct PartState: Sendable, Equatable {
        package var name: String
        package var state: [UInt8]
        package var stateVersion: UInt32

        package init(name: String, state: [UInt8], stateVersion: UInt32) { (self.name, self.state, self.stateVersion) = (name, state, stateVersion) }
    }

    package init(state: [UInt8], stateVersion: UInt32, role: String) { (self.state, self.stateVersion, self.role) = (state, stateVersion, role) }
}

/// A session that several servers have declared to serve together (sc_join).
package struct DeclaredGroup: Sendable {
    package struct Part: Sendable {
        /// What it does in the session, as in `worker`.
        package var name: String
        package var pid: Int32
        /// Its numbers of the session's channels, and what it calls them.
        package var descriptors: [(fd: Int32, role: String)]
        /// The form of the state that it exports.
        package var stateVersion: UInt32

        package init(name: String, pid: Int32, descriptors: [(fd: Int32, role: String)], stateVersion: UInt32) {
            (self.name, self.pid, self.descriptors, self.stateVersion) = (name, pid, descriptors, stateVersion)
        }
    }

    /// Its TCP connection that was asked about, by inode.
    package var socket: UInt64
    package var parts: [Part]

    package init(socket: UInt64, parts: [Part]) { (self.socket, self.parts) = (socket, parts) }
}

/// One server of a session that was asked to park: of several, by what it does.
package struct ServerPart: Hashable, Sendable {
    /// The session's TCP connection that was asked about, by inode.
    package var socket: UInt64
    /// nil: it serves the session alone.
    package var name: String?

    package init(socket: UInt64, name: String? = nil) { (self.socket, self.name) = (socket, name) }
}

/// What became of asking servers to park.
package struct ParkOutcome: Sendable {
    package var sessions: [UInt64: ParkedSession] = [:]
    /// Those that do not park, and can be taken all the same: stop their processes, then `seize`.
    package var late: Set<ServerPart> = []
    /// By socket, why a session is not parked, when the others were to be parked all the same.
    package var refused: [UInt64: String] = [:]

    package init() {}
}

/// Takes the place of stopping processes for the sessions that it knows. After `park`, one of `resume` and `gone`; when neither comes, because this
/// process has died, whoever asked the servers finds out from the sockets.
package protocol SessionParking: AnyObject {
    /// Sockets, by inode, whose servers take part.
    var sockets: Set<UInt64> { get }
    /// By socket, the form of the state that its server exports.
    var stateVersions: [UInt64: UInt32] { get }
    /// The sessions among them that several processes serve.
    var groups: [DeclaredGroup] { get }
    /// By socket, the most bytes of state that its servers export together.
    var stateRooms: [UInt64: Int] { get }
    /// Why sessions among them cannot move, as their servers say.
    var pinned: [UInt64: String] { get }
    /// Servers whose sessions can be taken when they do not answer, by what they keep in shared memory.
    var seizable: Set<ServerPart> { get }
    /// How many of those have died.
    var orphanCount: Int { get }
    /// Returns when no server touches its sessions any longer, but for the late ones. A session that is not parked in time, and cannot be late, is among the
    /// refused (`partly`), and the others are parked; without `partly`, and when it is the last, this throws, and none is parked.
    func park(partly: Bool) throws(CheckpointError) -> ParkOutcome
    /// What the memory says of these, while their processes stand still; the channels' counters complete it. Of the other processes of their sessions it
    /// says how far their channels came.
    func seize(_ late: Set<ServerPart>) throws(CheckpointError) -> [ServerPart: LoggedSession]
    /// These stay, whatever becomes of the others; they are no longer asked about.
    func leave(_ sockets: Set<UInt64>)
    /// The sessions stay: their servers go on with them.
    func resume()
    /// The sessions are served elsewhere: their servers close what is left.
    func gone()
}

extension CheckpointError {
    package static func notParked(_ why: String) -> CheckpointError {
        CheckpointError(
            "a server does not park its session", why: why, errno: EBUSY,
            advice: "The session goes on where it is; --force stops the server instead, and moves the session without its state")
    }
}

/// The most bytes of its log (SC_LOG_MAX), and of the output that it keeps (SC_MEMORY_OUTPUT_SIZE).
let loggedLimit = 262_144 + 65536
