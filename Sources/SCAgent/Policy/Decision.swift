// Whether an offer is received, by whom, or which check it failed: the policy's decision, without side effects.

import Glibc
import SCEngine
import SCImage

/// What the policy says to an offer.
package enum Decision: Equatable, Sendable {
    case accept(Acceptance)
    case refuse(Check, CheckpointError)

    /// Who receives. `acceptorUser`: the process that listens on the acceptor's socket must have this uid (SO_PEERCRED); nil: any.
    package struct Acceptance: Equatable, Sendable {
        package var service: String
        package var handover: Handover
        package var acceptorUser: UInt32?
    }

    /// The check that refused, as a metric's label.
    package enum Check: String, Sendable, CaseIterable {
        case handover, service, peer, flow, receiver, process, user, sessions, memory, rate
    }
}

/// What the agent has under way already.
package struct Load: Sendable {
    package var sessions = 0
    package var bytes: UInt64 = 0
    package init(sessions: Int = 0, bytes: UInt64 = 0) { (self.sessions, self.bytes) = (sessions, bytes) }
}

extension Policy {
    /// Decides about an offer of a peer; `peer` nil: of this host itself, whose user was let in by `localUsers`.
    package func decide(peer: String?, offer: Offer, load: Load = Load(), lookup: Lookup = .system) -> Decision {
        guard !offer.flows.isEmpty, let handover = offer.handover else {
            return .refuse(.handover, Self.refusal(offer, "it names no connection or no receiver", "Name a service or a receiver", EBADMSG))
        }
        if let over = overload(offer, load) { return over }
        if case .service(let name) = handover {
            guard let service = services[name] else {
                return .refuse(.service, Self.refusal(offer, "there is no service \(name) here", "Name it in the policy of \(hostName())", ENOENT))
            }
            if let refusal = refusal(peer, offer, name, service) { return .refuse(refusal.0, refusal.1) }
            return resolve(service.accept[0], name, offer, nil, lookup)
        }
        return decide(peer, offer, explicit: handover, lookup)
    }

    /// The first service, by name, that passes every check; otherwise the refusal that came furthest.
    private func decide(_ peer: String?, _ offer: Offer, explicit handover: Handover, _ lookup: Lookup) -> Decision {
        var furthest = 0
        var decision = Decision.refuse(
            .service, Self.refusal(offer, "the policy names no service", "Name the service in the policy of \(hostName())", EACCES))
        for (name, service) in services.sorted(by: { $0.key < $1.key }) {
            if let (check, error) = refusal(peer, offer, name, service) {
                let distance = check == .peer ? 1 : 2
                if distance > furthest { (furthest, decision) = (distance, .refuse(check, error)) }
                continue
            }
            if let receiver = service.accept.first(where: { $0.matches(handover, lookup) }) {
                return resolve(receiver, name, offer, handover, lookup)
            }
            if furthest < 3 {
                furthest = 3
                decision = .refuse(
                    .receiver,
                    Self.refusal(
                        offer, "service \(name) is not received by \(handover.summary)",
                        "Name the service alone, or the receiver in the policy of \(hostName())", EACCES))
            }
        }
        return decision
    }

    private func refusal(_ peer: String?, _ offer: Offer, _ name: String, _ service: Service) -> (Decision.Check, CheckpointError)? {
        if let peer, !service.peers.contains(peer) {
            let error = Self.refusal(
                offer, "\(peer) may not send sessions of service \(name)", "Name it in services.\(name).peers in the policy of \(hostName())", EACCES)
            return (.peer, error)
        }
        for flow in offer.flows {
            let address = flow.service.address.unmapped
            guard service.ports.contains(flow.service.port), service.addresses.isEmpty || service.addresses.contains(address) else {
                return (
                    .flow, Self.refusal(offer, "\(flow.service) does not belong to service \(name)", "Move sessions of one service at a time", EACCES)
                )
            }
        }
        return nil
    }

    private func overload(_ offer: Offer, _ load: Load) -> Decision? {
        if load.sessions + offer.flows.count > limits.sessionsInFlight {
            let why = "\(load.sessions) sessions are under way, \(offer.flows.count) more would come, \(limits.sessionsInFlight) are allowed"
            return .refuse(.sessions, Self.refusal(offer, why, "Move fewer at once, or raise limits.sessions_in_flight", EAGAIN))
        }
        let (bytes, isOver) = offer.queueBytes.addingReportingOverflow(offer.stateBytes)
        let (sum, isOverToo) = bytes.addingReportingOverflow(load.bytes)
        if isOver || isOverToo || sum > UInt64(limits.memoryMiB) << 20 {
            let why = "its \(isOver ? .max : bytes) bytes would pass the limit of \(limits.memoryMiB) MiB"
            return .refuse(.memory, Self.refusal(offer, why, "Move fewer at once, or raise limits.memory_mib", ENOMEM))
        }
        return nil
    }

    /// The receiver as a hand-over: its process and its user are looked up now.
    private func resolve(_ receiver: Receiver, _ name: String, _ offer: Offer, _ explicit: Handover?, _ lookup: Lookup) -> Decision {
        switch receiver {
        case .server:
            return .accept(.init(service: name, handover: .into(path: socketPath(AgentListeners.serverAcceptor(name)))))
        case .exec(let command):
            return .accept(.init(service: name, handover: .exec(arguments: command.map { Array($0.utf8) })))
        case .into(let path, let user):
            var uid: UInt32?
            if let user {
                uid = lookup.uid(user)
                guard uid != nil else {
                    let why = "the policy's user \(user) does not exist on \(hostName())"
                    return .refuse(.user, Self.refusal(offer, why, "Make it, or correct services.\(name).accept", ENOENT))
                }
            }
            return .accept(.init(service: name, handover: .into(path: socketPath(path)), acceptorUser: uid))
        case .onto(let server, let adapter):
            var options: [String] = []
            if case .onto(let pid, _, let given) = explicit {
                if pid != 0 { return .accept(.init(service: name, handover: explicit!)) }
                options = given
            }
            guard let pid = lookup.pids(server).first else {
                return .refuse(.process, Self.refusal(offer, "\(server.description) does not run on \(hostName())", "Start the server first", ESRCH))
            }
            return .accept(.init(service: name, handover: .onto(pid: pid, adapter: adapter, options: options)))
        }
    }

    private static func refusal(_ offer: Offer, _ why: String, _ advice: String, _ errno: Int32) -> CheckpointError {
        let flow = offer.flows.first.map { " of \($0)" + (offer.flows.count > 1 ? " and \(offer.flows.count - 1) more" : "") } ?? ""
        return CheckpointError("\(hostName()) refuses the offer\(flow)", why: why, errno: errno, advice: advice)
    }

    /// Whether a process of this user may register as a server of the service.
    package func admits(server uid: UInt32, of service: Service, lookup: Lookup = .system) -> Bool {
        uid == 0 || (service.serverUsers ?? localUsers).contains { lookup.uid($0) == uid }
    }

    /// Whether a process of this user may speak to the agent.
    package func admits(user uid: UInt32, lookup: Lookup = .system) -> Bool { localUsers.contains { lookup.uid($0) == uid } }
}

extension Policy.Receiver {
    fileprivate func matches(_ handover: Handover, _ lookup: Lookup) -> Bool {
        switch (self, handover) {
        case (.exec(let command), .exec(let arguments)): command.map { Array($0.utf8) } == arguments
        case (.into(let path, _), .into(let asked)): socketPath(path) == asked
        // Pid 0 leaves the process to the policy.
        case (.onto(let server, let adapter), .onto(let pid, let asked, _)): adapter == asked && (pid == 0 || lookup.pids(server).contains(pid))
        default: false
        }
    }
}

/// `@name` stands for an abstract socket, as ss(8) and systemd write it.
private func socketPath(_ text: String) -> [UInt8] { text.hasPrefix("@") ? [0] + Array(text.dropFirst().utf8) : Array(text.utf8) }
