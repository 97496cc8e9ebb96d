// Each way in which a handshake fails, told apart, with what to do about it.

import CTLS
import Glibc
import SCEngine

struct HandshakeFailure {
    /// A `ctls_reason` or `-errno`.
    var reason: Int32
    /// libssl's own words, for reasons without a name.
    var words: String
    /// The certificate that the peer showed.
    var shown: ctls_certificate?
    var order: TerminatorOrder

    private var label: String { order.label }
    private var isServer: Bool { order.role == .server }

    var error: CheckpointError {
        switch ctls_reason(reason) {
        case CTLS_UNTRUSTED: untrusted
        case CTLS_EXPIRED:
            CheckpointError(
                "the certificate of \(label) has expired", why: "it was valid until \(timestamp(shown?.not_after ?? 0))", errno: EKEYEXPIRED,
                advice: "Renew it there, and trust the new one here: sc-checkpoint peers identity --renew")
        case CTLS_NOT_YET_VALID:
            CheckpointError(
                "the certificate of \(label) is not valid yet", why: "it is valid from \(timestamp(shown?.not_before ?? 0)) on", errno: EKEYREJECTED,
                advice: "Compare the clocks of the two hosts")
        case CTLS_NO_CERTIFICATE:
            CheckpointError(
                "\(label) shows no certificate", why: "a peer has to prove who it is", errno: EACCES,
                advice: "Only sc-checkpoint of a trusted host can connect")
        case CTLS_VERSION:
            CheckpointError(
                "\(label) speaks another version of TLS", why: "TLS 1.3 is needed", errno: EPROTONOSUPPORT,
                advice: isServer ? "Is it a sc-checkpoint?" : "Is a sc-checkpoint agent at that address?")
        case CTLS_NOT_TLS:
            CheckpointError(
                "\(label) does not speak TLS", why: "what came first is no TLS record", errno: EPROTO,
                advice: isServer ? "Is it a sc-checkpoint?" : "Is a sc-checkpoint agent at that address?")
        case CTLS_REFUSED:
            CheckpointError(
                "\(label) does not trust this host", why: "it refused this host's certificate", errno: EACCES,
                advice: "See sc-checkpoint peers identity here, and trust it there: sc-checkpoint peers trust NAME HOST:PORT --fingerprint …")
        case CTLS_REFUSED_EXPIRED:
            CheckpointError(
                "\(label) does not take this host's certificate", why: "there it is not valid at this time", errno: EKEYREJECTED,
                advice: "Compare the clocks of the two hosts, and see sc-checkpoint peers identity")
        case CTLS_CLOSED:
            CheckpointError(
                "\(label) closed the connection", why: "in the middle of the handshake", errno: ECONNRESET,
                advice: isServer ? "" : "Look into the log of the agent there")
        case CTLS_FAILED: CheckpointError("the handshake with \(label) failed", why: words, errno: EPROTO)
        default: CheckpointError("the handshake with \(label) failed", result: Int(reason))
        }
    }

    private var untrusted: CheckpointError {
        let found = shown?.digest.description ?? "no fingerprint"
        guard !isServer, let expected = order.trusted.first else {
            return CheckpointError(
                "\(label) is not trusted", why: "its certificate has the fingerprint \(found), which is no peer's", errno: EACCES,
                advice: "If it is one of your hosts: sc-checkpoint peers trust NAME HOST:PORT --fingerprint \(found)")
        }
        return CheckpointError(
            "\(label) is not trusted", why: "its certificate has the fingerprint \(found), and \(expected.fingerprint) is expected", errno: EACCES,
            advice:
                "Somebody else answers, or it has a new certificate: then sc-checkpoint peers trust \(expected.name) HOST:PORT --fingerprint \(found)"
        )
    }
}
