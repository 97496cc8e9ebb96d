// The loop of sc-stream: sends computed content on every connection, verifies every byte that arrives, and times the gaps between them.
#include "csupport.h"
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 65536 };

static volatile sig_atomic_t stopped, ending, asked;

static void stop(int signal) {
    (void)signal;
    stopped = 1;
}

static void ask(int signal) {
    (void)signal;
    asked = 1;
}

/// SIGUSR1: the client ends as if its time were over.
static void end(int signal) {
    (void)signal;
    ending = 1;
}

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/// The two directions of a seed are different contents.
static uint64_t direction(const struct options *options, int from_server) {
    return options->seed * 2 + (uint64_t)from_server;
}

/// How many bytes the pace allows by now, counted from the start of this process.
static uint64_t allowance(const struct options *options, uint64_t elapsed_ns) {
    if (options->period_us)
        return (elapsed_ns / (options->period_us * 1000) + 1) * options->chunk;
    if (options->rate)
        return (uint64_t)((double)elapsed_ns * (double)options->rate / 1e9) + 1;
    return UINT64_MAX;
}

static void fail(struct connection *connection, const char *call) {
    connection->failed = call;
    connection->error = errno;
    connection->sending_over = connection->receiving_over = 1;
}

/// Sends up to `limit` bytes of content.
static void send_some(enum role role, const struct options *options, struct connection *connection, uint64_t limit) {
    static unsigned char buffer[BUFFER];
    size_t length = limit < BUFFER ? (size_t)limit : BUFFER;
    csupport_content(direction(options, role == SERVER), connection->sent, buffer, length);
    if (options->corrupt_at >= (int64_t)connection->sent && options->corrupt_at < (int64_t)(connection->sent + length))
        buffer[options->corrupt_at - (int64_t)connection->sent] ^= 1;
    ssize_t count = send(connection->fd, buffer, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count > 0)
        connection->sent += (uint64_t)count;
    else if (count < 0 && errno != EAGAIN && errno != EINTR)
        fail(connection, "send");
}

static void receive_some(enum role role, const struct options *options, struct connection *connection, uint64_t start_ns) {
    static unsigned char buffer[BUFFER];
    ssize_t count = recv(connection->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (count < 0) {
        if (errno != EAGAIN && errno != EINTR)
            fail(connection, "recv");
        return;
    }
    if (count == 0) {
        connection->receiving_over = 1;
        return;
    }
    uint64_t now = now_ns();
    if (connection->last_byte_ns && now - connection->last_byte_ns > connection->largest_gap_ns) {
        connection->largest_gap_ns = now - connection->last_byte_ns;
        connection->gap_at_ns = connection->last_byte_ns - start_ns;
    }
    if (connection->last_byte_ns && now - connection->last_byte_ns > connection->recent_gap_ns)
        connection->recent_gap_ns = now - connection->last_byte_ns;
    connection->last_byte_ns = now;
    if (connection->mismatch < 0)
        connection->mismatch =
            csupport_content_mismatch(direction(options, role == CLIENT), connection->received, buffer, (size_t)count);
    connection->received += (uint64_t)count;
}

/// The client ends a connection after its time or its bytes; the server when the client has ended.
static int is_time_to_end(enum role role, const struct options *options, const struct connection *connection, uint64_t elapsed_ns) {
    if (role == SERVER)
        return connection->receiving_over;
    if (ending)
        return 1;
    if (options->seconds > 0 && (double)elapsed_ns >= options->seconds * 1e9)
        return 1;
    return options->bytes && connection->sent >= options->bytes && (options->no_read || connection->received >= options->bytes);
}

void prompt(const struct options *options, int fd) {
    int on = 1;
    if (options->period_us)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/// Accepts one connection into the next place and writes the state file at the first. Returns the new count.
static int accept_one(const struct options *options, struct connection *connections, int count, int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return count;
    connections[count] = (struct connection){.fd = fd, .mismatch = -1};
    prompt(options, fd);
    if (count == 0 && options->state && write_state(options, options->state) < 0)
        fail(&connections[count], "state file");
    return count + 1;
}

/// Decides what this connection waits for; its end is noticed here. Returns poll events, 0 when it is over.
static short wanted(enum role role, const struct options *options, struct connection *connection, uint64_t elapsed_ns, uint64_t *limit) {
    if (!connection->sending_over && is_time_to_end(role, options, connection, elapsed_ns)) {
        connection->sending_over = 1;
        if (shutdown(connection->fd, SHUT_WR) < 0 && errno != ENOTCONN)
            fail(connection, "shutdown");
    }
    short events = 0;
    *limit = 0;
    if (!connection->sending_over) {
        uint64_t allowed = allowance(options, elapsed_ns), done = connection->sent - connection->base_sent;
        *limit = allowed > done ? allowed - done : 0;
        if (role == CLIENT && options->bytes && options->bytes - connection->sent < *limit)
            *limit = options->bytes - connection->sent;
        if (*limit)
            events |= POLLOUT;
    }
    if (!connection->receiving_over && (!options->no_read || connection->sending_over))
        events |= POLLIN;
    return events;
}

/// SIGUSR2: print the largest gap in microseconds since the last such signal.
static void report_gap(struct connection *connections, int count) {
    uint64_t gap = 0;
    for (int i = 0; i < count; i++) {
        if (connections[i].recent_gap_ns > gap)
            gap = connections[i].recent_gap_ns;
        connections[i].recent_gap_ns = 0;
    }
    printf("gap %llu\n", (unsigned long long)gap / 1000);
    fflush(stdout);
    asked = 0;
}

int serve(enum role role, const struct options *options, struct connection *connections, int count, int listener) {
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR2, &(struct sigaction){.sa_handler = ask}, NULL);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = end}, NULL);
    int capacity = listener >= 0 ? (int)options->connections : count;
    struct pollfd *fds = calloc((size_t)capacity + 1, sizeof *fds);
    uint64_t *limits = calloc((size_t)capacity + 1, sizeof *limits);
    uint64_t start = now_ns();
    int paced = options->rate || options->period_us, more = 1;
    while (more && !stopped) {
        uint64_t elapsed = now_ns() - start;
        int blocked_by_pace = 0;
        if (asked)
            report_gap(connections, count);
        more = 0;
        for (int i = 0; i < count; i++) {
            fds[i] = (struct pollfd){connections[i].fd, wanted(role, options, &connections[i], elapsed, &limits[i]), 0};
            if (connections[i].sending_over && connections[i].receiving_over)
                fds[i].fd = -1;
            else
                more = 1;
            blocked_by_pace |= !connections[i].sending_over && paced;
        }
        fds[count] = (struct pollfd){count < capacity ? listener : -1, POLLIN, 0};
        more |= listener >= 0 && count < capacity;
        if (!more)
            break;
        // 1 ms is fine enough for a rate, a tick may be shorter; a client with a time limit must also notice its end.
        uint64_t pause = !blocked_by_pace ? 20000 : options->period_us && options->period_us < 1000 ? options->period_us : 1000;
        struct timespec timeout = {0, (long)pause * 1000};
        if (ppoll(fds, (nfds_t)count + 1, &timeout, NULL) < 0)
            continue;
        for (int i = 0; i < count; i++) {
            if (fds[i].fd < 0)
                continue;
            if (fds[i].revents & (POLLIN | POLLHUP | POLLERR) && (fds[i].events & POLLIN || fds[i].revents & POLLERR))
                receive_some(role, options, &connections[i], start);
            if (fds[i].revents & POLLOUT && !connections[i].sending_over && limits[i])
                send_some(role, options, &connections[i], limits[i]);
        }
        if (fds[count].revents & POLLIN)
            count = accept_one(options, connections, count, listener);
    }
    free(fds);
    free(limits);
    return !more;
}
