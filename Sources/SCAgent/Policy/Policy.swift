// Who may send what to whom on this host: the agent's policy as a value.

import SCEngine
import SCImage

/// What the policy file says. What it does not name is not received.
package struct Policy: Equatable, Sendable {
    /// Where peers connect; nil: the agent serves this host only.
    package var listen: SocketAddress?
    package var metrics: MetricsAddress?
    /// Users of this host whose processes may speak to the agent.
    package var localUsers = ["root"]
    package var services: [String: Service] = [:]
    package var limits = Limits()
    /// Where sessions are kept that were refused, came back or were lost; nil: they are not.
    package var archive: FailureArchive?

    package init() {}

    /// Equivalent servers under one name.
    package struct Service: Equatable, Sendable {
        /// The service's own ports, and addresses; no addresses: any.
        package var ports: Set<UInt16> = []
        package var addresses: Set<IPAddress> = []
        /// Names of the hosts that may send sessions of it.
        package var peers: Set<String> = []
        /// Who receives them here; the first one, when an offer leaves it open.
        package var accept: [Receiver] = []
        /// Users whose processes may register as its servers; nil: root and `localUsers`.
        package var serverUsers: [String]?
        /// How long sessions whose server has died wait for another one, and the hosts that they go to when there is none here.
        package var orphanSeconds = 10
        package var orphansTo: [String] = []

        package init() {}
    }

    /// Somebody who receives.
    package enum Receiver: Equatable, Sendable {
        /// An acceptor's Unix socket (`@name` is abstract), and the user it must run as.
        case into(path: String, user: String?)
        /// An unmodified server: found by name or PID file.
        case onto(Server, adapter: String)
        /// A new process.
        case exec([String])
        /// A server that has registered with the agent by libsc and takes sessions.
        case server
    }

    package enum Server: Hashable, Sendable {
        case named(String)
        case pidFile(String)
    }

    package struct Limits: Equatable, Sendable {
        /// Queue and state bytes of all offers under way, in MiB.
        package var memoryMiB = 256
        package var sessionsInFlight = 1000
        package var offersPerSecond = 20
        package var connections = 64
        /// How long a session may stay silent while the other host gives no account of its move; then it is ended.
        package var holdSeconds = 900

        package init() {}
    }

    package enum MetricsAddress: Equatable, Sendable {
        case unix(String)
        /// Of the loopback interface: the figures are nobody else's business.
        case tcp(SocketAddress)
    }
}
