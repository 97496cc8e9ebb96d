// The bridge between the records of a client whose TLS session has arrived and those of mod_ssl here.
#pragma once

#include "tls.h"

struct tls_bridge {
    SSL *inner;
    BIO *to_inner, *from_inner; // the inner client's
    struct tls_keys in, out;
    uint64_t skip;     // plaintext that was answered on the former host
    uint64_t position; // of the first byte of `raw`
    ap_filter_t *output;
    apr_bucket_brigade *come, *sealed;
    bool is_ended;      // the client has ended its side of the TLS session
    bool has_ended;     // and this one
    bool is_begun;      // what the former host had begun is finished
    apr_size_t have;
    uint8_t raw[SC_TLS_RECORD];
};

/// A record for the client, behind `sealed`. False: OpenSSL fails.
bool tls_bridge_seal(struct connection *connection, uint8_t type, const void *bytes, apr_size_t length);
/// The input filter.
apr_status_t tls_bridge_input(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode, apr_read_type_e block, apr_off_t wanted);
