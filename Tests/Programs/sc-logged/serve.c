// The server: one event loop; sessions with a log, exported now and then, with answers that wait for the client among their state.

#include "logged.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PENDING 32768

struct session {
    int fd;
    sc_continuation_t *continuation;
    unsigned steps, refusals; // refusals: how often it will not park
    struct {
        struct cipher cipher;
        uint32_t length; // of the answer that the client has not taken yet
        unsigned char pending[PENDING];
    } state;
};

static int loop;
static sc_t *sc;
static bool has_salt, is_rare, is_once;
static unsigned refusals;

static void spin(int number) {
    (void)number;
    for (volatile int i = 0;; i++) {}
}

static void watch(struct session *session, bool writes, int operation) {
    struct epoll_event event = {.events = writes ? EPOLLOUT : EPOLLIN, .data.ptr = session};
    epoll_ctl(loop, operation, session->fd, &event);
}

static void end(struct session *session) {
    epoll_ctl(loop, EPOLL_CTL_DEL, session->fd, NULL);
    sc_end(session->continuation);
    close(session->fd);
    free(session);
}

static int keep(struct session *session) {
    return sc_export(session->continuation, &session->state, offsetof(__typeof__(session->state), pending) + session->state.length);
}

/// All forms of writing in turn.
static ssize_t give(struct session *session) {
    sc_continuation_t *c = session->continuation;
    unsigned char *bytes = session->state.pending;
    size_t length = session->state.length;
    struct iovec parts[2] = {{bytes, length / 3}, {bytes + length / 3, length - length / 3}};
    switch (session->steps % 3) {
    case 0: return sc_send(c, session->fd, bytes, length, MSG_NOSIGNAL);
    case 1: return sc_write(c, session->fd, bytes, length);
    default: return sc_writev(c, session->fd, parts, 2);
    }
}

static ssize_t take(struct session *session, unsigned char *bytes, size_t length) {
    sc_continuation_t *c = session->continuation;
    struct iovec parts[2] = {{bytes, length / 2}, {bytes + length / 2, length - length / 2}};
    switch (session->steps % 3) {
    case 0: return sc_recv(c, session->fd, bytes, length, MSG_DONTWAIT);
    case 1: return sc_read(c, session->fd, bytes, length);
    default: return sc_readv(c, session->fd, parts, 2);
    }
}

/// One step: write what waits, or read and answer. False: the session has ended.
static bool step(struct session *session) {
    session->steps++;
    if (session->state.length == 0) {
        unsigned char bytes[PENDING];
        ssize_t count = take(session, bytes, 1 + session->steps * 7919u % sizeof bytes);
        if (count == -EAGAIN) return true;
        if (count <= 0) return end(session), false;
        answer(&session->state.cipher, bytes, session->state.pending, (size_t)count);
        if (has_salt) session->state.pending[0] ^= 0x55;
        session->state.length = (uint32_t)count;
    }
    ssize_t given = give(session);
    if (given < 0 && given != -EAGAIN) return end(session), false;
    if (given > 0) {
        session->state.length -= (uint32_t)given;
        memmove(session->state.pending, session->state.pending + given, session->state.length);
    }
    watch(session, session->state.length > 0, EPOLL_CTL_MOD);
    if (is_once) return true;
    if (is_rare ? sc_log_left(session->continuation) < PENDING : session->steps % 5 == 0) keep(session);
    return true;
}

static void park(sc_continuation_t *c, void *what) {
    struct session *session = what;
    if (session->refusals > 0) {
        session->refusals--;
        sc_refuse(c, "it is counting");
        return;
    }
    epoll_ctl(loop, EPOLL_CTL_DEL, session->fd, NULL);
    keep(session);
    sc_parked(c);
}

static void resume(sc_continuation_t *c, void *what) {
    (void)c;
    struct session *session = what;
    watch(session, session->state.length > 0, EPOLL_CTL_ADD);
}

static void gone(sc_continuation_t *c, void *what) {
    struct session *session = what;
    sc_end(c);
    if (session->fd >= 0) close(session->fd);
    free(session);
}

static void offer(sc_t *sc, sc_offer_t *offer, void *user) {
    (void)sc, (void)user;
    struct session *session = calloc(1, sizeof *session);
    session->fd = -1;
    if (sc_accept(offer, session, &session->continuation) < 0) free(session);
}

static int import(sc_continuation_t *c, void *what, const sc_import_t *import) {
    struct session *session = what;
    memcpy(&session->state, import->state, import->length);
    session->fd = import->fds[0];
    fcntl(session->fd, F_SETFL, O_NONBLOCK);
    return sc_log(c, session->fd, 0);
}

static void accept_client(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    struct session *session = calloc(1, sizeof *session);
    static unsigned count;
    if (++count % 3 == 0) session->refusals = refusals;
    session->fd = fd;
    sc_create(sc, session, &session->continuation);
    sc_associate(session->continuation, fd, "client");
    if (sc_log(session->continuation, fd, 0) < 0 || keep(session) < 0) abort();
    watch(session, false, EPOLL_CTL_ADD);
}

static int listening(const char *text, const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof on);
    if (inet_pton(AF_INET, text, &address.sin_addr) != 1 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 128) < 0)
        return -1;
    return fd;
}

int serve(const char *address, const char *port, int options, char **words) {
    bool takes = true;
    for (int i = 0; i < options; i++) {
        if (strcmp(words[i], "salt") == 0) has_salt = true;
        if (strcmp(words[i], "rarely") == 0) is_rare = true;
        if (strcmp(words[i], "once") == 0) is_once = true;
        if (strcmp(words[i], "refuses") == 0) takes = false;
        if (strcmp(words[i], "holds") == 0) refusals = UINT32_MAX;
        if (strcmp(words[i], "wavers") == 0) refusals = 1;
    }
    signal(SIGUSR1, spin);
    int listener = listening(address, port);
    if (listener < 0) return perror("listen"), 1;
    loop = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener};
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
    sc_callbacks_t callbacks = {sizeof callbacks, park, resume, gone, offer, import};
    int result = sc_open("logged", 1, &callbacks, NULL, SC_SURVIVE, &sc);
    if (result < 0) return fprintf(stderr, "sc_open: %s\n", strerror(-result)), 1;
    sc_accept_offers(sc, takes);
    event.data.ptr = sc;
    epoll_ctl(loop, EPOLL_CTL_ADD, sc_fd(sc), &event);
    puts("serving");
    fflush(stdout);
    for (int told = 0;;) {
        if (epoll_wait(loop, &event, 1, -1) < 1) continue;
        if (event.data.ptr == &listener) accept_client(listener);
        else if (event.data.ptr == sc) sc_dispatch(sc);
        else step(event.data.ptr);
        if (sc_status(sc) != told) printf("agent %d %s\n", told = sc_status(sc), sc_reason(sc)), fflush(stdout);
    }
}
