// An echo server: messages of one size, with and without a log.

#include "overhead.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum way { PLAIN, CONTROL, LINKED, EXPORTED, LOGGED, IN_PLACE, SELDOM, WAYS };
static const char *const names[WAYS] = {
    [PLAIN] = "plain", [CONTROL] = "plain again (control)", [LINKED] = "associated", [EXPORTED] = "export after each message, no log",
    [LOGGED] = "log, export after each message", [IN_PLACE] = "the same, read in place", [SELDOM] = "log, export when it is nearly full"};
static const int against[WAYS] = {PLAIN};

static size_t size;
static unsigned char bytes[WAYS][LARGEST];
static const unsigned char *messages[WAYS];

static void begin(struct session *s) {
    if (s->way < LINKED) return;
    expect(sc_create(lasting, s, &s->continuation) == 0 && sc_associate(s->continuation, s->fd, "client") == 0);
    if (s->way >= LOGGED) expect(sc_log(s->continuation, s->fd, 0) == 0 && sc_export(s->continuation, s, 4) == 0);
}

static ssize_t take(struct session *s) {
    unsigned char *place = bytes[s->way] + s->held;
    size_t room = size - s->held;
    if (s->way == IN_PLACE) {
        const void *received;
        ssize_t count = sc_recv_in_place(s->continuation, s->fd, &received, room, MSG_DONTWAIT);
        if (s->held == 0 && count > 0) messages[s->way] = received;
        return count;
    }
    return s->way >= LOGGED ? sc_recv(s->continuation, s->fd, place, room, MSG_DONTWAIT) : recv(s->fd, place, room, MSG_DONTWAIT);
}

static void give(struct session *s) {
    const unsigned char *message = s->way == IN_PLACE ? messages[s->way] : bytes[s->way];
    for (size_t done = 0; done < size;) {
        ssize_t count = s->way >= LOGGED ? sc_send(s->continuation, s->fd, message + done, size - done, MSG_NOSIGNAL)
                                         : send(s->fd, message + done, size - done, MSG_NOSIGNAL);
        expect(count > 0);
        done += (size_t)count;
    }
    s->held = 0;
    static unsigned char state[STATE];
    if (s->way == LOGGED || s->way == IN_PLACE || s->way == EXPORTED || (s->way == SELDOM && sc_log_left(s->continuation) < LARGEST))
        expect(sc_export(s->continuation, state, sizeof state) == 0);
}

static int serve(struct session *s) {
    ssize_t length = take(s);
    if (length > 0 && (s->held += (size_t)length) == size) give(s);
    return length != 0;
}

void compare_echo(size_t bytes, int rounds) {
    char title[64];
    snprintf(title, sizeof title, "echo of %zu bytes", size = bytes);
    measure(&(struct comparison){title, WAYS, names, against, size, size, begin, serve}, rounds);
}
