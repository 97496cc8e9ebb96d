// Where the tool keeps what outlives one run of it, and the locks between runs.

import CProc
import Glibc

/// The directory of run-time state: `$SC_RUN_DIR`, or /run/sc-checkpoint.
package enum StateDirectory {
    package static var path: String { getenv("SC_RUN_DIR").map { String(cString: $0) } ?? "/run/sc-checkpoint" }

    /// What has to outlive a restart of the host: `$SC_STATE_DIR`, else `$SC_RUN_DIR`, else /var/lib/sc-checkpoint.
    package static var persistent: String {
        for name in ["SC_STATE_DIR", "SC_RUN_DIR"] {
            if let value = getenv(name) { return String(cString: value) }
        }
        return "/var/lib/sc-checkpoint"
    }

    /// The path of a file in a folder of the directory; makes the folder.
    package static func file(_ name: String, in folder: String) throws(CheckpointError) -> String {
        for directory in [path, "\(path)/\(folder)"] where mkdir(directory, 0o700) != 0 && errno != EEXIST {
            throw CheckpointError("cannot make \(directory)", result: Int(-errno), advice: "Run as root or set SC_RUN_DIR")
        }
        return "\(path)/\(folder)/\(name)"
    }
}

/// An exclusive lock on the steering of one network namespace: two moves at once would share its parking. It is an abstract Unix socket, which
/// belongs to the namespace and ends with its owner, so nothing is left behind by a killed tool.
package final class StateLock {
    private let descriptor: OwnedDescriptor

    /// Waits up to five seconds for another move to end.
    package init(namespace: NetworkNamespace) throws(CheckpointError) {
        descriptor = try namespace.socket(family: AF_UNIX, type: Int32(SOCK_DGRAM.rawValue))
        let deadline = Deadline(milliseconds: 5000)
        while !bindUnix(descriptor.raw, "\0sc-checkpoint/steering") {
            guard errno == EADDRINUSE, !deadline.hasPassed else {
                throw CheckpointError(
                    "another move is under way in this network namespace", why: "it holds the steering rules", errno: EBUSY,
                    advice: "Repeat when it is done")
            }
            pause(microseconds: 1000)
        }
    }
}
