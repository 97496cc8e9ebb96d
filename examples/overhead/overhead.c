// What libsc costs an echo server: round trips over loopback, in pairs of short rounds with and without it.
//
//   overhead [ROUNDS]        default 2000 rounds of 2 ms for each way and size
//
// One server process has a connection for each way; the client uses them in turn, in an order that changes. So the ways share the moment, the processes
// and the cores, and the ratio of two neighbouring rounds says what one costs more. The control is the plain way against itself.

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sc.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum way { PLAIN, CONTROL, LINKED, EXPORTED, LOGGED, IN_PLACE, SELDOM, WAYS };
static const char *const names[WAYS] = {
    [PLAIN] = "plain", [CONTROL] = "plain again (control)", [LINKED] = "associated", [EXPORTED] = "export after each message, no log",
    [LOGGED] = "log, export after each message", [IN_PLACE] = "the same, read in place", [SELDOM] = "log, export when it is nearly full"};

#define LARGEST 65536
#define STATE 100

struct session {
    int fd;
    enum way way;
    size_t size, held; // of a message, and what is there of it
    sc_continuation_t *continuation;
    unsigned char bytes[LARGEST];
    const unsigned char *message;
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static ssize_t take(struct session *s) {
    unsigned char *place = s->bytes + s->held;
    size_t room = s->size - s->held;
    if (s->way == IN_PLACE) {
        const void *bytes;
        ssize_t count = sc_recv_in_place(s->continuation, s->fd, &bytes, room, MSG_DONTWAIT);
        if (s->held == 0 && count > 0) s->message = bytes;
        return count;
    }
    return s->way >= LOGGED ? sc_recv(s->continuation, s->fd, place, room, MSG_DONTWAIT) : recv(s->fd, place, room, MSG_DONTWAIT);
}

static void give(struct session *s) {
    const unsigned char *bytes = s->way == IN_PLACE ? s->message : s->bytes;
    for (size_t done = 0; done < s->size;) {
        ssize_t count = s->way >= LOGGED ? sc_send(s->continuation, s->fd, bytes + done, s->size - done, MSG_NOSIGNAL)
                                         : send(s->fd, bytes + done, s->size - done, MSG_NOSIGNAL);
        if (count <= 0) exit(1);
        done += (size_t)count;
    }
    s->held = 0;
    static unsigned char state[STATE];
    if (s->way == LOGGED || s->way == IN_PLACE || s->way == EXPORTED || (s->way == SELDOM && sc_log_left(s->continuation) < LARGEST))
        if (sc_export(s->continuation, state, sizeof state) < 0) exit(1);
}

static void serve(struct session *sessions, int count) {
    sc_t *sc;
    int loop = epoll_create1(0);
    if (sc_open("overhead", 1, NULL, NULL, SC_SURVIVE, &sc) < 0) exit(1);
    for (int i = 0; i < count; i++) {
        struct session *s = &sessions[i];
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
        epoll_ctl(loop, EPOLL_CTL_ADD, s->fd, &event);
        if (s->way < LINKED) continue;
        if (sc_create(sc, s, &s->continuation) < 0 || sc_associate(s->continuation, s->fd, "client") < 0) exit(1);
        if (s->way >= LOGGED && (sc_log(s->continuation, s->fd, 0) < 0 || sc_export(s->continuation, s, 4) < 0)) exit(1);
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(loop, EPOLL_CTL_ADD, sc_fd(sc), &event);
    for (;;) {
        if (epoll_wait(loop, &event, 1, -1) < 1) continue;
        struct session *s = event.data.ptr;
        if (s == NULL) {
            sc_dispatch(sc);
            continue;
        }
        ssize_t length = take(s);
        if (length == 0) exit(0);
        if (length > 0 && (s->held += (size_t)length) == s->size) give(s);
    }
}

/// Round trips for 2 ms; the time of one in microseconds.
static double round_trips(int fd, size_t size) {
    static unsigned char bytes[LARGEST];
    double start = now(), end = start;
    int count = 0;
    for (; end - start < 0.002; count++, end = now()) {
        for (size_t done = 0; done < size;) {
            ssize_t sent = send(fd, bytes + done, size - done, 0);
            if (sent <= 0) exit(1);
            done += (size_t)sent;
        }
        for (size_t done = 0; done < size;) {
            ssize_t got = recv(fd, bytes + done, size - done, 0);
            if (got <= 0) exit(1);
            done += (size_t)got;
        }
    }
    return (end - start) / count * 1e6;
}

static int compare(const void *one, const void *other) {
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static int connected(int listener, const struct sockaddr_in *address, int *server) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) < 0 || (*server = accept(listener, NULL, NULL)) < 0) exit(1);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(*server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static void measure(size_t size, int rounds) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), clients[WAYS];
    if (bind(listener, (struct sockaddr *)&address, length) < 0 || listen(listener, WAYS) < 0) exit(1);
    getsockname(listener, (struct sockaddr *)&address, &length);
    struct session *sessions = calloc(WAYS, sizeof *sessions);
    for (int way = 0; way < WAYS; way++) {
        clients[way] = connected(listener, &address, &sessions[way].fd);
        sessions[way].way = (enum way)way;
        sessions[way].size = size;
    }
    fflush(stdout);
    pid_t server = fork();
    if (server == 0) {
        for (int way = 0; way < WAYS; way++) close(clients[way]);
        serve(sessions, WAYS);
    }
    double *times[WAYS], *ratios = calloc((size_t)rounds, sizeof *ratios);
    for (int way = 0; way < WAYS; way++) times[way] = calloc((size_t)rounds, sizeof **times);
    for (int round = -5; round < rounds; round++)
        for (int i = 0; i < WAYS; i++) {
            // To and fro, and beginning elsewhere each time.
            int step = round & 1 ? WAYS - 1 - i : i, way = (step + (round + 5) / 2) % WAYS;
            double time = round_trips(clients[way], size);
            if (round >= 0) times[way][round] = time;
        }
    printf("\n%zu bytes, %d rounds, round trips in us; ratio to plain in the same round\n%-36s %9s %9s %9s %9s\n", size, rounds, "", "median us",
           "ratio", "25 %", "75 %");
    for (int way = 0; way < WAYS; way++) {
        for (int round = 0; round < rounds; round++) ratios[round] = times[way][round] / times[PLAIN][round];
        qsort(ratios, (size_t)rounds, sizeof *ratios, compare);
        double *copy = memcpy(calloc((size_t)rounds, sizeof *copy), times[way], (size_t)rounds * sizeof *copy);
        qsort(copy, (size_t)rounds, sizeof *copy, compare);
        printf("%-36s %9.2f %9.4f %9.4f %9.4f\n", names[way], copy[rounds / 2], ratios[rounds / 2], ratios[rounds / 4], ratios[rounds * 3 / 4]);
        free(copy);
    }
    for (int way = 0; way < WAYS; way++) close(clients[way]);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    close(listener);
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    int rounds = argc > 1 ? atoi(argv[1]) : 2000;
    if (rounds < 4) return fprintf(stderr, "usage: overhead [ROUNDS]\n"), 2;
    measure(64, rounds);
    measure(LARGEST, rounds);
    return 0;
}
