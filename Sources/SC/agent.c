// The connection to the agent of this host: made, lost, found again, and the one descriptor that a server waits for.

#include "internal.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/// Packets that one dispatch takes at most, so that a server comes back to its clients.
#define PACKETS 64

int sc_abi(void) { return SC_ABI; }

uint64_t sc__now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

bool sc__is_name(const char *text, size_t longest) {
    if (text == NULL || *text == 0 || strlen(text) > longest) return false;
    return text[strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_")] == 0;
}

static bool find_path(char path[static 108]) {
    const char *named = secure_getenv("SC_AGENT_SOCKET"), *folder = secure_getenv("SC_RUN_DIR");
    int length = named ? snprintf(path, 108, "%s", named) : snprintf(path, 108, "%s/servers.sock", folder ? folder : "/run/sc-checkpoint");
    return length > 0 && length < 108;
}

static int watch(sc_t *sc, int fd, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    return epoll_ctl(sc->epoll, operation, fd, &event) < 0 ? -errno : 0;
}

int sc_open(const char *service, uint32_t state_version, const sc_callbacks_t *callbacks, void *user, unsigned flags, sc_t **out) {
    if (!sc__is_name(service, SC_SERVICE_MAX) || flags & ~SC_SURVIVE || out == NULL) return -EINVAL;
    if (callbacks != NULL && callbacks->size != sizeof *callbacks) return -EINVAL;
    sc_t *sc = calloc(1, sizeof *sc);
    if (sc == NULL) return -ENOMEM;
    strcpy(sc->service, service);
    sc->state_version = state_version;
    sc->user = user;
    if (callbacks) sc->callbacks = *callbacks;
    sc->dirty_tail = &sc->dirty;
    sc->socket = sc->timer = sc->memory = -1;
    sc->buffer = malloc(SC_WIRE_MAX);
    sc->epoll = epoll_create1(EPOLL_CLOEXEC);
    int error = sc->epoll < 0 ? -errno : sc->buffer == NULL ? -ENOMEM : find_path(sc->path) ? 0 : -ENAMETOOLONG;
    if (error == 0 && flags & SC_SURVIVE) error = sc__memory_open(sc);
    if (error == 0) {
        sc->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        error = sc->timer < 0 ? -errno : watch(sc, sc->timer, EPOLL_CTL_ADD, EPOLLIN);
    }
    if (error < 0) {
        sc_close(sc);
        return error;
    }
    sc__attempt(sc);
    *out = sc;
    return 0;
}

void sc_close(sc_t *sc) {
    if (sc == NULL) return;
    // The sessions first: the agent must not take them for those of a process that was killed.
    for (uint32_t i = 0; i < sc->slot_count; i++)
        if (sc->slots[i]) sc__free(sc->slots[i]);
    sc__memory_close(sc);
    if (sc->socket >= 0) close(sc->socket);
    if (sc->timer >= 0) close(sc->timer);
    if (sc->epoll >= 0) close(sc->epoll);
    while (sc->offers) sc__free_offer(sc->offers);
    free(sc->slots);
    free(sc->by_fd);
    free(sc->buffer);
    free(sc);
}

int sc_fd(const sc_t *sc) { return sc->epoll; }
int sc_status(const sc_t *sc) { return sc->status; }
const char *sc_reason(const sc_t *sc) { return sc->reason; }

void sc__tick_every(sc_t *sc, unsigned seconds) {
    struct itimerspec times = {.it_interval.tv_sec = seconds, .it_value.tv_sec = seconds};
    timerfd_settime(sc->timer, 0, &times, NULL);
}

void sc__attempt(sc_t *sc) {
    sc->last_attempt = sc__now();
    // Another second, whatever becomes of it: until the welcome nothing else would wake the server for the next attempt.
    sc__tick_every(sc, 1);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, sc->path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 || watch(sc, fd, EPOLL_CTL_ADD, EPOLLIN) < 0) {
        close(fd);
        return;
    }
    sc->socket = fd;
    sc->waits_to_write = false;
    if (sc__send_hello(sc) < 0) sc__lost(sc);
}

void sc__lost(sc_t *sc) {
    // Closing takes it out of the epoll set.
    close(sc->socket);
    sc->socket = -1;
    if (sc->status > 0) sc->status = 0;
    sc__tick_every(sc, sc->status < 0 ? 30 : 1);
    for (sc_offer_t *offer = sc->offers; offer; offer = offer->next) offer->sc = NULL;
    sc->offers = NULL;
    sc->dirty = NULL;
    sc->dirty_tail = &sc->dirty;
    for (uint32_t i = 0; i < sc->slot_count; i++) {
        sc_continuation_t *c = sc->slots[i];
        if (c == NULL) continue;
        c->is_dirty = c->known = false;
        if (c->ended) {
            sc__free(c);
            continue;
        }
        for (int n = 0; n < SC_WIRE_CHANNELS; n++) c->channels[n].told = c->channels[n].forget = false;
        c->join_told = false;
        c->tell_pin = c->pin != NULL;
        c->tell_room = c->room != SC_STATE_DEFAULT;
        c->answer = NO_ANSWER;
        c->since = sc__now();
        if (c->state == PARKING) sc__resume(c);
        else if (c->state == ACCEPTED) sc__gone(c);
    }
}

/// Everything that has arrived, within bounds.
static void receive(sc_t *sc) {
    for (int packets = 0; packets < PACKETS && sc->socket >= 0; packets++) {
        union {
            struct cmsghdr header;
            char bytes[CMSG_SPACE(sizeof(int) * (SC_WIRE_CHANNELS + 1))];
        } control;
        struct iovec part = {sc->buffer, SC_WIRE_MAX};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t length = recvmsg(sc->socket, &message, MSG_CMSG_CLOEXEC);
        if (length < 0 && (errno == EAGAIN || errno == EINTR)) return;
        int fds[SC_WIRE_CHANNELS + 1], count = 0;
        if (length > 0) {
            struct cmsghdr *header = CMSG_FIRSTHDR(&message);
            if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
                count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                memcpy(fds, CMSG_DATA(header), sizeof(int) * (size_t)count);
            }
        }
        if (length > 0 && !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) && sc__receive(sc, (size_t)length, fds, count)) continue;
        for (int i = 0; i < count; i++) close(fds[i]);
        if (sc->socket >= 0) sc__lost(sc);
    }
}

int sc_dispatch(sc_t *sc) {
    sc->called = 0;
    uint64_t ticks = 0;
    bool is_tick = read(sc->timer, &ticks, sizeof ticks) > 0;
    if (sc->socket >= 0) receive(sc);
    if (is_tick) {
        if (sc->status <= 0 && sc->socket < 0 && sc__now() - sc->last_attempt >= 900) sc__attempt(sc);
        // An agent that is there looks by itself.
        if (sc->status <= 0) sc__settle(sc);
    }
    sc__flush(sc);
    return sc->called;
}
