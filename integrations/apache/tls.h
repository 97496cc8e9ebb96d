// TLS 1.3 connections of mod_ssl. Where the handshake was, OpenSSL's keys and records are followed; where the session arrives, mod_ssl serves it by a
// handshake of its own, within the process, and the bridge translates between that and the client's records.
#pragma once

#include "mod_sc.h"
#include "tls_keys.h"
#include <openssl/ssl.h>

/// Where a stream of records stands.
struct tls_parser {
    uint8_t head[5], have;
    uint32_t rest;   // of the record at hand
    uint32_t length; // its whole, without the head
};

/// The side of the process that serves.
struct tls_following {
    const SSL *ssl;
    bool is_shaken; // mod_ssl's handshake is over
    struct tls_parser in, out;
    uint64_t in_sealed, in_opened; // encrypted records: come, and opened by OpenSSL
    struct {
        uint64_t end;
        uint32_t length;
    } early[16]; // the last of them
    uint64_t out_sealed;    // encrypted records that have passed
    bool out_is_old;        // the one at hand began on another host
    uint64_t typed;         // … that were written, and the types inside the last of them
    uint8_t types[64];
    int64_t plain;          // position behind the last whole record
    struct tls_bridge *bridge; // NULL: the handshake was here
};

// tls_follow.c
void tls_register(void);

// tls_records.c
/// After input_append of the same bytes, and before what goes into the core; both in enter() and leave().
void tls_note_in(struct connection *connection, const char *bytes, apr_size_t length);
apr_status_t tls_note_out(struct connection *connection, apr_bucket_brigade *bb);
/// A request is answered: forgets the input, if nothing of it is needed any longer.
void tls_trim(struct connection *connection, uint64_t to);
/// It cannot be followed any longer.
void tls_lose(struct connection *connection, enum tls_why why);

// tls_bridge.c
void tls_child_init(apr_pool_t *p);
/// For a session that arrives; from mod_ssl's hook. False: no memory.
bool tls_bridge_make(struct connection *connection);
void tls_bridge_register(void);
/// mod_ssl's handshake, without a word to the client. NULL, or why there is none.
const char *tls_bridge_shake(struct connection *connection);
/// The session is live: what is left of the record that the former host had begun.
apr_status_t tls_bridge_go(struct connection *connection);
