// ctls: libssl for one purpose: mutual TLS 1.3 between hosts that know each other's certificate by its fingerprint.
//
// Functions return 0 or a value >= 0, or a negative number: -errno, or a CTLS_ reason below, which is beyond every errno.
// Handles are the caller's to free. Nothing here waits: descriptors are non-blocking, and the caller polls.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// SHA-256 of a certificate's DER form.
#define CTLS_FINGERPRINT 32

/// Why a call did not do it. All are negative.
enum ctls_reason {
    CTLS_FAILED = -5000,          ///< libssl failed in a way without a name of its own (ctls_reason_text)
    CTLS_WANT_READ = -5001,       ///< poll for POLLIN, then repeat
    CTLS_WANT_WRITE = -5002,      ///< poll for POLLOUT, then repeat
    CTLS_UNTRUSTED = -5003,       ///< the peer's certificate has none of the expected fingerprints
    CTLS_EXPIRED = -5004,         ///< the peer's certificate is no longer valid
    CTLS_NOT_YET_VALID = -5005,   ///< the peer's certificate is not valid yet
    CTLS_NO_CERTIFICATE = -5006,  ///< the peer showed no certificate
    CTLS_VERSION = -5007,         ///< the peer cannot speak TLS 1.3
    CTLS_NOT_TLS = -5008,         ///< what came is no TLS
    CTLS_REFUSED = -5009,         ///< the peer does not trust our certificate
    CTLS_REFUSED_EXPIRED = -5010, ///< the peer says that our certificate is not valid now
    CTLS_CLOSED = -5011,          ///< the peer closed the connection without an alert
    CTLS_MISMATCH = -5012,        ///< key and certificate do not belong together
};

/// What a certificate says. Times are seconds since 1970, UTC.
struct ctls_certificate {
    uint8_t fingerprint[CTLS_FINGERPRINT];
    int64_t not_before, not_after;
};

/// Makes an Ed25519 key as PEM in `key`. Returns its length, or ENOSPC when `capacity` is too small.
ssize_t ctls_make_key(char *key, size_t capacity);
/// Makes a certificate for the key, signed by itself, as PEM in `certificate`.
ssize_t ctls_make_certificate(const char *key, size_t key_length, const char *name, int64_t not_before, int64_t not_after,
                              char *certificate, size_t capacity);
/// Reads a PEM certificate. EINVAL: it is none.
int ctls_read_certificate(const char *pem, size_t length, struct ctls_certificate *out);
/// 0: the private key belongs to the certificate. CTLS_MISMATCH, or EINVAL when the key is none.
int ctls_check_key(const char *key, size_t key_length, const char *certificate, size_t certificate_length);
/// Overwrites memory in a way that no compiler leaves out.
void ctls_cleanse(void *memory, size_t length);

struct ctls;

/// One end of a connection over the non-blocking socket `fd` (borrowed). Our key and certificate are PEM. The peer must show one of the `count`
/// fingerprints at `trusted`, one after the other; NULL: any certificate will do, and is only looked at. NULL and a reason: it cannot be made.
/// Nothing below opens a file, so the process may then be confined.
struct ctls *ctls_new(int fd, int is_server, const char *key, size_t key_length, const char *certificate, size_t certificate_length,
                      const uint8_t *trusted, size_t count, int *reason);
/// Ends the handle, not the socket.
void ctls_free(struct ctls *tls);

/// Goes on with the handshake; 0 when both ends are content (a client knows by the server's first session ticket). Our private key has then
/// been wiped from memory. An alert about a refusal is sent before the call returns.
int ctls_handshake(struct ctls *tls);
/// The certificate that the peer showed, also when it was refused; ENOENT when none came.
int ctls_peer_certificate(const struct ctls *tls, struct ctls_certificate *out);

/// Decrypts up to `capacity` bytes. 0: the peer has ended its direction, or the connection without a word.
ssize_t ctls_read(struct ctls *tls, void *bytes, size_t capacity);
/// Encrypts and sends some of `length` bytes and returns how many. After CTLS_WANT_… the same bytes have to be offered again.
ssize_t ctls_write(struct ctls *tls, const void *bytes, size_t length);
/// Sends close_notify: our direction is at its end. 0 or CTLS_WANT_WRITE.
int ctls_close(struct ctls *tls);
/// libssl's words for the last CTLS_FAILED, static.
const char *ctls_reason_text(const struct ctls *tls);
