// This host's own key and certificate: made when missing, checked before use.

import CTLS
import FoundationEssentials
import Glibc
import SCEngine

/// Who this host is towards its peers.
package struct Identity: Sendable {
    package let keyPath: String
    package let certificatePath: String
    package let fingerprint: Fingerprint
    /// Seconds since 1970.
    package let notBefore: Int64
    package let notAfter: Int64

    /// How long a certificate is good for. Renewing it means trusting it anew on every peer.
    package static let lifetime: Int64 = 3 * 365 * 86400
    /// A peer's clock may be behind by so much.
    private static let clockSkew: Int64 = 3600

    /// Reads key and certificate of a directory; makes what is missing.
    init(directory: String) throws(CheckpointError) {
        (keyPath, certificatePath) = ("\(directory)/key.pem", "\(directory)/cert.pem")
        if try ConfigurationFile.open(keyPath, .secret, "the private key") == nil {
            try Self.makeKey(keyPath, replacing: false)
        }
        if try ConfigurationFile.open(certificatePath, .trusted, "the certificate") == nil {
            let now = Int64(time(nil))
            try Self.makeCertificate(
                certificatePath, keyPath: keyPath, from: now - Self.clockSkew, until: now + Self.lifetime, replacing: false)
        }
        let certificate = try Self.read(certificatePath, .trusted, "the certificate")
        var facts = ctls_certificate()
        guard ctls_read_certificate(certificate, certificate.count, &facts) == 0 else {
            throw Self.damaged("the certificate \(certificatePath)", "it is no PEM certificate")
        }
        var key = try Self.read(keyPath, .secret, "the private key")
        defer { ctls_cleanse(&key, key.count) }
        switch ctls_check_key(key, key.count, certificate, certificate.count) {
        case 0: break
        case Int32(CTLS_MISMATCH.rawValue):
            throw Self.damaged("the certificate \(certificatePath)", "it does not belong to the key \(keyPath)")
        default: throw Self.damaged("the private key \(keyPath)", "it is no PEM key without a password")
        }
        (fingerprint, notBefore, notAfter) = (facts.digest, facts.not_before, facts.not_after)
    }

    /// Makes a new key and a new certificate with this validity (seconds since 1970). Peers have to trust its fingerprint anew.
    static func renew(directory: String, from: Int64? = nil, until: Int64? = nil) throws(CheckpointError) {
        let now = Int64(time(nil))
        let keyPath = "\(directory)/key.pem"
        try makeKey(keyPath, replacing: true)
        try makeCertificate(
            "\(directory)/cert.pem", keyPath: keyPath, from: from ?? now - clockSkew, until: until ?? now + lifetime, replacing: true)
    }

    /// Throws when the certificate is not valid now: a peer would refuse it.
    package func checkValidity() throws(CheckpointError) {
        let now = Int64(time(nil))
        if now > notAfter {
            throw CheckpointError(
                "this host's certificate has expired", why: "it was valid until \(timestamp(notAfter))", errno: EKEYEXPIRED,
                advice: "Renew it, and trust the new one on every peer: sc-checkpoint peers identity --renew")
        }
        if now < notBefore {
            throw CheckpointError(
                "this host's certificate is not valid yet", why: "it is valid from \(timestamp(notBefore)) on", errno: EKEYREJECTED,
                advice: "Set the clock right, or sc-checkpoint peers identity --renew")
        }
    }

    private static func makeKey(_ path: String, replacing: Bool) throws(CheckpointError) {
        var pem = [UInt8](repeating: 0, count: 4096)
        defer { ctls_cleanse(&pem, pem.count) }
        let length = pem.withUnsafeMutableBytes { ctls_make_key($0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count) }
        try check(length, "cannot make a key")
        var exact = Array(pem.prefix(length))
        defer { ctls_cleanse(&exact, exact.count) }
        try ConfigurationFile.write(path, exact, mode: 0o600, replacing: replacing)
    }

    private static func makeCertificate(
        _ path: String, keyPath: String, from: Int64, until: Int64, replacing: Bool
    ) throws(CheckpointError) {
        var key = try read(keyPath, .secret, "the private key")
        defer { ctls_cleanse(&key, key.count) }
        var host = [CChar](repeating: 0, count: 65)
        gethostname(&host, 64)
        var pem = [UInt8](repeating: 0, count: 8192)
        let length = pem.withUnsafeMutableBytes {
            ctls_make_certificate(key, key.count, host, from, until, $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
        }
        if length == -Int(EINVAL) { throw damaged("the private key \(keyPath)", "it is no PEM key without a password") }
        try check(length, "cannot make a certificate")
        try ConfigurationFile.write(path, Array(pem.prefix(length)), mode: 0o644, replacing: replacing)
    }

    private static func read(_ path: String, _ secrecy: ConfigurationFile.Secrecy, _ what: String) throws(CheckpointError) -> [UInt8] {
        if let bytes = try ConfigurationFile.read(path, secrecy, what) { return bytes }
        throw CheckpointError("cannot read \(what) \(path)", result: -Int(ENOENT))
    }

    private static func damaged(_ what: String, _ why: String) -> CheckpointError {
        CheckpointError(
            "\(what) cannot be used", why: why, errno: EINVAL,
            advice: "Put the right one back, or make a new one: sc-checkpoint peers identity --renew")
    }
}

extension ctls_certificate {
    var digest: Fingerprint { Fingerprint(bytes: withUnsafeBytes(of: fingerprint) { Array($0) }) }
}

/// Seconds since 1970 as `2028-11-25T00:00:00Z`.
package func timestamp(_ seconds: Int64) -> String {
    var time = time_t(seconds)
    var parts = tm()
    gmtime_r(&time, &parts)
    // strftime(3) reads /etc/localtime, which a terminator cannot.
    func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : String(number) }
    return "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))T\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))Z"
}

/// The reverse; nil for anything else.
func seconds(timestamp text: String) -> Int64? {
    (try? Date(text, strategy: .iso8601)).map { Int64($0.timeIntervalSince1970) }
}
