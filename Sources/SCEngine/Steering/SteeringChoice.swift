// What the user says after `--steer`.

/// How the client's packets come to the target.
package enum SteeringChoice: Sendable, Equatable {
    /// Somebody else switches the path (or the target is in the same namespace).
    case none
    /// The source passes the flows' packets on to the target, for as long as the sessions live.
    case nftForward
    /// The same, inside VXLAN: for a target on another subnet.
    case tunnel
    /// The whole service address moves to the target. `force`: although sessions of it stay at the source.
    case arpTakeover(force: Bool)
    /// A router in front of both hosts passes the flows on.
    case router(TargetAddress)
    /// A user's program switches the path.
    case exec(String)

    /// What a wrong one is told.
    package static let known = "none, nft-forward, tunnel, arp-takeover[,force], router:[USER@]HOST, router:unix:PATH and exec:CMD exist"

    /// Parses what `name` gives; nil for anything else.
    package init?(_ text: String) {
        switch text {
        case "none": self = .none
        case "nft-forward": self = .nftForward
        case "tunnel": self = .tunnel
        case "arp-takeover": self = .arpTakeover(force: false)
        case "arp-takeover,force": self = .arpTakeover(force: true)
        default:
            if text.hasPrefix("router:"), !text.hasPrefix("router:tls:"), let place = TargetAddress(String(text.dropFirst(7))) {
                self = .router(place)
            } else if text.hasPrefix("exec:"), text.count > 5 {
                self = .exec(String(text.dropFirst(5)))
            } else {
                return nil
            }
        }
    }

    package var name: String {
        switch self {
        case .none: "none"
        case .nftForward: "nft-forward"
        case .tunnel: "tunnel"
        case .arpTakeover(let force): force ? "arp-takeover,force" : "arp-takeover"
        case .router(let place): "router:\(place.description)"
        case .exec(let command): "exec:\(command)"
        }
    }
}
