// The TLS connection of a session as a value: taken from the journal by the broker, and as bytes.

#include "continuation.h"
#include <endian.h>
#include <string.h>

const char *tls_obstacle(const struct slot *slot) {
    static const char *const reasons[] = {
        [TLS_OFF] = "it is a TLS connection, and SCTLS is off",
        [TLS_HANDSHAKE] = "its TLS handshake is not complete",
        [TLS_VERSION] = "it is a TLS connection of a version below 1.3",
        [TLS_SUITE] = "it is a TLS connection with a cipher suite other than AES-GCM and ChaCha20-Poly1305",
        [TLS_CERTIFICATE] = "it is a TLS connection, and the client has shown a certificate",
        [TLS_ASKED] = "it is a TLS connection, and its client is asked for a certificate",
        [TLS_EARLY] = "it is a TLS connection that began with early data",
        [TLS_KEYS] = "it is a TLS connection, and the client has changed its keys, shown a certificate, or is ending it",
        [TLS_COUNT] = "it is a TLS connection whose records cannot be counted",
    };
    if (slot->tls_state == TLS_NONE) return "it is a TLS connection, and not of mod_ssl";
    return slot->tls.why <= TLS_COUNT ? reasons[slot->tls.why] : reasons[TLS_COUNT];
}

const char *tls_take(const struct region *region, const struct slot *slot, int64_t *written, struct continuation_tls *out) {
    // One process reads slots, and one at a time.
    static uint8_t pending[SC_TLS_RECORD];
    const struct tls *journal = &slot->tls;
    const struct tls_area *area = slot_tls(region, slot);
    const struct tls_record *record = NULL, *before = NULL;
    uint64_t count = journal->record_count, oldest = count > SC_TLS_RECORDS ? count - SC_TLS_RECORDS : 0;
    for (uint64_t index = count; index > oldest; index--) {
        const struct tls_record *candidate = &area->records[(index - 1) % SC_TLS_RECORDS];
        before = candidate;
        if (candidate->end < *written) break;
        record = candidate;
        before = NULL;
    }
    if (record == NULL) return "a part of a TLS record is written that is not whole yet";
    if (record->number < journal->out_handshake) return tls_obstacle(slot);
    // Without the one before it, it is not known whether its beginning has left.
    if (before == NULL && oldest > 0) return "more small TLS records wait for the client than are remembered";
    if (record->end - *written > (int64_t)sizeof pending || journal->out_cipher - (before ? before->end : *written) > SC_TLS_CIPHER)
        return "more of the TLS connection waits for the client than is kept";
    *out = (struct continuation_tls){
        .is_active = 1, .fragment = journal->fragment, .suite = journal->suite, .pending_length = (uint32_t)(record->end - *written), .in_number = journal->in_first,
        .out_number = record->number - journal->out_handshake, .pending = pending};
    for (uint32_t i = 0; i < out->pending_length; i++) pending[i] = area->cipher[(uint64_t)(*written + i) % SC_TLS_CIPHER];
    memcpy(out->client, journal->client, sizeof out->client);
    memcpy(out->server, journal->server, sizeof out->server);
    memcpy(out->name, journal->name, sizeof out->name);
    *written = record->plain;
    return before ? tls_verify(region, slot, before, record) : NULL;
}

uint64_t tls_begin(const struct slot *slot, int64_t from, struct continuation_tls *out) {
    const struct tls *journal = &slot->tls;
    // Nothing waits for an answer; the response that it had is in the record that is leaving.
    if (from == journal->in_plain && journal->in_whole == slot->in_total) {
        out->in_number = journal->in_next;
        return slot->in_total;
    }
    out->in_skip = (uint64_t)(from - journal->in_first_plain);
    return slot->in_logged;
}

/// The fixed part, little-endian; the pending bytes follow.
struct wire {
    uint16_t suite;
    uint8_t fragment, reserved;
    uint32_t pending_length;
    uint64_t in_number, in_skip, out_number;
    uint8_t client[SC_TLS_SECRET], server[SC_TLS_SECRET];
    char name[SC_TLS_NAME];
};

size_t tls_length(const struct continuation_tls *in) { return in->is_active ? sizeof(struct wire) + in->pending_length : 0; }

void tls_encode(const struct continuation_tls *in, unsigned char *bytes) {
    struct wire wire = {
        .suite = htole16(in->suite), .fragment = in->fragment, .pending_length = htole32(in->pending_length), .in_number = htole64(in->in_number),
        .in_skip = htole64(in->in_skip), .out_number = htole64(in->out_number)};
    memcpy(wire.client, in->client, sizeof wire.client);
    memcpy(wire.server, in->server, sizeof wire.server);
    memcpy(wire.name, in->name, sizeof wire.name);
    memcpy(bytes, &wire, sizeof wire);
    memcpy(bytes + sizeof wire, in->pending, in->pending_length);
}

bool tls_decode(const unsigned char *bytes, size_t length, struct continuation_tls *out) {
    struct wire wire;
    if (length < sizeof wire) return false;
    memcpy(&wire, bytes, sizeof wire);
    uint64_t limit = 1ull << 62;
    *out = (struct continuation_tls){
        .is_active = 1, .fragment = wire.fragment, .suite = le16toh(wire.suite), .pending_length = le32toh(wire.pending_length),
        .in_number = le64toh(wire.in_number), .in_skip = le64toh(wire.in_skip), .out_number = le64toh(wire.out_number), .pending = bytes + sizeof wire};
    memcpy(out->client, wire.client, sizeof out->client);
    memcpy(out->server, wire.server, sizeof out->server);
    memcpy(out->name, wire.name, sizeof out->name);
    if (out->suite < 0x1301 || out->suite > 0x1303 || out->fragment > 4 || wire.reserved || out->name[sizeof out->name - 1] != 0) return false;
    return out->pending_length <= SC_TLS_RECORD && length == sizeof wire + out->pending_length && out->in_number < limit && out->in_skip < limit
           && out->out_number < limit;
}

void tls_wipe(unsigned char *bytes, size_t length) {
    struct continuation of;
    if (!continuation_decode(bytes, length, &of) || !of.tls.is_active) return;
    unsigned char *wire = bytes + length - tls_length(&of.tls);
    explicit_bzero(wire + offsetof(struct wire, client), 2 * SC_TLS_SECRET);
    explicit_bzero(&of.tls, sizeof of.tls);
}
