// Output that a session's former process has sent already: a successor produces it again, it is compared and not sent. A difference ends the session.

#include "internal.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/// What has to be repeated, and how far that has come.
struct repeat {
    struct sc_memory_repeat record;
    uint64_t done, hash;
    unsigned char literal[];
};

int sc__repeat_set(sc_continuation_t *c, const struct sc_memory_repeat *record, const void *literal) {
    free(c->repeat);
    c->repeat = malloc(sizeof *c->repeat + record->literal);
    if (c->repeat == NULL) return -ENOMEM;
    c->repeat->record = *record;
    c->repeat->done = c->repeat->hash = 0;
    if (record->literal) memcpy(c->repeat->literal, literal, record->literal);
    return 0;
}

bool sc__repeat_publish(sc_continuation_t *c) {
    const struct repeat *repeat = c->repeat;
    struct sc_memory_slot *slot = c->slot;
    if (slot == NULL || slot->log == 0) return false;
    // As if this process had sent it: should it be killed in its turn, the next one has the same to repeat.
    memcpy((unsigned char *)slot + SC_MEMORY_OUTPUT, repeat->literal, repeat->record.literal);
    struct sc_memory_record record = *sc__newest(slot);
    record.literal = record.out + repeat->record.hashed;
    record.hash = repeat->record.hash;
    slot->out = record.literal + repeat->record.literal;
    sc__memory_publish(slot, record);
    return true;
}

size_t sc__repeat_left(const sc_continuation_t *c) {
    const struct repeat *repeat = c->repeat;
    uint64_t hashed = repeat->record.hashed;
    return (size_t)(repeat->done < hashed ? hashed - repeat->done : hashed + repeat->record.literal - repeat->done);
}

/// The client is told by RST: nothing may follow what it has.
static int differ(sc_continuation_t *c, uint64_t position, const char *how) {
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    connect(c->log_fd, &nobody, sizeof nobody);
    c->differs = true;
    snprintf(c->reason, sizeof c->reason, "the output differs from what the client has, at byte %llu after the last export: %s",
             (unsigned long long)position, how);
    free(c->repeat);
    c->repeat = NULL;
    sc__memory_leave(c);
    c->answer = ANSWER_DIFFERS;
    sc__mark(c);
    sc__flush(c->sc);
    return -EILSEQ;
}

int sc__repeat(sc_continuation_t *c, const unsigned char *bytes, size_t length) {
    struct repeat *repeat = c->repeat;
    uint64_t hashed = repeat->record.hashed;
    if (repeat->done < hashed) {
        repeat->hash = sc_memory_hash(repeat->hash, bytes, length);
        repeat->done += length;
        if (repeat->done == hashed && repeat->hash != repeat->record.hash) return differ(c, hashed, "the hash of all before it is another");
    } else {
        const unsigned char *known = repeat->literal + (repeat->done - hashed);
        for (size_t i = 0; i < length; i++) {
            if (known[i] == bytes[i]) continue;
            char how[64];
            snprintf(how, sizeof how, "0x%02x instead of 0x%02x", bytes[i], known[i]);
            return differ(c, repeat->done + i, how);
        }
        repeat->done += length;
    }
    if (repeat->done == hashed + repeat->record.literal) {
        free(repeat);
        c->repeat = NULL;
    }
    return 0;
}
