// What the user says after `--steer`.

/// How the client's packets come to the target.
package enum SteeringChoice: Sendable, Equatable {
    /// Somebody else switches the path (or the target is in the same namespace).
    case none
    /// The source passes the flows' packets on to the target, for as long as the sessions live.
    case nftForward
    /// A user's program switches the path.
    case exec(String)

    /// Parses `none`, `nft-forward`, `exec:CMD`; nil for anything else.
    package init?(_ text: String) {
        switch text {
        case "none": self = .none
        case "nft-forward": self = .nftForward
        default:
            guard text.hasPrefix("exec:"), text.count > 5 else { return nil }
            self = .exec(String(text.dropFirst(5)))
        }
    }

    package var name: String {
        switch self {
        case .none: "none"
        case .nftForward: "nft-forward"
        case .exec(let command): "exec:\(command)"
        }
    }
}
