// Output that a session's former process has sent already: a successor produces it again, it is compared and not sent. A difference ends the session.

#include "internal.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/// What has to be repeated, and how far that has come.
struct repeat {
    struct repeat *next; // of those whose channels have not come
    char role[SC_WIRE_ROLE];
    struct sc_memory_repeat record;
    uint64_t done, hash;
    unsigned char literal[];
};

int sc__repeat_set(sc_continuation_t *c, const char *role, const struct sc_memory_repeat *record, const void *literal) {
    struct repeat *repeat = calloc(1, sizeof *repeat + record->literal);
    if (repeat == NULL) return -ENOMEM;
    snprintf(repeat->role, sizeof repeat->role, "%s", role);
    repeat->record = *record;
    if (record->literal) memcpy(repeat->literal, literal, record->literal);
    repeat->next = c->repeats;
    c->repeats = repeat;
    return 0;
}

static struct log *log_of(sc_continuation_t *c, const char *role) {
    for (int i = 0; i < SC_WIRE_CHANNELS; i++)
        if (c->channels[i].fd >= 0 && strcmp(c->channels[i].role, role) == 0) return sc__log(c, c->channels[i].fd);
    return NULL;
}

/// The bytes of messages without their lengths.
static uint64_t payload(const struct sc_memory_log *place, const unsigned char *bytes, uint64_t length) {
    uint64_t sum = 0;
    if (place->kind != SC_MEMORY_MESSAGES) return length;
    for (uint32_t size; length >= sizeof size; bytes += sizeof size + size, length -= sizeof size + size, sum += size) {
        memcpy(&size, bytes, sizeof size);
        if (size > length - sizeof size) break;
    }
    return sum;
}

bool sc__repeat_publish(sc_continuation_t *c) {
    struct sc_memory_slot *slot = c->slot;
    if (slot == NULL) return false;
    struct sc_memory_record record = *sc__newest(slot);
    for (struct repeat *repeat; (repeat = c->repeats);) {
        struct log *log = log_of(c, repeat->role);
        if (log == NULL || log->repeat) return false;
        // As if this process had sent it: should it be killed in its turn, the next one has the same to repeat.
        const struct sc_memory_repeat *told = &repeat->record;
        struct sc_memory_position *position = &record.positions[log - c->logs];
        struct sc_memory_log *place = sc__place(c, log);
        memcpy(sc__output(c, log), repeat->literal, told->literal);
        position->hashed = told->hashed;
        position->hash = told->hash;
        // Of messages only the hash knows how many bytes they had; nobody else asks, as this process has written none.
        position->literal = position->out + (place->kind == SC_MEMORY_MESSAGES ? 0 : told->hashed);
        place->out = position->literal + payload(place, repeat->literal, told->literal);
        if (place->kind != SC_MEMORY_TCP) place->base_out = place->out;
        log->sent = told->literal;
        log->repeat = repeat;
        c->repeats = repeat->next;
        c->repeating++;
    }
    sc__memory_publish(slot, record);
    return true;
}

void sc__repeat_free(sc_continuation_t *c) {
    for (struct repeat *repeat; (repeat = c->repeats);) {
        c->repeats = repeat->next;
        free(repeat);
    }
    for (unsigned i = 0; i < SC_MEMORY_LOGS; i++) free(c->logs[i].repeat);
}

size_t sc__repeat_left(const struct log *log) {
    const struct repeat *repeat = log->repeat;
    uint64_t hashed = repeat->record.hashed;
    return (size_t)(repeat->done < hashed ? hashed - repeat->done : hashed + repeat->record.literal - repeat->done);
}

/// The client is told by RST: nothing may follow what it has. Of a connection that another process has, the agent sees to it.
static int differ(sc_continuation_t *c, struct log *log, uint64_t position, const char *how) {
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    int fd = sc__connection(c);
    if (fd >= 0) connect(fd, &nobody, sizeof nobody);
    c->differs = true;
    const char *role = "";
    for (int i = 0; i < SC_WIRE_CHANNELS; i++)
        if (c->channels[i].fd == log->fd) role = c->channels[i].role;
    snprintf(c->reason, sizeof c->reason, "the output differs from what the %s has, at byte %llu after the last export: %s",
             c->part[0] ? role : "client", (unsigned long long)position, how);
    sc__repeat_free(c);
    for (unsigned i = 0; i < SC_MEMORY_LOGS; i++) c->logs[i].repeat = NULL;
    c->repeating = 0;
    sc__memory_leave(c);
    c->answer = ANSWER_DIFFERS;
    sc__mark(c);
    sc__flush(c->sc);
    return -EILSEQ;
}

int sc__repeat_is_short(sc_continuation_t *c, struct log *log) {
    uint64_t position = log->repeat ? log->repeat->done : 0;
    return differ(c, log, position, "it ends in the middle of a message");
}

int sc__repeat(sc_continuation_t *c, struct log *log, const unsigned char *bytes, size_t length) {
    struct repeat *repeat = log->repeat;
    uint64_t hashed = repeat->record.hashed;
    if (repeat->done < hashed) {
        repeat->hash = sc_memory_hash(repeat->hash, repeat->done, bytes, length);
        repeat->done += length;
        if (repeat->done == hashed && repeat->hash != repeat->record.hash) return differ(c, log, hashed, "the hash of all before it is another");
    } else {
        const unsigned char *known = repeat->literal + (repeat->done - hashed);
        for (size_t i = 0; i < length; i++) {
            if (known[i] == bytes[i]) continue;
            char how[64];
            snprintf(how, sizeof how, "0x%02x instead of 0x%02x", bytes[i], known[i]);
            return differ(c, log, repeat->done + i, how);
        }
        repeat->done += length;
    }
    if (repeat->done == hashed + repeat->record.literal) {
        free(repeat);
        log->repeat = NULL;
        c->repeating--;
    }
    return 0;
}
