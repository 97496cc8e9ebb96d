// TLS 1.3 records (RFC 8446, 5.2 and 7.3) by OpenSSL's AEADs.
#pragma once

#include "tls_journal.h"
#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>

enum { TLS_ALERT = 21, TLS_PROTOCOL = 22, TLS_DATA = 23 };

/// One direction of a connection.
struct tls_keys {
    EVP_CIPHER_CTX *context;
    const struct tls_suite *suite;
    uint8_t secret[SC_TLS_SECRET], iv[12];
    uint64_t number; // of the next record
    bool seals;
};

/// The name that OpenSSL has for a suite; NULL: it is none that can be followed.
const char *tls_suite_name(uint16_t suite);
/// Bytes of its traffic secrets.
size_t tls_secret_length(uint16_t suite);
/// False: no memory, or a suite that is not known.
bool tls_keys_init(struct tls_keys *keys, uint16_t suite, const uint8_t *secret, uint64_t number, bool seals);
/// The keys after a KeyUpdate (RFC 8446, 7.2); the numbers begin at 0 again.
bool tls_keys_update(struct tls_keys *keys);
void tls_keys_end(struct tls_keys *keys);
/// A record of `type` around up to 16384 bytes, into `out`; its length, or 0.
size_t tls_seal(struct tls_keys *keys, uint8_t type, const void *bytes, size_t length, uint8_t out[static SC_TLS_RECORD]);
/// The content of a whole record with its head, decrypted in place behind the head, without padding; its length, or -1: it is not authentic.
long tls_open(struct tls_keys *keys, uint8_t *record, size_t length, uint8_t *type);
