// Where a migration goes, as users write it.

/// `[user@]HOST` over ssh, `tls://HOST:PORT` (an agent), `unix:PATH`, or `self`.
package enum TargetAddress: Sendable, Equatable, Codable {
    case ssh(String)
    case unix(String)
    /// An agent, by address or by the name under which it is trusted.
    case tls(String)
    /// Another process of this host.
    case own

    /// nil when the text is none of them, or could be taken for an option by ssh.
    package init?(_ text: String) {
        if text == "self" {
            self = .own
        } else if text.hasPrefix("unix:") {
            guard text.count > 5 else { return nil }
            self = .unix(String(text.dropFirst(5)))
        } else if text.hasPrefix("tls://") {
            guard text.count > 6 else { return nil }
            self = .tls(String(text.dropFirst(6)))
        } else {
            guard !text.isEmpty, !text.hasPrefix("-"), !text.contains("/"), !text.contains(" ") else { return nil }
            self = .ssh(text)
        }
    }

    package var description: String {
        switch self {
        case .ssh(let host): host
        case .unix(let path): "unix:\(path)"
        case .tls(let peer): "tls://\(peer)"
        case .own: "self"
        }
    }
}
