// The proof, before a session leaves, that its output was counted right: the record that the next one follows opens under the number that it is taken for.
//
// A number that was used already must never be used again: with AES-GCM and ChaCha20-Poly1305 two contents under one number give both away, and the key
// of their authentication. So what was counted is not believed. It costs one record's decryption for each move.

#include "continuation.h"
#include "tls_keys.h"
#include <openssl/crypto.h>
#include <string.h>

/// Opens it; its content's length and type.
static long open_at(const struct tls *journal, uint64_t number, uint8_t *bytes, size_t length, uint8_t *type) {
    struct tls_keys keys;
    long result = tls_keys_init(&keys, journal->suite, journal->server, number, false) ? tls_open(&keys, bytes, length, type) : -1;
    tls_keys_end(&keys);
    return result;
}

const char *tls_verify(const struct region *region, const struct slot *slot, const struct tls_record *before, const struct tls_record *record) {
    static const char wrong[] = "its TLS records are not those that were counted";
    const struct tls *journal = &slot->tls;
    const uint8_t *ring = slot_tls(region, slot)->cipher;
    // The last of the handshake: none of its keys' records has begun to leave.
    if (record->number == journal->out_handshake) return NULL;
    int64_t length = record->end - before->end;
    if (record->number != before->number + 1 || length > SC_TLS_RECORD) return wrong;
    uint8_t bytes[SC_TLS_RECORD], type;
    for (int64_t i = 0; i < length; i++) bytes[i] = ring[(uint64_t)(before->end + i) % SC_TLS_CIPHER];
    long content = open_at(journal, before->number - journal->out_handshake, bytes, (size_t)length, &type);
    OPENSSL_cleanse(bytes, sizeof bytes);
    bool is_right = content >= 0 && record->plain - before->plain == (type == TLS_DATA ? content : 0);
    return is_right ? NULL : wrong;
}
