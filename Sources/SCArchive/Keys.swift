// Keys to which images are sealed: made, written, read, and refused when others could have read them.

import CSeal
import Glibc
import SCEngine
import SCImage

/// An X25519 public key. Whoever has it can seal; nobody can open with it.
package struct PublicKey: Hashable, Sendable, CustomStringConvertible {
    package let bytes: [UInt8]

    init(bytes: [UInt8]) { self.bytes = bytes }

    /// Reads `scpub1` and 72 digits; nil for anything else, and after a slip of the pen.
    package init?(_ text: some StringProtocol) {
        guard let bytes = KeyText.read(text, KeyText.publicPrefix) else { return nil }
        self.bytes = bytes
    }

    package var description: String { KeyText.write(bytes, KeyText.publicPrefix) }

    /// What names it in a sealed image: 8 bytes.
    package var id: [UInt8] { Array(((try? sha256(bytes)) ?? []).prefix(8)) }

    /// Keys given on a command line or in a policy, each as its text or as the path of a file with one a line (`#` begins a remark; a secret key's file
    /// names its public key so).
    package static func list(_ words: [String]) throws(CheckpointError) -> [PublicKey] {
        var keys: [PublicKey] = []
        for word in words {
            if let key = PublicKey(word) {
                keys.append(key)
                continue
            }
            guard !word.hasPrefix(KeyText.publicPrefix), let text = readText(word) else {
                throw CheckpointError(
                    "\(word) is no public key", why: "neither scpub1 and 72 digits, nor a file that can be read", errno: EINVAL,
                    advice: "Make one with sc-checkpoint archive key FILE, which prints it")
            }
            let found = text.split(whereSeparator: { $0.isWhitespace || $0 == "#" }).compactMap { PublicKey($0) }
            guard !found.isEmpty else {
                throw CheckpointError("there is no public key in \(word)", why: "no word of it is scpub1 and 72 digits", errno: EINVAL)
            }
            keys += found
        }
        return keys
    }
}

/// A secret key; its bytes are wiped with the last reference.
package final class SecretKey {
    private var bytes: [UInt8]
    package let publicKey: PublicKey

    private init(_ bytes: [UInt8]) throws(CheckpointError) {
        self.bytes = bytes
        var pub = [UInt8](repeating: 0, count: 32)
        try check(cseal_public_key(bytes, &pub), "cannot use the secret key")
        publicKey = PublicKey(bytes: pub)
    }

    deinit { cseal_cleanse(&bytes, bytes.count) }

    /// A new one.
    package static func make() throws(CheckpointError) -> SecretKey {
        var (secret, pub) = ([UInt8](repeating: 0, count: 32), [UInt8](repeating: 0, count: 32))
        defer { cseal_cleanse(&secret, secret.count) }
        try check(cseal_make_key(&secret, &pub), "cannot make a key")
        return try SecretKey(secret)
    }

    /// Reads a key's file. EPERM: others can read it, so it is not used.
    package static func load(_ path: String) throws(CheckpointError) -> SecretKey {
        guard let bytes = try ConfigurationFile.read(path, .secret, "the secret key") else {
            throw CheckpointError("cannot read the secret key \(path)", result: -Int(ENOENT))
        }
        for word in String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isWhitespace) {
            if let secret = KeyText.read(word, KeyText.secretPrefix) { return try SecretKey(secret) }
        }
        throw CheckpointError(
            "there is no secret key in \(path)", why: "no word of it is scsec1 and 72 digits", errno: EINVAL,
            advice: "A secret key is made by sc-checkpoint archive key FILE")
    }

    /// Writes it to a new file, mode 0600. EEXIST: a key that is there is never replaced.
    package func write(to path: String) throws(CheckpointError) {
        var status = stat()
        guard lstat(path, &status) != 0 else {
            throw CheckpointError(
                "\(path) exists", why: "images may be sealed to the key in it", errno: EEXIST, advice: "Choose another name for the new key")
        }
        let text = """
            # Secret key for images of sc-checkpoint. Whoever has it can open what is sealed to:
            # \(publicKey)
            \(KeyText.write(bytes, KeyText.secretPrefix))

            """
        try ConfigurationFile.write(path, Array(text.utf8), mode: 0o600, replacing: false)
    }

    /// The key that this one and an ephemeral public key agree on; nil when the other one is of low order.
    func agree(_ ephemeral: [UInt8], salt: [UInt8], info: String) -> [UInt8]? {
        var key = [UInt8](repeating: 0, count: 32)
        return cseal_agree(bytes, ephemeral, salt, salt.count, info, &key) == 0 ? key : nil
    }
}

/// Keys as people copy them: a prefix, 64 hexadecimal digits, and 8 of their SHA-256.
private enum KeyText {
    static let publicPrefix = "scpub1"
    static let secretPrefix = "scsec1"

    static func write(_ bytes: [UInt8], _ prefix: String) -> String { prefix + hexadecimalText(bytes + checkDigits(bytes, prefix)) }

    static func read(_ text: some StringProtocol, _ prefix: String) -> [UInt8]? {
        guard text.hasPrefix(prefix), let all = bytes(hexadecimal: String(text.dropFirst(prefix.count))), all.count == 36 else { return nil }
        let key = Array(all.prefix(32))
        return Array(all.suffix(4)) == checkDigits(key, prefix) ? key : nil
    }

    private static func checkDigits(_ bytes: [UInt8], _ prefix: String) -> [UInt8] {
        Array(((try? sha256(Array(prefix.utf8) + bytes)) ?? []).prefix(4))
    }
}
