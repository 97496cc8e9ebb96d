// Continuations and their channels.

#include "internal.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
