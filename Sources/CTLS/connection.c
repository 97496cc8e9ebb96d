// One TLS 1.3 connection: the handshake with pinned certificates, then bytes, without ever waiting.
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pem.h"

struct ctls {
    SSL_CTX *context;
    SSL *ssl;
    int is_server, is_confirmed, has_peer;
    const uint8_t *trusted;
    size_t count;
    int verdict; // why the peer's certificate was refused
    struct ctls_certificate peer;
    unsigned long last_error;
    uint8_t fingerprints[];
};

/// Replaces libssl's chain verification: a pinned certificate needs no issuer, but it has to be valid now, which pinning does not excuse.
/// The error chooses the alert by which the peer learns of it.
static int verify(X509_STORE_CTX *store, void *argument) {
    struct ctls *tls = argument;
    X509 *certificate = X509_STORE_CTX_get0_cert(store);
    tls->verdict = CTLS_NO_CERTIFICATE;
    int error = X509_V_ERR_UNSPECIFIED;
    if (certificate && ctls_describe(certificate, &tls->peer) == 0) {
        tls->has_peer = 1;
        int known = tls->trusted == NULL;
        for (size_t i = 0; i < tls->count && !known; i++)
            known = memcmp(tls->trusted + i * CTLS_FINGERPRINT, tls->peer.fingerprint, CTLS_FINGERPRINT) == 0;
        int64_t now = time(NULL);
        if (!known)
            tls->verdict = CTLS_UNTRUSTED, error = X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT;
        else if (now > tls->peer.not_after)
            tls->verdict = CTLS_EXPIRED, error = X509_V_ERR_CERT_HAS_EXPIRED;
        else if (now < tls->peer.not_before)
            tls->verdict = CTLS_NOT_YET_VALID, error = X509_V_ERR_CERT_NOT_YET_VALID;
        else
            tls->verdict = 0, error = X509_V_OK;
    }
    X509_STORE_CTX_set_error(store, error);
    return error == X509_V_OK;
}

/// In TLS 1.3 a client is done before the server has looked at its certificate. The ticket is the first thing that a server says afterwards.
static int ticket_came(SSL *ssl, SSL_SESSION *session) {
    (void)session;
    ((struct ctls *)SSL_get_app_data(ssl))->is_confirmed = 1;
    return 0;
}

static int set_up(struct ctls *tls) {
    SSL_CTX *context = tls->context;
    if (!SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) || !SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION))
        return CTLS_FAILED;
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_verify_depth(context, 0);
    SSL_CTX_set_max_cert_list(context, 16 << 10);
    SSL_CTX_set_cert_verify_callback(context, verify, tls);
    // A resumed session would skip the look at the certificate. The key of the tickets ends with this context, so none can be resumed.
    SSL_CTX_set_session_cache_mode(context, tls->is_server ? SSL_SESS_CACHE_OFF : SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_set_num_tickets(context, 1);
    SSL_CTX_sess_set_new_cb(context, ticket_came);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, 64 << 10);
    return 0;
}

/// Key and certificate belong to the connection alone, not to its context, so that they can be thrown away before the context ends.
static int connect_socket(struct ctls *tls, int fd, EVP_PKEY *key, X509 *certificate) {
    if (!(tls->ssl = SSL_new(tls->context)) || SSL_set_fd(tls->ssl, fd) != 1)
        return -ENOMEM;
    if (SSL_use_certificate(tls->ssl, certificate) != 1 || SSL_use_PrivateKey(tls->ssl, key) != 1 || SSL_check_private_key(tls->ssl) != 1)
        return CTLS_MISMATCH;
    return 0;
}

struct ctls *ctls_new(int fd, int is_server, const char *key_pem, size_t key_length, const char *pem, size_t length, const uint8_t *trusted,
                      size_t count, int *reason) {
    // openssl.cnf could load anything into the process.
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_LOAD_SSL_STRINGS, NULL);
    struct ctls *tls = calloc(1, sizeof *tls + count * CTLS_FINGERPRINT);
    EVP_PKEY *key = ctls_parse_key(key_pem, key_length);
    X509 *certificate = ctls_parse_certificate(pem, length);
    *reason = !tls ? -ENOMEM : !key || !certificate ? -EINVAL : 0;
    if (*reason == 0) {
        if (trusted)
            tls->trusted = memcpy(tls->fingerprints, trusted, count * CTLS_FINGERPRINT);
        tls->count = count;
        tls->is_server = is_server;
        tls->context = SSL_CTX_new(TLS_method());
        *reason = tls->context ? set_up(tls) : -ENOMEM;
    }
    // Looking at our own certificate fetches the digest and reads the time zone (for UTC as well): later no file can be opened.
    if (*reason == 0)
        *reason = ctls_describe(certificate, &(struct ctls_certificate){0});
    if (*reason == 0)
        *reason = connect_socket(tls, fd, key, certificate);
    EVP_PKEY_free(key);
    X509_free(certificate);
    ERR_clear_error();
    if (*reason < 0) {
        ctls_free(tls);
        return NULL;
    }
    SSL_set_app_data(tls->ssl, tls);
    if (is_server)
        SSL_set_accept_state(tls->ssl);
    else
        SSL_set_connect_state(tls->ssl);
    return tls;
}

void ctls_free(struct ctls *tls) {
    if (!tls)
        return;
    SSL_free(tls->ssl);
    SSL_CTX_free(tls->context);
    free(tls);
}

/// What libssl's error queue means.
static int reason_of(struct ctls *tls) {
    unsigned long error = tls->last_error = ERR_peek_last_error();
    ERR_clear_error();
    switch (ERR_GET_REASON(error)) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
        return tls->verdict ? tls->verdict : CTLS_FAILED;
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
        return CTLS_NO_CERTIFICATE;
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
        return CTLS_VERSION;
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
    case SSL_R_ENCRYPTED_LENGTH_TOO_LONG:
    case SSL_R_DATA_LENGTH_TOO_LONG:
    case SSL_R_BAD_RECORD_TYPE:
    case SSL_R_UNEXPECTED_MESSAGE:
    case SSL_R_UNEXPECTED_RECORD:
    case SSL_R_RECORD_LENGTH_MISMATCH:
    case SSL_R_LENGTH_MISMATCH:
        return CTLS_NOT_TLS;
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
        return CTLS_REFUSED;
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
        return CTLS_REFUSED_EXPIRED;
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
        return CTLS_CLOSED;
    default:
        return CTLS_FAILED;
    }
}

/// The reason of a call that returned `value` <= 0. `number` is errno after it.
static int failure(struct ctls *tls, int value, int number) {
    switch (SSL_get_error(tls->ssl, value)) {
    case SSL_ERROR_WANT_READ:
        return CTLS_WANT_READ;
    case SSL_ERROR_WANT_WRITE:
        return CTLS_WANT_WRITE;
    case SSL_ERROR_ZERO_RETURN:
        return CTLS_CLOSED;
    case SSL_ERROR_SYSCALL:
        ERR_clear_error();
        return number ? -number : CTLS_CLOSED;
    default:
        return reason_of(tls);
    }
}

int ctls_handshake(struct ctls *tls) {
    ERR_clear_error();
    errno = 0;
    int value = SSL_do_handshake(tls->ssl);
    if (value != 1)
        return failure(tls, value, errno);
    // Whoever only looks at a certificate is refused by its owner, and does not wait for it.
    if (!tls->is_server && !tls->is_confirmed && tls->trusted) {
        char byte;
        errno = 0;
        value = SSL_peek(tls->ssl, &byte, 1);
        if (value <= 0 && !tls->is_confirmed)
            return failure(tls, value, errno);
        ERR_clear_error();
    }
    // What reads the peer's messages from now on need not be able to sign in our name.
    SSL_certs_clear(tls->ssl);
    return 0;
}

int ctls_peer_certificate(const struct ctls *tls, struct ctls_certificate *out) {
    if (!tls->has_peer)
        return -ENOENT;
    *out = tls->peer;
    return 0;
}

ssize_t ctls_read(struct ctls *tls, void *bytes, size_t capacity) {
    ERR_clear_error();
    errno = 0;
    int value = SSL_read(tls->ssl, bytes, capacity > 1 << 30 ? 1 << 30 : (int)capacity);
    if (value > 0)
        return value;
    int reason = failure(tls, value, errno);
    return reason == CTLS_CLOSED ? 0 : reason;
}

ssize_t ctls_write(struct ctls *tls, const void *bytes, size_t length) {
    ERR_clear_error();
    errno = 0;
    int value = SSL_write(tls->ssl, bytes, length > 1 << 30 ? 1 << 30 : (int)length);
    return value > 0 ? value : failure(tls, value, errno);
}

int ctls_close(struct ctls *tls) {
    ERR_clear_error();
    errno = 0;
    int value = SSL_shutdown(tls->ssl);
    return value >= 0 ? 0 : failure(tls, value, errno);
}

const char *ctls_reason_text(const struct ctls *tls) {
    const char *text = ERR_reason_error_string(tls->last_error);
    return text ? text : "no reason given";
}
