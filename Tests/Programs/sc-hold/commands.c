// The commands of sc-hold. Each answers with one line of JSON that names the command and what came of it.
#include "csupport.h"
#include "hold.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_us(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}

int hold(struct holder *holder, int fd, uint64_t sent, uint64_t received) {
    if ((holder->count & (holder->count - 1)) == 0) {
        size_t capacity = holder->count ? (size_t)holder->count * 2 : 1;
        holder->connections = realloc(holder->connections, capacity * sizeof *holder->connections);
        if (!holder->connections)
            abort();
    }
    holder->connections[holder->count] = (struct held){fd, sent, received};
    return holder->count++;
}

static int wait_for(int fd, short events, int timeout_ms) {
    struct pollfd poller = {fd, events, 0};
    return poll(&poller, 1, timeout_ms) > 0;
}

/// Reads exactly `length` bytes within 5 s. Returns how many came before the end; *ended: 1 end of stream, 2 time over, 3 error (errno).
static size_t read_fully(struct held *held, void *out, size_t length, int *ended) {
    size_t done = 0;
    *ended = 0;
    while (done < length && !*ended) {
        if (!wait_for(held->fd, POLLIN, 5000)) {
            *ended = 2;
            break;
        }
        ssize_t count = recv(held->fd, (char *)out + done, length - done, 0);
        if (count > 0)
            done += (size_t)count;
        else
            *ended = count == 0 ? 1 : 3;
    }
    held->received += done;
    return done;
}

static int write_fully(struct held *held, const void *bytes, size_t length) {
    ssize_t count = send(held->fd, bytes, length, MSG_NOSIGNAL);
    held->sent += count > 0 ? (uint64_t)count : 0;
    return count == (ssize_t)length;
}

/// Sends to all of the range first, then collects the echoes.
static void ping(struct holder *holder, int first, int last) {
    uint64_t begun = now_us(), slowest = 0;
    int good = 0, failed = 0;
    const char *error = "";
    char token[16], answer[8];
    for (int i = first; i < last; i++) {
        snprintf(token, sizeof token, "p%07d", i % 10000000);
        if (holder->connections[i].fd >= 0 && !write_fully(&holder->connections[i], token, 8))
            error = strerrorname_np(errno);
    }
    for (int i = first; i < last; i++) {
        if (holder->connections[i].fd < 0)
            continue;
        int ended;
        snprintf(token, sizeof token, "p%07d", i % 10000000);
        if (read_fully(&holder->connections[i], answer, 8, &ended) == 8 && memcmp(token, answer, 8) == 0) {
            good++;
        } else {
            failed++;
            error = ended == 1 ? "EOF" : ended == 2 ? "ETIMEDOUT" : ended == 3 ? strerrorname_np(errno) : "wrong content";
        }
        if (now_us() - begun > slowest)
            slowest = now_us() - begun;
    }
    printf("{\"command\":\"ping\",\"good\":%d,\"failed\":%d,\"slowest_us\":%llu,\"error\":\"%s\"}\n", good, failed,
           (unsigned long long)slowest, error);
}

/// Sends content until the socket takes no more for 300 ms.
static void fill(struct holder *holder, struct held *held) {
    static unsigned char buffer[65536];
    uint64_t before = held->sent;
    const char *error = "";
    while (wait_for(held->fd, POLLOUT, 300)) {
        csupport_content(1 + (uint64_t)holder->is_server, held->sent, buffer, sizeof buffer);
        ssize_t count = send(held->fd, buffer, sizeof buffer, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count < 0 && errno != EAGAIN) {
            error = strerrorname_np(errno);
            break;
        }
        held->sent += count > 0 ? (uint64_t)count : 0;
    }
    printf("{\"command\":\"fill\",\"sent\":%llu,\"error\":\"%s\"}\n", (unsigned long long)(held->sent - before), error);
}

/// Reads content until nothing comes for 300 ms and compares it with what the peer's `fill` sends.
static void drain(struct holder *holder, struct held *held) {
    static unsigned char buffer[65536];
    uint64_t before = held->received;
    long long mismatch = -1;
    const char *error = "";
    int eof = 0;
    while (!eof && wait_for(held->fd, POLLIN, 300)) {
        ssize_t count = recv(held->fd, buffer, sizeof buffer, 0);
        if (count < 0) {
            error = strerrorname_np(errno);
            break;
        }
        eof = count == 0;
        if (mismatch < 0)
            mismatch = csupport_content_mismatch(2 - (uint64_t)holder->is_server, held->received, buffer, (size_t)count);
        held->received += (uint64_t)count;
    }
    printf("{\"command\":\"drain\",\"received\":%llu,\"mismatch\":%lld,\"eof\":%s,\"error\":\"%s\"}\n",
           (unsigned long long)(held->received - before), mismatch, eof ? "true" : "false", error);
}

static void read_text(struct held *held, size_t length) {
    char *buffer = malloc(length + 1);
    int ended;
    size_t count = read_fully(held, buffer, length, &ended);
    const char *error = ended == 2 ? "ETIMEDOUT" : ended == 3 ? strerrorname_np(errno) : "";
    printf("{\"command\":\"read\",\"received\":%zu,\"eof\":%s,\"error\":\"%s\",\"text\":\"", count, ended == 1 ? "true" : "false", error);
    for (size_t i = 0; i < count; i++)
        if (buffer[i] < ' ' || buffer[i] > '~' || buffer[i] == '"' || buffer[i] == '\\')
            printf("\\u%04x", (unsigned char)buffer[i]);
        else
            putchar(buffer[i]);
    printf("\"}\n");
    free(buffer);
}

static void state(const struct held *held) {
    static const char *const names[] = {"",           "ESTABLISHED", "SYN_SENT",   "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",
                                        "TIME_WAIT",  "CLOSE",       "CLOSE_WAIT", "LAST_ACK", "LISTEN",    "CLOSING"};
    struct tcp_info info = {0};
    socklen_t length = sizeof info;
    int in = 0, out = 0;
    getsockopt(held->fd, IPPROTO_TCP, TCP_INFO, &info, &length);
    ioctl(held->fd, SIOCINQ, &in);
    ioctl(held->fd, SIOCOUTQ, &out);
    struct sockaddr_in6 local = {0};
    length = sizeof local;
    getsockname(held->fd, (struct sockaddr *)&local, &length);
    printf("{\"command\":\"state\",\"state\":\"%s\",\"inq\":%d,\"outq\":%d,\"sent\":%llu,\"received\":%llu,\"port\":%d}\n",
           names[info.tcpi_state < 12 ? info.tcpi_state : 0], in, out, (unsigned long long)held->sent,
           (unsigned long long)held->received, ntohs(local.sin6_port));
}

/// shutwr, close and reset on each of the range.
static void end(struct holder *holder, const char *name, int first, int last) {
    int done = 0;
    const char *error = "";
    for (int i = first; i < last; i++) {
        struct held *held = &holder->connections[i];
        if (held->fd < 0)
            continue;
        int result;
        if (strcmp(name, "shutwr") == 0) {
            result = shutdown(held->fd, SHUT_WR);
        } else {
            struct linger at_once = {1, 0};
            if (strcmp(name, "reset") == 0)
                setsockopt(held->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
            result = close(held->fd);
            held->fd = -1;
        }
        done += result == 0;
        if (result < 0)
            error = strerrorname_np(errno);
    }
    printf("{\"command\":\"%s\",\"done\":%d,\"error\":\"%s\"}\n", name, done, error);
}

int command(struct holder *holder, char *line) {
    char *rest, *name = strtok_r(line, " ", &rest), *which = name ? strtok_r(NULL, " ", &rest) : NULL;
    if (!name)
        return 1;
    if (strcmp(name, "quit") == 0)
        return 0;
    if (strcmp(name, "count") == 0) {
        printf("{\"command\":\"count\",\"count\":%d}\n", holder->count);
        return 1;
    }
    int all = which && strcmp(which, "all") == 0, first = all || !which ? 0 : atoi(which), last = all ? holder->count : first + 1;
    int one = which && !all && first >= 0 && first < holder->count && holder->connections[first].fd >= 0;
    struct held *held = one ? &holder->connections[first] : NULL;
    if ((all || held) && strcmp(name, "ping") == 0)
        ping(holder, first, last);
    else if ((all || held) && (strcmp(name, "shutwr") == 0 || strcmp(name, "close") == 0 || strcmp(name, "reset") == 0))
        end(holder, name, first, last);
    else if (held && strcmp(name, "fill") == 0)
        fill(holder, held);
    else if (held && strcmp(name, "drain") == 0)
        drain(holder, held);
    else if (held && strcmp(name, "state") == 0)
        state(held);
    else if (held && strcmp(name, "read") == 0)
        read_text(held, strtoul(rest, NULL, 10));
    else if (held && strcmp(name, "write") == 0)
        printf("{\"command\":\"write\",\"done\":%d}\n", write_fully(held, rest, strlen(rest)));
    else
        printf("{\"command\":\"%s\",\"error\":\"no such command or connection\"}\n", name);
    return 1;
}
