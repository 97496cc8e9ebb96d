// What libsc costs a server: round trips over loopback, in pairs of short rounds with and without it.
//
//   overhead [ROUNDS [echo | files]]     default 2000 rounds of 2 ms for each way and size
//
// One server process has a connection for each way; the client uses them in turn, in an order that changes. So the ways share the moment, the processes
// and the cores, and the ratio of two neighbouring rounds says what one costs more. The control is the plain way against itself.
//
// Where a process's pages lie in the caches is drawn once, and favours or hinders one way by some percent for as long as it lives, which no number of
// rounds averages out. So the rounds are shared among several servers; the last two columns are the lowest and the highest median of one.

#include "overhead.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/// Servers that share the rounds.
#define SERVERS 10

sc_t *lasting, *passing;

void expect(int is_right) {
    if (!is_right) exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void serve(const struct comparison *comparison, struct session *sessions) {
    int loop = epoll_create1(0);
    expect(sc_open("overhead", 1, NULL, NULL, SC_SURVIVE, &lasting) == 0 && sc_open("overhead", 1, NULL, NULL, 0, &passing) == 0);
    for (int i = 0; i < comparison->ways; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &sessions[i]};
        epoll_ctl(loop, EPOLL_CTL_ADD, sessions[i].fd, &event);
        comparison->begin(&sessions[i]);
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(loop, EPOLL_CTL_ADD, sc_fd(lasting), &event);
    epoll_ctl(loop, EPOLL_CTL_ADD, sc_fd(passing), &event);
    for (;;) {
        if (epoll_wait(loop, &event, 1, -1) < 1) continue;
        if (event.data.ptr == NULL) {
            sc_dispatch(lasting);
            sc_dispatch(passing);
        } else if (comparison->serve(event.data.ptr) == 0) {
            exit(0);
        }
    }
}

/// Round trips for 2 ms; the time of one in microseconds.
static double round_trips(int fd, const struct comparison *comparison) {
    static unsigned char bytes[LARGEST];
    double start = now(), end = start;
    int count = 0;
    for (; end - start < 0.002; count++, end = now()) {
        for (size_t done = 0; done < comparison->request;) {
            ssize_t sent = send(fd, bytes + done, comparison->request - done, 0);
            expect(sent > 0);
            done += (size_t)sent;
        }
        for (size_t left = comparison->answer; left > 0;) {
            ssize_t got = recv(fd, bytes, left < sizeof bytes ? left : sizeof bytes, 0);
            expect(got > 0);
            left -= (size_t)got;
        }
    }
    return (end - start) / count * 1e6;
}

static int in_order(const void *one, const void *other) {
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

static int connected(int listener, const struct sockaddr_in *address, int *server) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    expect(connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 && (*server = accept(listener, NULL, NULL)) >= 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(*server, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static void print(const struct comparison *comparison, double *const *times, int rounds) {
    printf("\n%s, %d rounds, round trips in us; ratio to the plain way in the same round\n%-40s %9s %9s %9s %9s %9s %9s\n", comparison->title, rounds,
           "", "median us", "ratio", "25 %", "75 %", "lowest", "highest");
    double *ratios = calloc((size_t)rounds, sizeof *ratios), *sorted = calloc((size_t)rounds, sizeof *sorted);
    for (int way = 0; way < comparison->ways; way++) {
        for (int round = 0; round < rounds; round++) ratios[round] = times[way][round] / times[comparison->against[way]][round];
        double lowest = 1e9, highest = 0;
        int each = rounds / SERVERS;
        for (int server = 0; server < SERVERS; server++) {
            qsort(ratios + server * each, (size_t)each, sizeof *ratios, in_order);
            double median = ratios[server * each + each / 2];
            lowest = median < lowest ? median : lowest;
            highest = median > highest ? median : highest;
        }
        qsort(ratios, (size_t)rounds, sizeof *ratios, in_order);
        memcpy(sorted, times[way], (size_t)rounds * sizeof *sorted);
        qsort(sorted, (size_t)rounds, sizeof *sorted, in_order);
        printf("%-40s %9.2f %9.4f %9.4f %9.4f %9.4f %9.4f\n", comparison->names[way], sorted[rounds / 2], ratios[rounds / 2], ratios[rounds / 4],
               ratios[rounds * 3 / 4], lowest, highest);
    }
    free(ratios);
    free(sorted);
}

/// The rounds of one server, whose first is `times[way][first]`.
static void measure_server(const struct comparison *comparison, double *const *times, int first, int rounds) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int ways = comparison->ways, listener = socket(AF_INET, SOCK_STREAM, 0), clients[MOST_WAYS];
    expect(bind(listener, (struct sockaddr *)&address, length) == 0 && listen(listener, ways) == 0);
    getsockname(listener, (struct sockaddr *)&address, &length);
    struct session sessions[MOST_WAYS] = {0};
    for (int way = 0; way < ways; way++) {
        clients[way] = connected(listener, &address, &sessions[way].fd);
        sessions[way].way = way;
    }
    fflush(stdout);
    pid_t server = fork();
    if (server == 0) {
        for (int way = 0; way < ways; way++) close(clients[way]);
        serve(comparison, sessions);
    }
    for (int round = -5; round < rounds; round++)
        for (int i = 0; i < ways; i++) {
            // To and fro, and beginning elsewhere each time.
            int step = round & 1 ? ways - 1 - i : i, way = (step + (round + 5) / 2) % ways;
            double time = round_trips(clients[way], comparison);
            if (round >= 0) times[way][first + round] = time;
        }
    for (int way = 0; way < ways; way++) {
        close(clients[way]);
        close(sessions[way].fd);
    }
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    close(listener);
}

void measure(const struct comparison *comparison, int rounds) {
    int each = rounds / SERVERS;
    double *times[MOST_WAYS];
    for (int way = 0; way < comparison->ways; way++) times[way] = calloc((size_t)rounds, sizeof **times);
    for (int server = 0; server < SERVERS; server++) measure_server(comparison, times, server * each, each);
    print(comparison, times, each * SERVERS);
    for (int way = 0; way < comparison->ways; way++) free(times[way]);
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    int rounds = argc > 1 ? atoi(argv[1]) : 2000;
    const char *only = argc > 2 ? argv[2] : "";
    if (rounds < SERVERS || argc > 3 || (*only && strcmp(only, "echo") && strcmp(only, "files")))
        return fprintf(stderr, "usage: overhead [ROUNDS [echo | files]]\n"), 2;
    if (strcmp(only, "files")) {
        compare_echo(64, rounds);
        compare_echo(LARGEST, rounds);
    }
    if (strcmp(only, "echo")) {
        compare_files(4096, rounds);
        compare_files(1 << 20, rounds);
    }
    return 0;
}
