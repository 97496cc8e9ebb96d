// How peers come to the agent: a handshake in a terminator, then a worker. Floods displace themselves.

import CProc
import Glibc
import SCEngine
import SCImage

extension Agent {
    /// A connection that has not shown yet who it is.
    struct Handshake {
        var peer: PendingPeer
        var address: IPAddress?
    }

    func acceptPeerConnection() {
        guard let peerListener else { return }
        let raw = cproc_accept(peerListener.raw)
        guard raw >= 0 else { return }
        metrics.add(Metrics.Family.connectionsAccepted, ["peer"])
        var endpoint = cproc_endpoint()
        let address = cproc_getpeername(raw, &endpoint) >= 0 ? SocketAddress(endpoint)?.address.unmapped : nil
        while pending.count >= policy.limits.connections { evict() }
        var limits = TerminatorLimits()
        limits.memoryBytes = max(64, policy.limits.memoryMiB) << 20
        do throws(CheckpointError) {
            pending.append(Handshake(peer: try acceptPeer(OwnedDescriptor(raw), store: store, limits: limits), address: address))
        } catch {
            log("peer-refused", ["address": address?.description ?? "-", "reason": error.description])
        }
    }

    /// Ends the oldest handshake of the address that has most of them: a flood displaces itself first.
    private func evict() {
        var counts: [IPAddress?: Int] = [:]
        for handshake in pending { counts[handshake.address, default: 0] += 1 }
        let most = counts.values.max() ?? 0
        guard let index = pending.firstIndex(where: { counts[$0.address] == most }) else { return }
        kill(pending[index].peer.pid, SIGKILL)
        pending.remove(at: index)
        metrics.add(Metrics.Family.peerFailures)
    }

    func conclude(_ connection: PendingPeer) {
        do throws(CheckpointError) {
            let peer = try connection.result()
            let now = monotonicNanoseconds()
            var rate = rates[peer.name] ?? RateLimit(perSecond: policy.limits.offersPerSecond, now: now)
            let isAllowed = rate.allows(at: now)
            rates[peer.name] = rate
            guard isAllowed else {
                metrics.add(Metrics.Family.refusals, [Decision.Check.rate.rawValue])
                return log("peer-refused", ["peer": peer.name, "reason": "more than \(policy.limits.offersPerSecond) offers a second"])
            }
            let load = workers.reduce(into: Load()) { $0 = Load(sessions: $0.sessions + $1.sessions, bytes: $0.bytes + $1.bytes) }
            let arguments = [
                "receive", "--on-descriptor", "3", "--from", peer.name, "--policy", policyPath, "--load", "\(load.sessions):\(load.bytes)",
            ]
            workers.append(
                try Worker(.peer(peer.name), arguments, standard: (-1, -1, 2), passing: [connection.link.raw], environment: workerEnvironment))
        } catch {
            metrics.add(Metrics.Family.peerFailures)
            log("peer-refused", ["reason": error.description])
        }
    }
}
