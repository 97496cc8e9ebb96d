// What a server says of a session: its state, that it is parked, that it cannot move.

#include "internal.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int sc_reserve(sc_continuation_t *c, size_t bytes) {
    if (bytes < SC_STATE_DEFAULT || bytes > SC_STATE_MAX) return -EINVAL;
    if (c->sc->memory >= 0) return -EOPNOTSUPP;
    if (c->ended || c->room == bytes) return 0;
    c->room = bytes;
    c->tell_room = true;
    sc__mark(c);
    sc__flush(c->sc);
    return 0;
}

/// Bytes of state that the agent takes, too, if there is one.
static size_t room(const sc_continuation_t *c) {
    return c->sc->status > 0 && c->sc->version < 5 ? SC_STATE_DEFAULT : c->room;
}

int sc_export(sc_continuation_t *c, const void *bytes, size_t length) {
    if (length > room(c)) return -EFBIG;
    if (c->state == PARKED) return -EBUSY;
    // What the client has already is not part of a state to which a successor could go back, until it has come again.
    if (c->repeating == 0 && sc__memory_export(c, bytes, length, c->sc->state_version)) return 0;
    if (length > c->capacity) {
        size_t capacity = length < 64 ? 64 : length;
        void *room = realloc(c->bytes, capacity);
        if (room == NULL) return -ENOMEM;
        c->bytes = room;
        c->capacity = capacity;
    }
    if (length) memmove(c->bytes, bytes, length);
    c->exported = c->bytes;
    c->length = length;
    return 0;
}

int sc_parked(sc_continuation_t *c) {
    if (c->state != PARKING) return -ESTALE;
    if (c->length > room(c)) return -EFBIG;
    c->state = PARKED;
    c->answer = ANSWER_PARKED;
    sc__mark(c);
    sc__flush(c->sc);
    return 0;
}

int sc_ready(sc_continuation_t *c) {
    if (c->state != IMPORTED || !c->is_late) return -ESTALE;
    c->is_late = false;
    c->answer = ANSWER_READY;
    sc__mark(c);
    sc__flush(c->sc);
    return 0;
}

int sc_refuse(sc_continuation_t *c, const char *reason) {
    if (c->state == IMPORTED && c->is_late) {
        sc__send_refused(c->sc, c->id, ECONNREFUSED, reason);
        // The agent forgets it with the refusal.
        c->known = c->is_dirty;
        sc_end(c);
        return 0;
    }
    if (c->state != PARKING) return -ESTALE;
    c->state = RUNNING;
    c->answer = ANSWER_REFUSED;
    snprintf(c->reason, sizeof c->reason, "%s", reason ? reason : "");
    sc__mark(c);
    sc__flush(c->sc);
    return 0;
}

int sc_pin(sc_continuation_t *c, const char *reason) {
    if (reason && (*reason == 0 || strlen(reason) > SC_REASON_MAX)) return -EINVAL;
    if (c->ended || (reason == NULL ? c->pin == NULL : c->pin && strcmp(c->pin, reason) == 0)) return 0;
    char *copy = reason ? strdup(reason) : NULL;
    if (reason && copy == NULL) return -ENOMEM;
    free(c->pin);
    c->pin = copy;
    c->tell_pin = true;
    sc__mark(c);
    sc__flush(c->sc);
    return 0;
}

void sc__resume(sc_continuation_t *c) {
    if (c->state == RUNNING || c->state == ACCEPTED) return;
    if (c->state == PARKED || c->state == IMPORTED) sc__memory_resume(c);
    c->state = RUNNING;
    c->answer = NO_ANSWER;
    sc__mark(c);
    c->sc->called++;
    if (c->sc->callbacks.resume) c->sc->callbacks.resume(c, c->session);
}

void sc__gone(sc_continuation_t *c) {
    if (c->state == RUNNING) return;
    c->sc->called++;
    // Nothing that is left of it needs to be told; the agent has forgotten it.
    c->answer = NO_ANSWER;
    c->known = c->is_dirty;
    if (c->sc->callbacks.gone) c->sc->callbacks.gone(c, c->session);
    else sc_end(c);
}
