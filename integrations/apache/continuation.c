// From the journal of a connection to its continuation, and the bytes of that.

#include "continuation.h"
#include <endian.h>
#include <stdio.h>
#include <string.h>

static const char uncounted[] = "the chunk after the last one that is noted has begun";

/// Where the blocks of an unfinished head end that are whole. A head comes in pieces when a script writes it by itself (nph-).
static uint64_t blocks_end(const struct continuation *in) {
    uint64_t end = 0;
    for (const char *at; (at = memmem(in->head + end, in->head_length - end, "\r\n\r\n", 4)) != NULL;) end = (uint64_t)(at + 4 - in->head);
    return end;
}

/// Where in its chunks the client stands.
static const char *take_chunked(struct slot *slot, const struct response *response, int64_t written, struct chunked *out) {
    out->is_active = 1;
    const struct chunk *chunk = NULL;
    for (uint64_t back = 1; back <= slot->chunk_count && back <= SC_CHUNKS && chunk == NULL; back++) {
        const struct chunk *candidate = &slot->chunks[(slot->chunk_count - back) % SC_CHUNKS];
        if (candidate->position <= written) chunk = candidate;
    }
    if (written == response->body_start) return NULL;
    if (chunk == NULL && slot->chunk_count > SC_CHUNKS) return "more small chunks wait for the client than are remembered";
    if (chunk == NULL || chunk->position < response->body_start) return uncounted;
    int64_t offset = written - chunk->position;
    if (chunk->length == 0) {
        if (offset > 5) return "the response is complete, and its end is not noted";
        out->is_terminal = 1;
        out->before_length = (uint8_t)(5 - offset);
        memcpy(out->before, "0\r\n\r\n" + offset, out->before_length);
        return NULL;
    }
    char line[24];
    int64_t head = snprintf(line, sizeof line, "%llx\r\n", (unsigned long long)chunk->length);
    if (offset < head) {
        out->before_length = (uint8_t)(head - offset);
        memcpy(out->before, line + offset, out->before_length);
        out->skip = (uint64_t)chunk->payload;
        out->rest = (uint64_t)chunk->length;
    } else if (offset < head + chunk->length) {
        out->skip = (uint64_t)(chunk->payload + offset - head);
        out->rest = (uint64_t)(chunk->length - (offset - head));
    } else {
        int64_t gone = offset - head - chunk->length;
        if (gone > 2) return uncounted;
        out->skip = (uint64_t)(chunk->payload + chunk->length);
        out->after_length = (uint8_t)(2 - gone);
        memcpy(out->after, "\r\n" + gone, out->after_length);
    }
    return NULL;
}

static const char *obstacle(const struct slot *slot) {
    uint32_t obstacles = slot->obstacles;
    if (obstacles & OBSTACLE_TLS) return tls_obstacle(slot);
    if (obstacles & OBSTACLE_PROTOCOL) return "it does not speak HTTP/1";
    if (obstacles & OBSTACLE_INPUT) return "its request is longer than what is kept of it (SCRequestMax), and a part has been read already";
    if (obstacles & OBSTACLE_HEAD) return "a response's head is longer than 4 KiB";
    if (obstacles & OBSTACLE_RESPONSES) return "more than 8 responses wait for the client";
    if (obstacles & OBSTACLE_COUNT) return "a filter reads its input in a way that cannot be followed";
    return NULL;
}

/// The request that begins at `from`, for a person. The slot may be in use.
static const char *name_request(const struct region *region, const struct slot *slot, uint64_t from, const char *what, char words[static 160]) {
    uint64_t logged = __atomic_load_n(&slot->in_logged, __ATOMIC_RELAXED), total = __atomic_load_n(&slot->in_total, __ATOMIC_RELAXED);
    char name[60];
    size_t known = 0, length = 0;
    // Of TLS it is ciphertext.
    if (slot->tls_state == TLS_NONE && from >= logged && from < total && total - logged <= region->request_max) known = total - from < sizeof name ? (size_t)(total - from) : sizeof name;
    memcpy(name, slot_input(region, slot) + (known ? from - logged : 0), known);
    while (length < known && name[length] > ' ') length++;
    if (length < known && name[length] == ' ') length++;
    while (length < known && name[length] > ' ' && name[length] != '?') length++;
    snprintf(words, 160, "%.*s %s", length ? (int)length : 12, length ? name : "its request", what);
    return words;
}

static const char answered[] = "is being answered and must not be carried out twice (SCRepeat)";
static const char carried_out[] = "is being carried out and must not be carried out twice (SCRepeat)";
static const char ranges[] = "is answered with several ranges, whose separators differ from server to server";

static bool has_ranges(const struct response *response) {
    size_t length = response->head_length < SC_HEAD_MAX ? response->head_length : SC_HEAD_MAX;
    return response->head_done && memmem(response->head, length, "multipart/byteranges", 20);
}

static bool is_at_work(const struct slot *slot) {
    bool is_open = slot->count == 0 || response_at((struct slot *)slot, slot->count - 1)->out_end != OPEN_END;
    return slot->is_unrepeatable && is_open && slot->in_consumed > slot->in_request;
}

bool continuation_look(const struct region *region, const struct slot *slot, struct outlook *out) {
    uint32_t before = atomic_load(&slot->changing);
    // A handshake is over in a moment.
    bool is_moment = slot->tls_state == TLS_SEEN && slot->tls.why == TLS_HANDSHAKE;
    *out = (struct outlook){.why = is_moment ? NULL : obstacle(slot), .is_lasting = slot->obstacles & (OBSTACLE_TLS | OBSTACLE_PROTOCOL | OBSTACLE_COUNT)};
    out->request = slot->in_request;
    for (uint32_t index = 0; out->why == NULL && index < slot->count && index < SC_RESPONSES; index++) {
        const struct response *response = response_at((struct slot *)slot, index);
        const char *what = !response->is_repeatable ? answered : has_ranges(response) ? ranges : NULL;
        if (what == NULL) continue;
        out->request = response->in_start;
        out->why = name_request(region, slot, out->request, what, out->words);
    }
    if (out->why == NULL && is_at_work(slot)) out->why = name_request(region, slot, out->request, carried_out, out->words);
    atomic_thread_fence(memory_order_acquire);
    return !(before & 1) && atomic_load(&slot->changing) == before;
}

const char *continuation_take(const struct region *region, struct slot *slot, int64_t written, struct continuation *out, char words[static 160]) {
    memset(out, 0, sizeof *out);
    const char *why = slot->obstacles & OBSTACLE_CLOSING ? "the connection is being closed" : obstacle(slot);
    if (why == NULL && slot->tls_state != TLS_NONE) why = tls_take(region, slot, &written, &out->tls);
    if (why) return why;
    struct response *response = NULL;
    uint32_t index = 0;
    for (; index < slot->count && response == NULL; index++)
        if (response_at(slot, index)->out_end == OPEN_END || response_at(slot, index)->out_end > written) response = response_at(slot, index);
    uint64_t from = response ? response->in_start : slot->in_request;
    bool is_kept = out->tls.is_active ? (int64_t)from >= slot->tls.in_first_plain : from >= slot->in_logged;
    if (!is_kept || slot->in_total - slot->in_logged > region->request_max) return "its request is no longer remembered";
    // Everything from here on will be carried out again.
    for (uint32_t later = index ? index - 1 : 0; response && later < slot->count; later++)
        if (!response_at(slot, later)->is_repeatable)
            return name_request(region, slot, response_at(slot, later)->in_start, answered, words);
    if (is_at_work(slot)) return name_request(region, slot, slot->in_request, carried_out, words);
    out->keepalives = slot->keepalives;
    // Of TLS all that is kept: a record is opened as a whole.
    uint64_t begin = out->tls.is_active ? tls_begin(slot, (int64_t)from, &out->tls) : from;
    out->request = slot_input(region, slot) + (begin - slot->in_logged);
    out->request_length = (uint32_t)(slot->in_total - begin);
    if (response == NULL) return NULL;
    out->has_response = 1;
    out->head_done = response->head_done;
    out->kind = response->kind;
    out->head = response->head;
    bool is_known = !response->head_done && response->known_length > response->head_length;
    out->head_length = is_known ? response->known_length : response->head_length;
    if (written < response->out_start) return "its output is not what was noted";
    out->sent = (uint64_t)(written - response->out_start);
    if (!response->head_done && out->sent > blocks_end(out)) return "a part of an unfinished head has been sent";
    out->body = response->body;
    if (has_ranges(response)) return name_request(region, slot, from, ranges, words);
    return response->kind == BODY_CHUNKED && out->sent >= response->head_length ? take_chunked(slot, response, written, &out->chunked) : NULL;
}

/// The fixed part, little-endian.
struct wire {
    uint32_t magic, keepalives, request_length, head_length;
    uint8_t has_response, head_done, kind, chunk_flags;
    uint8_t before_length, after_length, reserved[2];
    uint64_t sent, body_length, file_size, file_time, skip, rest, tls_length;
    uint8_t digest[16];
    char before[24], after[8];
};
#define WIRE_MAGIC 0x68706173u // "saph"

long continuation_encode(const struct continuation *in, unsigned char *bytes, size_t room) {
    struct wire wire = {
        .magic = htole32(WIRE_MAGIC), .keepalives = htole32(in->keepalives), .request_length = htole32(in->request_length),
        .head_length = htole32(in->head_length), .has_response = in->has_response, .head_done = in->head_done, .kind = in->kind,
        .chunk_flags = (uint8_t)(in->chunked.is_active | in->chunked.is_terminal << 1), .before_length = in->chunked.before_length,
        .after_length = in->chunked.after_length, .sent = htole64(in->sent), .body_length = htole64(in->body.length),
        .file_size = htole64(in->body.file_size), .file_time = htole64((uint64_t)in->body.file_time), .skip = htole64(in->chunked.skip),
        .rest = htole64(in->chunked.rest), .tls_length = htole64(tls_length(&in->tls))};
    memcpy(wire.digest, in->body.digest, sizeof wire.digest);
    memcpy(wire.before, in->chunked.before, sizeof wire.before);
    memcpy(wire.after, in->chunked.after, sizeof wire.after);
    size_t length = sizeof wire + in->request_length + in->head_length + tls_length(&in->tls);
    if (length > room) return -1;
    memcpy(bytes, &wire, sizeof wire);
    memcpy(bytes + sizeof wire, in->request, in->request_length);
    if (in->head_length) memcpy(bytes + sizeof wire + in->request_length, in->head, in->head_length);
    if (in->tls.is_active) tls_encode(&in->tls, bytes + length - tls_length(&in->tls));
    return (long)length;
}

bool continuation_decode(const unsigned char *bytes, size_t length, struct continuation *out) {
    struct wire wire;
    memset(out, 0, sizeof *out);
    if (length < sizeof wire) return false;
    memcpy(&wire, bytes, sizeof wire);
    uint64_t request = le32toh(wire.request_length), head = le32toh(wire.head_length), tls = le64toh(wire.tls_length);
    if (le32toh(wire.magic) != WIRE_MAGIC || tls > length || length != sizeof wire + request + head + tls || request > SC_REQUEST_MAX || head > SC_HEAD_MAX) return false;
    if (wire.kind > BODY_CHUNKED || wire.before_length > sizeof wire.before || wire.after_length > sizeof wire.after) return false;
    *out = (struct continuation){
        .keepalives = le32toh(wire.keepalives), .request_length = (uint32_t)request, .head_length = (uint32_t)head,
        .has_response = wire.has_response, .head_done = wire.head_done, .kind = wire.kind, .sent = le64toh(wire.sent),
        .body = {.length = le64toh(wire.body_length), .file_size = le64toh(wire.file_size), .file_time = (int64_t)le64toh(wire.file_time)},
        .chunked = {.skip = le64toh(wire.skip), .rest = le64toh(wire.rest), .is_active = wire.chunk_flags & 1,
                    .is_terminal = wire.chunk_flags >> 1 & 1, .before_length = wire.before_length, .after_length = wire.after_length},
        .request = (const char *)bytes + sizeof wire, .head = (const char *)bytes + sizeof wire + request};
    memcpy(out->body.digest, wire.digest, sizeof wire.digest);
    memcpy(out->chunked.before, wire.before, sizeof wire.before);
    memcpy(out->chunked.after, wire.after, sizeof wire.after);
    if (tls > 0 && !tls_decode(bytes + length - tls, tls, &out->tls)) return false;
    uint64_t limit = 1ull << 62;
    if (out->sent > limit || out->body.length > limit || out->chunked.skip > limit || out->chunked.rest > limit) return false;
    if (out->has_response && out->head_done && out->sent < out->head_length && out->chunked.is_active) return false;
    return !out->has_response || request > 0;
}
