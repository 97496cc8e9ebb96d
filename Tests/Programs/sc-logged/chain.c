// One process of a session of several: it answers messages of one channel, and bytes of a pipe into another, and exports now and then.

#include "logged.h"
#include <errno.h>
#include <poll.h>
#include <sc.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define PIECE 4096

/// What it was passed: a socket of messages, the end of a pipe to read from, and of one to write to.
enum { MESSAGES = 3, IN = 4, OUT = 5 };

static struct {
    struct {
        struct cipher cipher;
        uint32_t length; // of the answer that found no room yet
        uint32_t reserved;
        unsigned char pending[PIECE];
    } messages, bytes;
} state;

static sc_continuation_t *continuation;

/// Reads when nothing waits to be written. False: the other end is gone.
static bool step(int in, int out, int flags, size_t most, struct cipher *cipher, uint32_t *length, unsigned char *pending) {
    if (*length == 0) {
        ssize_t count = sc_recv(continuation, in, pending, most, flags);
        if (count == -EAGAIN) return true;
        if (count <= 0) return false;
        answer(cipher, pending, pending, (size_t)count);
        *length = (uint32_t)count;
    }
    ssize_t given = sc_send(continuation, out, pending, *length, flags);
    if (given < 0) return given == -EAGAIN;
    *length -= (uint32_t)given;
    memmove(pending, pending + given, *length);
    return true;
}

int chain(bool is_rare) {
    sc_t *sc;
    unsigned char group[SC_GROUP_SIZE] = "of sc-logged";
    sc_callbacks_t callbacks = {.size = sizeof callbacks};
    if (sc_open("logged", 1, &callbacks, NULL, SC_SURVIVE, &sc) < 0 || sc_create(sc, NULL, &continuation) < 0) return 1;
    if (sc_join(continuation, group, "chain") < 0) return 1;
    static const char *const roles[] = {"messages", "in", "out"};
    for (int fd = MESSAGES; fd <= OUT; fd++)
        if (sc_associate(continuation, fd, roles[fd - MESSAGES]) < 0 || sc_log(continuation, fd, 0) < 0) return 1;
    sc_export(continuation, &state, sizeof state);
    struct pollfd fds[] = {{.fd = sc_fd(sc)}, {.fd = MESSAGES}, {.fd = IN}, {.fd = OUT}};
    for (unsigned steps = 1;; steps++) {
        fds[0].events = POLLIN;
        fds[1].events = state.messages.length ? POLLOUT : POLLIN;
        fds[2].events = state.bytes.length ? 0 : POLLIN;
        fds[3].events = state.bytes.length ? POLLOUT : 0;
        poll(fds, 4, -1);
        if (fds[0].revents) sc_dispatch(sc);
        if (!step(MESSAGES, MESSAGES, MSG_DONTWAIT, PIECE, &state.messages.cipher, &state.messages.length, state.messages.pending)) return 0;
        if (!step(IN, OUT, 0, 1 + steps * 7919u % PIECE, &state.bytes.cipher, &state.bytes.length, state.bytes.pending)) return 0;
        if (is_rare ? sc_log_left(continuation) < 4 * PIECE : steps % 5 == 0) sc_export(continuation, &state, sizeof state);
    }
}
