// Continuations and their channels, exports and answers: what a server calls.

#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

sc_continuation_t *sc__find(sc_t *sc, uint64_t id) {
    uint32_t index = (uint32_t)id;
    return index < sc->slot_count && sc->slots[index] && sc->slots[index]->id == id ? sc->slots[index] : NULL;
}

/// A free place; `slot_count` after growing failed.
static uint32_t free_slot(sc_t *sc) {
    for (uint32_t tried = 0; tried < sc->slot_count; tried++) {
        uint32_t index = (sc->free_hint + tried) % sc->slot_count;
        if (sc->slots[index] == NULL) return index;
    }
    uint32_t count = sc->slot_count ? sc->slot_count * 2 : 16;
    sc_continuation_t **slots = realloc(sc->slots, count * sizeof *slots);
    if (slots == NULL) return sc->slot_count;
    memset(slots + sc->slot_count, 0, (count - sc->slot_count) * sizeof *slots);
    uint32_t first = sc->slot_count;
    sc->slots = slots;
    sc->slot_count = count;
    return first;
}

int sc_create(sc_t *sc, void *session, sc_continuation_t **out) {
    sc_continuation_t *c = calloc(1, sizeof *c);
    uint32_t index = c ? free_slot(sc) : 0;
    if (c == NULL || index >= sc->slot_count) {
        free(c);
        return -ENOMEM;
    }
    c->sc = sc;
    c->session = session;
    c->room = SC_STATE_DEFAULT;
    // The agent numbers offers from 1 << 63.
    c->id = (uint64_t)(++sc->generation & 0x7fffffff) << 32 | index;
    for (int i = 0; i < SC_WIRE_CHANNELS; i++) c->channels[i].fd = -1;
    for (unsigned i = 0; i < SC_MEMORY_LOGS; i++) c->logs[i].fd = -1;
    sc__memory_claim(c);
    sc->slots[index] = c;
    sc->free_hint = index + 1;
    *out = c;
    return 0;
}

void sc__free(sc_continuation_t *c) {
    for (int i = 0; i < SC_WIRE_CHANNELS; i++)
        if (c->channels[i].fd >= 0) c->sc->by_fd[c->channels[i].fd] = NULL;
    c->sc->slots[(uint32_t)c->id] = NULL;
    c->sc->free_hint = (uint32_t)c->id;
    sc__memory_leave(c);
    sc__repeat_free(c);
    free(c->bytes);
    free(c->pin);
    free(c);
}

void sc_end(sc_continuation_t *c) {
    if (c == NULL || c->ended) return;
    sc_t *sc = c->sc;
    c->ended = true;
    sc__memory_leave(c);
    for (int i = 0; i < SC_WIRE_CHANNELS; i++) {
        if (c->channels[i].fd >= 0) sc->by_fd[c->channels[i].fd] = NULL;
        c->channels[i].fd = -1;
    }
    if (sc->status <= 0 || (!c->known && !c->is_dirty)) {
        sc__free(c);
        return;
    }
    sc__mark(c);
    sc__flush(sc);
}

int sc__add_channel(sc_continuation_t *c, int fd, const char *role) {
    sc_t *sc = c->sc;
    if (fd >= sc->fd_count) {
        int count = (fd + 1) * 2;
        sc_continuation_t **by_fd = realloc(sc->by_fd, (size_t)count * sizeof *by_fd);
        if (by_fd == NULL) return -ENOMEM;
        memset(by_fd + sc->fd_count, 0, (size_t)(count - sc->fd_count) * sizeof *by_fd);
        sc->by_fd = by_fd;
        sc->fd_count = count;
    }
    if (sc->by_fd[fd]) return -EALREADY;
    int index = 0;
    while (index < SC_WIRE_CHANNELS && (c->channels[index].fd >= 0 || c->channels[index].forget)) index++;
    if (index == SC_WIRE_CHANNELS) return -ENOSPC;
    struct channel *channel = &c->channels[index];
    memset(channel, 0, sizeof *channel);
    channel->fd = fd;
    snprintf(channel->role, sizeof channel->role, "%s", role);
    sc->by_fd[fd] = c;
    return 0;
}

int sc_associate(sc_continuation_t *c, int fd, const char *role) {
    if (role == NULL || *role == 0 || strlen(role) > SC_ROLE_MAX || strpbrk(role, ": \t\n") != NULL) return -EINVAL;
    if (c->state != RUNNING) return -EBUSY;
    int result = sc__check_channel(fd);
    if (result == 0) result = sc__add_channel(c, fd, role);
    if (result < 0) return result;
    sc__mark(c);
    sc__flush(c->sc);
    return 0;
}

int sc_dissociate(sc_continuation_t *c, int fd) {
    if (c->state == PARKED || c->state == IMPORTED) return -EBUSY;
    for (int i = 0; fd >= 0 && i < SC_WIRE_CHANNELS; i++) {
        struct channel *channel = &c->channels[i];
        if (channel->fd != fd) continue;
        c->sc->by_fd[fd] = NULL;
        sc__forget_log(c, fd);
        channel->fd = -1;
        channel->forget = channel->told;
        channel->told = false;
        sc__mark(c);
        sc__flush(c->sc);
        return 0;
    }
    return -ENOENT;
}

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

int sc_accept_offers(sc_t *sc, int accept) {
    if (accept && (sc->callbacks.offer == NULL || sc->callbacks.import == NULL)) return -EINVAL;
    sc->accepts = accept != 0;
    sc->tell_accepts = true;
    sc__flush(sc);
    return 0;
}

const char *sc_offer_local(const sc_offer_t *offer) { return offer->local; }
const char *sc_offer_peer(const sc_offer_t *offer) { return offer->peer; }
uint32_t sc_offer_state_version(const sc_offer_t *offer) { return offer->state_version; }
size_t sc_offer_state_bytes(const sc_offer_t *offer) { return offer->state_bytes; }

void sc__free_offer(sc_offer_t *offer) {
    if (offer->sc) {
        sc_offer_t **place = &offer->sc->offers;
        while (*place != offer) place = &(*place)->next;
        *place = offer->next;
    }
    free(offer);
}

int sc_accept(sc_offer_t *offer, void *session, sc_continuation_t **out) {
    sc_t *sc = offer->sc;
    int result = sc ? sc_create(sc, session, out) : -ESTALE;
    if (result == 0) {
        (*out)->state = ACCEPTED;
        (*out)->offer = offer->id;
        memcpy((*out)->part, offer->part, sizeof offer->part);
        memcpy((*out)->group, offer->group, sizeof offer->group);
        (*out)->known = true;
        // Until it is live it has read and written nothing.
        if ((*out)->slot) (*out)->slot->has_base = 0;
        (*out)->answer = ANSWER_ACCEPTED;
        sc__mark(*out);
        sc__flush(sc);
    }
    if (result == -ENOMEM) sc__send_refused(sc, offer->id, ENOMEM, "the server has no memory");
    sc__free_offer(offer);
    return result;
}

void sc_decline(sc_offer_t *offer, const char *reason) {
    if (offer->sc) sc__send_refused(offer->sc, offer->id, ECONNREFUSED, reason);
    sc__free_offer(offer);
}
