// The records of a followed TLS connection as they pass: where each begins and ends, and which plaintext is in it.

#include "tls.h"
#include <string.h>

void tls_lose(struct connection *connection, enum tls_why why) {
    struct slot *slot = connection->slot;
    begin_change(slot);
    slot->tls.why = (uint8_t)why;
    slot->tls_state = TLS_SEEN;
    // Of its input nothing is kept from now on.
    slot->obstacles |= OBSTACLE_TLS | OBSTACLE_INPUT;
    end_change(slot);
}

/// The next piece of `bytes`, up to the end of a record's head or of a record; `is_whole`: that of a record.
static apr_size_t parse(struct tls_parser *parser, const uint8_t *bytes, apr_size_t length, bool *is_whole) {
    *is_whole = false;
    if (parser->rest > 0) {
        apr_size_t piece = length < parser->rest ? length : parser->rest;
        parser->rest -= (uint32_t)piece;
        *is_whole = parser->rest == 0;
        return piece;
    }
    apr_size_t piece = 0;
    while (piece < length && parser->have < 5) parser->head[parser->have++] = bytes[piece++];
    if (parser->have < 5) return piece;
    parser->have = 0;
    parser->length = parser->rest = (uint32_t)parser->head[3] << 8 | parser->head[4];
    *is_whole = parser->rest == 0;
    return piece;
}

void tls_note_in(struct connection *connection, const char *bytes, apr_size_t length) {
    struct tls_following *tls = connection->tls;
    struct slot *slot = connection->slot;
    if (tls->bridge || (slot->tls_state != TLS_FOLLOWED && slot->tls.why != TLS_HANDSHAKE)) return;
    uint64_t position = slot->in_total - length;
    bool is_whole, is_odd = false;
    begin_change(slot);
    for (apr_size_t used = 0; used < length;) {
        apr_size_t piece = parse(&tls->in, (const uint8_t *)bytes + used, length - used, &is_whole);
        used += piece;
        position += piece;
        if (!is_whole) continue;
        bool is_followed = slot->tls_state == TLS_FOLLOWED;
        if (tls->in.head[0] != TLS_DATA) {
            is_odd = is_followed;
            continue;
        }
        tls->early[tls->in_sealed % 16].end = position;
        tls->early[tls->in_sealed++ % 16].length = tls->in.length;
        if (!is_followed) continue;
        slot->tls.in_next++;
        slot->tls.in_whole = position;
        slot->tls.in_plain += (int64_t)tls->in.length - 17;
    }
    end_change(slot);
    if (is_odd) tls_lose(connection, TLS_COUNT);
}

static void note_record(struct connection *connection) {
    struct tls_following *tls = connection->tls;
    struct slot *slot = connection->slot;
    bool is_sealed = tls->out.head[0] == TLS_DATA && !tls->out_is_old;
    if (is_sealed) {
        uint64_t number = tls->out_sealed++;
        if (tls->typed - number > sizeof tls->types || tls->typed <= number) {
            slot->tls.why = TLS_COUNT;
            slot->tls_state = TLS_SEEN;
            slot->obstacles |= OBSTACLE_TLS;
        }
        if (tls->types[number % sizeof tls->types] == TLS_DATA) tls->plain += (int64_t)tls->out.length - 17;
    }
    tls->out_is_old = false;
    struct tls_record *record = &slot_tls(sc_region, slot)->records[slot->tls.record_count % SC_TLS_RECORDS];
    *record = (struct tls_record){slot->tls.out_cipher, tls->plain, tls->out_sealed};
    slot->tls.record_count++;
}

apr_status_t tls_note_out(struct connection *connection, apr_bucket_brigade *bb) {
    struct tls_following *tls = connection->tls;
    struct slot *slot = connection->slot;
    if (slot->tls_state != TLS_FOLLOWED && slot->tls.why != TLS_HANDSHAKE) return APR_SUCCESS;
    uint8_t *ring = slot_tls(sc_region, slot)->cipher;
    apr_status_t result = APR_SUCCESS;
    begin_change(slot);
    for (apr_bucket *b = APR_BRIGADE_FIRST(bb); b != APR_BRIGADE_SENTINEL(bb) && result == APR_SUCCESS; b = APR_BUCKET_NEXT(b)) {
        const char *bytes;
        apr_size_t length = 0;
        if (APR_BUCKET_IS_METADATA(b) || b->length == 0) continue;
        result = apr_bucket_read(b, &bytes, &length, APR_BLOCK_READ);
        for (apr_size_t used = 0; result == APR_SUCCESS && used < length;) {
            bool is_whole;
            apr_size_t piece = parse(&tls->out, (const uint8_t *)bytes + used, length - used, &is_whole);
            for (apr_size_t done = 0; done < piece;) {
                apr_size_t place = (apr_size_t)slot->tls.out_cipher % SC_TLS_CIPHER, room = SC_TLS_CIPHER - place;
                apr_size_t part = piece - done < room ? piece - done : room;
                memcpy(ring + place, bytes + used + done, part);
                slot->tls.out_cipher += (int64_t)part;
                done += part;
            }
            used += piece;
            if (is_whole) note_record(connection);
        }
    }
    end_change(slot);
    return result;
}

void tls_trim(struct connection *connection, uint64_t to) {
    struct slot *slot = connection->slot;
    struct tls *journal = &slot->tls;
    // A part of a record is needed still, or content that mod_ssl has not given out; or what came was padded, and it stays as it is.
    if (slot->tls_state != TLS_FOLLOWED || to != slot->in_consumed || journal->in_plain != (int64_t)to || journal->in_whole != slot->in_total) return;
    uint64_t kept = slot->in_total - slot->in_logged;
    begin_change(slot);
    journal->in_first = journal->in_next;
    journal->in_first_plain = journal->in_plain;
    slot->in_logged = slot->in_total;
    slot->obstacles &= ~(uint32_t)OBSTACLE_INPUT;
    end_change(slot);
    input_forget(slot, kept);
}
