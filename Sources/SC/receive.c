// What the agent says, each packet checked before it is believed.

#include "internal.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/// After an agent's end: how long a session is left alone before its socket is looked at, and how long an imported one may stay silent (ms).
#define GRACE 2000
#define IMPORT_LIMIT 10000

static void forget_others(sc_t *sc, int fd);

static bool welcome(sc_t *sc, const struct sc_wire_welcome *packet) {
    sc->status = 1;
    sc->version = packet->version;
    sc->tell_memory = sc->memory >= 0 && sc->version >= 2;
    sc->reason[0] = 0;
    sc->tell_accepts = sc->accepts;
    sc__tick_every(sc, 0);
    for (uint32_t i = 0; i < sc->slot_count; i++)
        if (sc->slots[i]) sc__mark(sc->slots[i]);
    return true;
}

static bool unwelcome(sc_t *sc, const struct sc_wire_reason *reason) {
    snprintf(sc->reason, sizeof sc->reason, "%.*s", SC_WIRE_REASON - 1, reason->text);
    sc->status = reason->error > 0 ? -reason->error : -EACCES;
    return false;
}

static bool park(sc_t *sc, sc_continuation_t *c) {
    // It ended while the request was on its way, or it moves already; the agent has heard, or will.
    if (c == NULL || c->ended || c->state != RUNNING) return true;
    c->state = PARKING;
    // One that repeats is behind what the client has; the move can go on from the memory.
    const char *reason = sc->callbacks.park == NULL ? "the server does not park" : c->repeating ? "it repeats output that its client has" : c->pin;
    if (reason) {
        sc_refuse(c, reason);
        return true;
    }
    sc->called++;
    sc->callbacks.park(c, c->session);
    return true;
}

static bool offer(sc_t *sc, const struct sc_wire_offer *packet) {
    sc_offer_t *offer = sc->accepts ? calloc(1, sizeof *offer) : NULL;
    if (offer == NULL) return sc__send_refused(sc, packet->head.continuation, ECONNREFUSED, "the server takes no sessions now") != -EPIPE;
    offer->sc = sc;
    offer->id = packet->head.continuation;
    offer->state_bytes = packet->state_bytes;
    offer->state_version = packet->state_version;
    snprintf(offer->local, sizeof offer->local, "%.*s", (int)sizeof packet->local - 1, packet->local);
    snprintf(offer->peer, sizeof offer->peer, "%.*s", (int)sizeof packet->peer - 1, packet->peer);
    if (sc->part.head.continuation == offer->id) {
        memcpy(offer->part, sc->part.part, sizeof offer->part);
        memcpy(offer->group, sc->part.group, sizeof offer->group);
    }
    offer->next = sc->offers;
    sc->offers = offer;
    sc->called++;
    sc->callbacks.offer(sc, offer, sc->user);
    return true;
}

/// A copy aligned for the server, whose callback may dispatch nothing but may export. NULL: no memory, or the file is shorter.
static void *copy_state(const struct sc_wire_import *packet, int file) {
    size_t length = packet->state_length;
    char *state = malloc(length ? length : 1);
    if (state == NULL || file < 0) return state ? memcpy(state, packet + 1, length) : NULL;
    for (size_t done = 0; done < length;) {
        ssize_t count = pread(file, state + done, length - done, (off_t)done);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) {
            free(state);
            return NULL;
        }
        done += (size_t)count;
    }
    return state;
}

/// True when the descriptors are the server's. `file`: of a state that is longer than a packet; -1: it is in the packet.
static bool import(sc_t *sc, sc_continuation_t *c, const struct sc_wire_import *packet, const int *fds, int count, int file) {
    if (c == NULL || c->state != ACCEPTED) return false;
    const char *roles[SC_WIRE_CHANNELS];
    char texts[SC_WIRE_CHANNELS][SC_WIRE_ROLE];
    int result = 0;
    for (int i = 0; i < count; i++) {
        snprintf(texts[i], sizeof texts[i], "%.*s", SC_WIRE_ROLE - 1, packet->roles[i]);
        roles[i] = texts[i];
        forget_others(sc, fds[i]);
        // A number that is new again: the server had closed it without a word.
        if (fds[i] < sc->fd_count && sc->by_fd[fds[i]]) sc_dissociate(sc->by_fd[fds[i]], fds[i]);
        if (result == 0) result = sc__add_channel(c, fds[i], texts[i]);
    }
    void *state = copy_state(packet, file);
    if (file >= 0) close(file);
    if (state == NULL) result = -ENOMEM;
    if (result == 0) {
        sc_import_t import = {state, packet->state_length, packet->state_version, (uint32_t)count, fds, roles};
        c->state = IMPORTED;
        c->known = true;
        sc->called++;
        result = sc->callbacks.import(c, c->session, &import);
    }
    bool is_kept = result >= 0 && sc__memory_export(c, state, packet->state_length, packet->state_version);
    free(state);
    if (result >= 0 && c->repeats && !(is_kept && sc__repeat_publish(c))) {
        sc__send_refused(sc, c->id, EOPNOTSUPP, "the server keeps no log, and its output would come twice");
        sc__gone(c);
        return true;
    }
    if (result == SC_LATER) {
        c->is_late = true;
        return true;
    }
    if (result == 0) {
        c->answer = ANSWER_READY;
        sc__mark(c);
        return true;
    }
    sc__send_refused(sc, c->id, -result, result == -EPROTONOSUPPORT ? "the server does not know this version of the state" : strerror(-result));
    for (int i = 0; i < count; i++) close(fds[i]);
    // The server has been told by its own result; what is not sent yet goes with the continuation.
    c->known = false;
    sc_end(c);
    return true;
}

static bool repeat(sc_continuation_t *c, const struct sc_wire_repeat *packet) {
    const struct sc_memory_repeat *record = (const void *)(packet + 1);
    const size_t fixed = sizeof *packet + sizeof *record;
    if (packet->head.length < fixed || record->literal > SC_MEMORY_OUTPUT_SIZE || packet->head.length != fixed + record->literal
        || memchr(packet->role, 0, sizeof packet->role) == NULL)
        return false;
    // An offer that has been withdrawn meanwhile.
    if (c == NULL || c->state != ACCEPTED || record->hashed + record->literal == 0) return true;
    return sc__repeat_set(c, packet->role, record, record + 1) == 0;
}

/// An earlier agent had brought the same socket: only the latest copy is served.
static void forget_others(sc_t *sc, int fd) {
    struct stat mine, other;
    if (fstat(fd, &mine) < 0) return;
    for (uint32_t i = 0; i < sc->slot_count; i++) {
        sc_continuation_t *c = sc->slots[i];
        if (c == NULL || c->ended || c->state != IMPORTED) continue;
        if (c->channels[0].fd >= 0 && fstat(c->channels[0].fd, &other) == 0 && other.st_ino == mine.st_ino && other.st_dev == mine.st_dev) sc__gone(c);
    }
}

bool sc__receive(sc_t *sc, size_t length, int *fds, int count) {
    const struct sc_wire_head *head = (const void *)sc->buffer;
    if (length < sizeof *head || head->length != length) return false;
    sc_continuation_t *c = sc__find(sc, head->continuation);
    if (head->type == SC_WIRE_IMPORT) {
        const struct sc_wire_import *packet = (const void *)head;
        if (length < sizeof *packet || packet->state_length > SC_STATE_MAX) return false;
        int files = packet->state_length > SC_WIRE_STATE;
        bool is_whole = length == sizeof *packet + (files ? 0 : packet->state_length) && count > files && packet->channels == (uint32_t)(count - files);
        return is_whole && sc->status > 0 && import(sc, c, packet, fds, count - files, files ? fds[count - 1] : -1);
    }
    if (count > 0) return false;
    switch (head->type) {
    case SC_WIRE_WELCOME: return length == sizeof(struct sc_wire_welcome) && welcome(sc, (const void *)head);
    case SC_WIRE_UNWELCOME: return length == sizeof(struct sc_wire_reason) && unwelcome(sc, (const void *)head);
    case SC_WIRE_TAKE_PART: return length == sizeof(struct sc_wire_part) && sc__take_part(sc, (const void *)head);
    case SC_WIRE_REPEAT: return repeat(c, (const void *)head);
    case SC_WIRE_PARK: return length == sizeof(struct sc_wire_park) && park(sc, c);
    case SC_WIRE_RESUME:
        if (length != sizeof *head) return false;
        if (c && !c->ended) sc__resume(c);
        return true;
    case SC_WIRE_GONE:
        if (length != sizeof *head) return false;
        if (c && !c->ended) sc__gone(c);
        return true;
    case SC_WIRE_OFFER: return length == sizeof(struct sc_wire_offer) && offer(sc, (const void *)head);
    default: return false;
    }
}

/// A move holds a socket in repair mode. One that has left it is served here, one that has lost its connection elsewhere.
static void settle(sc_continuation_t *c) {
    uint64_t waited = sc__now() - c->since;
    if (waited < GRACE) return;
    int fd = sc__connection(c), repair = 0;
    // Only the process that has the connection can tell; the next agent asks it for the others.
    if (fd < 0 && c->part[0]) return;
    socklen_t size = sizeof repair;
    struct tcp_info info = {0};
    socklen_t info_size = sizeof info;
    if (fd < 0 || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &info_size) < 0 || info.tcpi_state == TCP_CLOSE) return sc__gone(c);
    bool is_held = getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &repair, &size) == 0 && repair;
    if (!is_held) return sc__resume(c);
    if (c->state == IMPORTED && waited > IMPORT_LIMIT) sc__gone(c);
}

void sc__settle(sc_t *sc) {
    for (uint32_t i = 0; i < sc->slot_count; i++) {
        sc_continuation_t *c = sc->slots[i];
        if (c && !c->ended && (c->state == PARKED || c->state == IMPORTED)) settle(c);
    }
}
