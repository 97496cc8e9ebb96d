// An echo server whose sessions can move: one event loop, many clients, and two numbers of state for each.
//
// It answers every line with "LINE n: text", where n counts the lines of the session, on whichever host they arrived. Everything that makes the
// sessions movable is marked with "libsc". With "survive" they also outlive this process.

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define STATE_VERSION 1
#define LINE_MAX_BYTES 4096

struct session {
    int fd;
    sc_continuation_t *continuation; // libsc
    struct {                         // what is exported: the same program reads it
        uint64_t lines, bytes;
        uint32_t length; // of the line that is not complete yet
        char line[LINE_MAX_BYTES];
    } state;
};

static int loop;
static sc_t *sc;
static int survives; // libsc

static void watch(int fd, void *what) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
    if (epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event) < 0) perror("epoll_ctl");
}

static void end(struct session *session) {
    // libsc: the agent has a duplicate, so close alone would leave it in the epoll set.
    epoll_ctl(loop, EPOLL_CTL_DEL, session->fd, NULL);
    sc_end(session->continuation); // libsc: before close
    close(session->fd);
    free(session);
}

/// Replies are small and the client reads them, so the socket takes them; one that does not is dropped.
static int answer(struct session *session, const char *line, size_t length) {
    char text[LINE_MAX_BYTES + 64];
    int size = snprintf(text, sizeof text, "LINE %llu: %.*s\n", (unsigned long long)++session->state.lines, (int)length, line);
    return sc_send(session->continuation, session->fd, text, (size_t)size, MSG_NOSIGNAL) == size ? 0 : -1; // libsc: send(2), and the log
}

/// libsc. The incomplete line comes along: it was read from the socket already.
static void export(struct session *session) {
    sc_export(session->continuation, &session->state, offsetof(__typeof__(session->state), line) + session->state.length);
}

static void serve(struct session *session) {
    char *line = session->state.line;
    size_t room = sizeof session->state.line - session->state.length;
    ssize_t count = sc_recv(session->continuation, session->fd, line + session->state.length, room, MSG_DONTWAIT); // libsc: recv(2), and the log
    if (count == -EAGAIN) return;
    if (count <= 0) return end(session);
    session->state.bytes += (uint64_t)count;
    session->state.length += (uint32_t)count;
    char *newline;
    while ((newline = memchr(line, '\n', session->state.length)) != NULL) {
        size_t length = (size_t)(newline - line);
        if (answer(session, line, length) < 0) return end(session);
        session->state.length -= (uint32_t)length + 1;
        memmove(line, newline + 1, session->state.length);
    }
    if (session->state.length == sizeof session->state.line) return end(session);
    if (survives) export(session); // libsc: a safe point, should this process be killed in the next step
}

// libsc: what the library asks of us. All of it is called between two steps of the loop, so a session is always at a safe point here.

static void park(sc_continuation_t *c, void *what) {
    struct session *session = what;
    epoll_ctl(loop, EPOLL_CTL_DEL, session->fd, NULL);
    export(session);
    sc_parked(c);
}

static void resume(sc_continuation_t *c, void *what) {
    (void)c;
    struct session *session = what;
    // Input that came meanwhile makes it readable at once.
    watch(session->fd, session);
}

static void gone(sc_continuation_t *c, void *what) {
    struct session *session = what;
    sc_end(c);
    if (session->fd >= 0) close(session->fd);
    free(session);
}

static void offer(sc_t *sc, sc_offer_t *offer, void *user) {
    (void)sc, (void)user;
    uint32_t version = sc_offer_state_version(offer);
    if (version != 0 && version != STATE_VERSION) return sc_decline(offer, "its state has a form that this server does not know");
    struct session *session = calloc(1, sizeof *session);
    if (session == NULL) return sc_decline(offer, "no memory");
    session->fd = -1;
    if (sc_accept(offer, session, &session->continuation) < 0) free(session);
}

static int import(sc_continuation_t *c, void *what, const sc_import_t *import) {
    struct session *session = what;
    size_t fixed = offsetof(__typeof__(session->state), line);
    int result = import->state_version != STATE_VERSION ? -EPROTONOSUPPORT
                 : import->length < fixed || import->length > sizeof session->state || import->channels != 1 ? -EINVAL : 0;
    if (result < 0) {
        free(session);
        return result;
    }
    memcpy(&session->state, import->state, import->length);
    session->fd = import->fds[0];
    if (survives) sc_log(c, session->fd, 0);
    return 0;
}

static void accept_client(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    struct session *session = fd < 0 ? NULL : calloc(1, sizeof *session);
    if (session == NULL) return;
    session->fd = fd;
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    // libsc
    if (sc_create(sc, session, &session->continuation) < 0) {
        close(fd);
        return free(session);
    }
    sc_associate(session->continuation, fd, "client");
    if (survives && sc_log(session->continuation, fd, 0) == 0) export(session);
    watch(fd, session);
}

int main(int argc, char **argv) {
    survives = argc == 4 && strcmp(argv[3], "survive") == 0;
    if (argc != 3 + survives) return fprintf(stderr, "usage: echo ADDRESS PORT [survive]\n"), 2;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    // Its successor listens beside it.
    setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    // The service's address is at home on one host at a time.
    setsockopt(listener, IPPROTO_IP, IP_FREEBIND, &on, sizeof on);
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0
        || listen(listener, 128) < 0)
        return perror("listen"), 1;
    loop = epoll_create1(EPOLL_CLOEXEC);
    watch(listener, &listener);

    // libsc
    sc_callbacks_t callbacks = {sizeof callbacks, park, resume, gone, offer, import};
    int result = sc_open("echo", STATE_VERSION, &callbacks, NULL, survives ? SC_SURVIVE : 0, &sc);
    if (result < 0) return fprintf(stderr, "sc_open: %s\n", strerror(-result)), 1;
    sc_accept_offers(sc, 1);
    watch(sc_fd(sc), sc);

    puts("serving");
    fflush(stdout);
    for (int told = 0;;) {
        struct epoll_event event; // one at a time: a step may end the session of the next
        if (epoll_wait(loop, &event, 1, -1) < 1) continue;
        if (event.data.ptr == &listener) accept_client(listener);
        else if (event.data.ptr == sc) sc_dispatch(sc); // libsc
        else serve(event.data.ptr);
        if (sc_status(sc) != told) printf("agent %d %s\n", told = sc_status(sc), sc_reason(sc)), fflush(stdout);
    }
}
