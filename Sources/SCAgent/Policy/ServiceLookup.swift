// A service of the policy, as verbs look it up: by its name, its ports and its addresses.

import Glibc
import SCEngine
import SCImage

extension Policy {
    /// The service of this name, or a refusal that names the others.
    package func service(_ name: String, _ path: String) throws(CheckpointError) -> Service {
        if let service = services[name] { return service }
        let known = services.keys.sorted().joined(separator: ", ")
        throw CheckpointError(
            "there is no service \(name)", why: "the policy \(path) does not name it", errno: ENOENT,
            advice: known.isEmpty ? "It names none" : "It names \(known)")
    }
}

extension Policy.Service {
    /// Whether a connection with this own end belongs to it.
    package func has(_ local: SocketAddress?) -> Bool {
        guard let local, ports.contains(local.port) else { return false }
        return addresses.isEmpty || addresses.contains(local.address.unmapped)
    }

    /// `port 80`, `ports 80, 443`.
    package var portList: String {
        (ports.count == 1 ? "port " : "ports ") + ports.sorted().map { String($0) }.joined(separator: ", ")
    }
}
