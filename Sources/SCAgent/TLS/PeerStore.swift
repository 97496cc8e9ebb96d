// The directory that says who this host is and whom it trusts.

import FoundationEssentials
import Glibc
import SCEngine

/// `/etc/sc-checkpoint`, or `$SC_CONFIG_DIR`: `key.pem` (0600), `cert.pem`, and `peers/NAME.json` for each trusted host. Nothing is kept in
/// memory, so a change is seen by the next connection.
package struct PeerStore: Sendable {
    package let directory: String

    /// The directory of this process's environment.
    package static var defaultDirectory: String { getenv("SC_CONFIG_DIR").map { String(cString: $0) } ?? "/etc/sc-checkpoint" }

    /// Makes the directory (0755, `peers` in it) if it is missing.
    package init(directory: String = PeerStore.defaultDirectory) throws(CheckpointError) {
        self.directory = directory
        for folder in [directory, "\(directory)/peers"] where mkdir(folder, 0o755) != 0 && errno != EEXIST {
            throw CheckpointError("cannot make \(folder)", result: Int(-errno), advice: "Run as root or set SC_CONFIG_DIR")
        }
    }

    /// Own key and certificate; both are made when they are missing. EPERM: others can read the key.
    package var identity: Identity { get throws(CheckpointError) { try Identity(directory: directory) } }

    /// Replaces own key and certificate; every peer has to trust the new fingerprint. Validity in seconds since 1970.
    package func renewIdentity(from: Int64? = nil, until: Int64? = nil) throws(CheckpointError) -> Identity {
        try Identity.renew(directory: directory, from: from, until: until)
        return try identity
    }

    /// All trusted hosts by name. One malformed file is an error: a peer must not vanish silently.
    package var peers: [Peer] {
        get throws(CheckpointError) {
            let folder = "\(directory)/peers"
            guard let files = entryNames(of: folder) else { throw CheckpointError("cannot read \(folder)", result: Int(-errno)) }
            let names = files.filter { $0.hasSuffix(".json") && !$0.hasPrefix(".") }.map { $0.dropLast(5) }.map(String.init)
            var peers: [Peer] = []
            for name in names.sorted() { if let peer = try load(name) { peers.append(peer) } }
            return peers
        }
    }

    /// ENOENT: nobody of that name is trusted.
    package func peer(named name: String) throws(CheckpointError) -> Peer {
        if Peer.isName(name), let peer = try load(name) { return peer }
        throw CheckpointError(
            "there is no peer \(name)", why: "\(directory)/peers has no file of that name", errno: ENOENT,
            advice: "Trust it first: sc-checkpoint peers trust \(Peer.isName(name) ? name : "NAME") HOST:PORT")
    }

    package func peer(withFingerprint fingerprint: Fingerprint) throws(CheckpointError) -> Peer? {
        try peers.first { $0.fingerprint == fingerprint }
    }

    /// The peer meant by its name, or by the address that it is trusted at.
    package func peer(_ text: String) throws(CheckpointError) -> Peer {
        guard let address = HostPort(text) else { return try peer(named: text) }
        if let peer = try peers.first(where: { HostPort($0.address) == address }) { return peer }
        throw CheckpointError(
            "no peer is trusted at \(address)", why: "\(directory)/peers names no such address", errno: ENOENT,
            advice: "Trust it first: sc-checkpoint peers trust NAME \(address)")
    }

    /// Adds or replaces a peer. EINVAL: its name or address cannot be one. EEXIST: the fingerprint, by which a peer is told, has another name.
    package func trust(_ peer: Peer) throws(CheckpointError) {
        guard Peer.isName(peer.name) else {
            throw CheckpointError(
                "\(peer.name) cannot be a peer's name", why: "1 to 64 letters, digits, dots, hyphens and underscores are expected", errno: EINVAL,
                outcome: .usage)
        }
        guard HostPort(peer.address) != nil else {
            throw CheckpointError(
                "\(peer.address) is no address of a peer", why: "HOST:PORT is expected, IPv6 in brackets", errno: EINVAL, outcome: .usage)
        }
        if let other = try self.peer(withFingerprint: peer.fingerprint), other.name != peer.name {
            throw CheckpointError(
                "\(peer.name) is not added", why: "\(other.name) has the same fingerprint", errno: EEXIST,
                advice: "To rename it: sc-checkpoint peers distrust \(other.name), then repeat")
        }
        let file = PeerFile(
            name: peer.name, address: peer.address, fingerprint: peer.fingerprint.description, valid_until: peer.validUntil.map(timestamp))
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        guard let json = try? encoder.encode(file) else { throw CheckpointError("cannot write \(path(peer.name))", why: "it is no JSON") }
        try ConfigurationFile.write(path(peer.name), Array(json) + [UInt8(ascii: "\n")], mode: 0o644, replacing: true)
    }

    /// Forgets a peer; its next connection is refused. ENOENT: it was not trusted.
    package func distrust(name: String) throws(CheckpointError) {
        guard Peer.isName(name), unlink(path(name)) == 0 else {
            let number = Peer.isName(name) ? errno : ENOENT
            throw CheckpointError("cannot distrust \(name)", result: Int(-number), advice: "sc-checkpoint peers lists who is trusted")
        }
    }

    private func path(_ name: String) -> String { "\(directory)/peers/\(name).json" }

    private struct PeerFile: Codable {
        var name, address, fingerprint: String
        var valid_until: String?
    }

    private func load(_ name: String) throws(CheckpointError) -> Peer? {
        let path = path(name)
        guard let bytes = try ConfigurationFile.read(path, .trusted, "the peer file") else { return nil }
        func malformed(_ why: String) -> CheckpointError {
            CheckpointError("the peer file \(path) is malformed", why: why, errno: EINVAL, advice: "Correct it, or trust the peer anew")
        }
        guard let file = try? JSONDecoder().decode(PeerFile.self, from: Data(bytes)) else {
            throw malformed("it is no JSON object with the texts name, address and fingerprint")
        }
        guard file.name == name, Peer.isName(name) else { throw malformed("the name in it is not the file's") }
        guard HostPort(file.address) != nil else { throw malformed("its address is not HOST:PORT") }
        guard let fingerprint = Fingerprint(file.fingerprint) else {
            throw malformed("its fingerprint is not sha256: and 64 hexadecimal digits")
        }
        return Peer(name: name, address: file.address, fingerprint: fingerprint, validUntil: file.valid_until.flatMap(seconds))
    }
}
