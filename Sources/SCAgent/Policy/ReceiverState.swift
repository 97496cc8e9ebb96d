// Whether somebody whom the policy names to receive could do so now.

import CProc
import Glibc
import SCEngine

/// A receiver of the policy as it is found on this host.
package struct ReceiverState: Sendable {
    package enum Kind: String, Sendable { case into, onto, exec, server }

    package var kind: Kind
    /// The acceptor's path, the server, or the command.
    package var name: String
    package var adapter: String?
    package var user: String?
    /// The acceptor answers a connection, the server runs, the program is there.
    package var isReady: Bool
    /// Why it is not.
    package var reason: String?
    package var pid: Int32?

    /// Looks now. An acceptor sees a connection that ends without an offer.
    package init(_ receiver: Policy.Receiver, service: String = "", lookup: Lookup = .system) {
        switch receiver {
        case .into(let path, let user):
            self.init(kind: .into, name: path, user: user, isReady: false)
            (isReady, pid, reason) = Self.connect(path)
        case .onto(let server, let adapter):
            let pid = lookup.pids(server).first
            self.init(
                kind: .onto, name: server.description, adapter: adapter, isReady: pid != nil, reason: pid == nil ? "it does not run" : nil, pid: pid)
        case .server:
            self.init(kind: .server, name: service, isReady: false)
            (isReady, pid, _) = Self.connect(AgentListeners.serverAcceptor(service))
            reason = isReady ? nil : "no server has registered"
        case .exec(let command):
            let isReady = access(command[0], X_OK) == 0
            self.init(
                kind: .exec, name: command.joined(separator: " "), isReady: isReady, reason: isReady ? nil : systemMessage(errno))
        }
    }

    private init(
        kind: Kind, name: String, adapter: String? = nil, user: String? = nil, isReady: Bool, reason: String? = nil, pid: Int32? = nil
    ) {
        (self.kind, self.name, self.adapter, self.user) = (kind, name, adapter, user)
        (self.isReady, self.reason, self.pid) = (isReady, reason, pid)
    }

    private static func connect(_ path: String) -> (Bool, Int32?, String?) {
        let address = path.hasPrefix("@") ? "\0" + path.dropFirst() : path
        for type in [SOCK_SEQPACKET, SOCK_STREAM] {
            // A listener whose queue is full must not hold the list up.
            if let connection = connectedUnix(address, type: Int32(type.rawValue), flags: Int32(SOCK_NONBLOCK.rawValue)) {
                var (pid, uid, gid): (Int32, UInt32, UInt32) = (0, 0, 0)
                _ = cproc_peer_credentials(connection.raw, &pid, &uid, &gid)
                return (true, pid > 0 ? pid : nil, nil)
            }
            if errno != EPROTOTYPE { break }
        }
        return (false, nil, systemMessage(errno))
    }
}
