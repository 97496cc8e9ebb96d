// The client: sends random bytes in pieces of random length over several connections, and checks each byte that comes back.

#include "logged.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WINDOW 65536

struct connection {
    int fd;
    uint64_t random, sent, received, mismatch; // mismatch: the position of the first wrong byte, plus one
    struct cipher cipher;
    unsigned char expected[WINDOW]; // the answers that are under way, by position
    const char *error;
};

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
}

static int reach(const char *text, const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    inet_pton(AF_INET, text, &address.sin_addr);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? -1 : fd;
}

/// Mostly small messages, some large ones.
static void say(struct connection *c, uint64_t limit) {
    size_t room = WINDOW - (size_t)(c->sent - c->received);
    uint64_t random = next_random(&c->random);
    size_t length = 1 + (random >> 8) % (random % 8 == 0 ? 40000 : 600);
    if (room < length || c->sent + length > limit) return;
    unsigned char bytes[40001], answered[40001];
    for (size_t i = 0; i < length; i++) bytes[i] = (unsigned char)next_random(&c->random);
    // What the kernel does not take now was never said: the random numbers are used up all the same.
    ssize_t sent = send(c->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) c->error = strerror(errno);
        return;
    }
    answer(&c->cipher, bytes, answered, (size_t)sent);
    for (ssize_t i = 0; i < sent; i++) c->expected[(c->sent + (uint64_t)i) % WINDOW] = answered[i];
    c->sent += (uint64_t)sent;
}

static void hear(struct connection *c) {
    unsigned char bytes[65536];
    ssize_t count = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
        c->error = count < 0 ? strerror(errno) : "closed";
        return;
    }
    for (ssize_t i = 0; i < count; i++, c->received++) {
        if (c->mismatch) continue;
        if (c->received >= c->sent || bytes[i] != c->expected[c->received % WINDOW]) c->mismatch = c->received + 1;
    }
}

int ask(const char *address, const char *port, int count, uint64_t seed, uint64_t limit) {
    struct connection *all = calloc((size_t)count, sizeof *all);
    struct pollfd *entries = calloc((size_t)count + 1, sizeof *entries);
    for (int i = 0; i < count; i++) {
        all[i].fd = reach(address, port);
        all[i].random = seed * 1000003 + (uint64_t)i + 1;
        if (all[i].fd < 0) return perror("connect"), 1;
    }
    printf("connected %d\n", count);
    fflush(stdout);
    bool running = true;
    uint64_t last = now(), gap = 0, stopped = 0;
    for (bool waits = true; running || waits;) {
        waits = false;
        for (int i = 0; i < count; i++) {
            if (running && !all[i].error) say(&all[i], limit);
            entries[i] = (struct pollfd){.fd = all[i].error ? -1 : all[i].fd, .events = POLLIN};
            waits |= !all[i].error && all[i].received < all[i].sent;
        }
        entries[count] = (struct pollfd){.fd = running ? 0 : -1, .events = POLLIN};
        poll(entries, (nfds_t)count + 1, 20);
        for (int i = 0; i < count; i++) {
            if (!entries[i].revents) continue;
            hear(&all[i]);
            if (now() - last > gap) gap = now() - last;
            last = now();
        }
        if (running && entries[count].revents) {
            char line[16];
            running = read(0, line, sizeof line) > 0 && line[0] != 's';
            stopped = now();
        }
        if (!running && now() - stopped > 15000000) break;
        usleep(200);
    }
    uint64_t sent = 0, received = 0, mismatch = 0;
    const char *error = "";
    int failed = 0;
    for (int i = 0; i < count; i++) {
        sent += all[i].sent;
        received += all[i].received;
        if (all[i].mismatch) mismatch = all[i].mismatch;
        if (all[i].error) error = all[i].error;
        failed += all[i].error != NULL;
    }
    printf("{\"sent\": %llu, \"received\": %llu, \"mismatch\": %llu, \"failed\": %d, \"error\": \"%s\", \"gap_ms\": %.1f}\n", (unsigned long long)sent,
           (unsigned long long)received, (unsigned long long)mismatch, failed, error, (double)gap / 1000);
    return 0;
}
