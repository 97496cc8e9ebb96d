// sc-stream: a two-way stream in which both ends verify every byte, as client, as server, or as the server that adopts a moved connection.
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static const char usage[] =
    "usage: sc-stream client ADDRESS PORT [--seconds S | --bytes N] [options]\n"
    "       sc-stream server ADDRESS PORT [--state FILE] [options]\n"
    "       sc-stream adopt\n"
    "       sc-stream accept SOCKET\n"
    "options: --seed N --connections N --rate BYTES_PER_S --period-us P --chunk BYTES --no-read --corrupt-at OFFSET\n"
    "Byte n of a direction is a function of seed, direction and n. The client ends (after S seconds, when N bytes went each\n"
    "way, or at SIGUSR1) by shutting down its side, then the server does. At SIGUSR2 it prints \"gap US\". Each end prints one JSON document. adopt serves the descriptors 3...\n"
    "(LISTEN_FDS) with the options in the file SC_STATE_FILE; how far the server had come is in SC_CHANNEL_WRITTEN and\n"
    "SC_CHANNEL_READ, comma separated in their order.\n"
    "Example: sc-stream server 127.0.0.1 9000 --seed 7 & sc-stream client 127.0.0.1 9000 --seed 7 --seconds 2\n";

static void die(const char *what) {
    fprintf(stderr, "sc-stream: %s: %s\n", what, strerror(errno));
    exit(1);
}

/// A connected or listening socket.
static int open_socket(enum role role, const char *address, const char *port) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;
    int error = getaddrinfo(address, port, &hints, &found);
    if (error) {
        fprintf(stderr, "sc-stream: %s port %s: %s\n", address, port, gai_strerror(error));
        exit(2);
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0)
        die("socket");
    if (role == CLIENT) {
        if (connect(fd, found->ai_addr, found->ai_addrlen) < 0)
            die("connect");
    } else {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        if (bind(fd, found->ai_addr, found->ai_addrlen) < 0)
            die("bind");
        if (listen(fd, 4096) < 0)
            die("listen");
        fprintf(stderr, "listening\n");
    }
    freeaddrinfo(found);
    return fd;
}

/// The `index`th number of a comma separated environment variable.
static uint64_t number_at(const char *variable, int index) {
    const char *text = getenv(variable);
    for (int i = 0; text && i < index; i++) {
        text = strchr(text, ',');
        if (text)
            text++;
    }
    if (!text) {
        fprintf(stderr, "sc-stream: %s does not say where channel %d stands\n", variable, index);
        exit(2);
    }
    return strtoull(text, NULL, 10);
}

/// Fills the connections from the descriptors that were handed over. Returns how many.
static int adopt(struct options *options, struct connection **connections) {
    const char *fds = getenv("LISTEN_FDS"), *pid = getenv("LISTEN_PID"), *state = getenv("SC_STATE_FILE");
    int count = fds ? atoi(fds) : 0;
    if (count < 1 || (pid && atoi(pid) != getpid()) || !state) {
        fprintf(stderr, "sc-stream: adopt needs LISTEN_FDS, for this process, and SC_STATE_FILE\n");
        exit(2);
    }
    if (read_state(options, state) < 0)
        die(state);
    *connections = calloc((size_t)count, sizeof **connections);
    for (int i = 0; i < count; i++) {
        uint64_t written = number_at("SC_CHANNEL_WRITTEN", i), read = number_at("SC_CHANNEL_READ", i);
        (*connections)[i] = (struct connection){.fd = 3 + i, .sent = written, .base_sent = written, .received = read, .mismatch = -1};
    }
    fprintf(stderr, "adopted\n");
    return count;
}

int main(int argc, char **argv) {
    struct options options = {.chunk = 64, .connections = 1, .corrupt_at = -1};
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    struct connection *connections;
    if (argc == 2 && strcmp(argv[1], "adopt") == 0) {
        int count = adopt(&options, &connections);
        int complete = serve(SERVER, &options, connections, count, -1);
        return report(stdout, "adopt", connections, count, complete);
    }
    if (argc == 3 && strcmp(argv[1], "accept") == 0)
        return accept_sessions(argv[2]);
    enum role role = argc >= 4 && strcmp(argv[1], "client") == 0 ? CLIENT : SERVER;
    if (argc < 4 || (role == SERVER && strcmp(argv[1], "server") != 0)) {
        fputs(usage, stderr);
        return 2;
    }
    for (int i = 4; i < argc; i++) {
        int taken = strncmp(argv[i], "--", 2) == 0 ? set_option(&options, argv[i] + 2, i + 1 < argc ? argv[i + 1] : NULL) : 0;
        if (!taken) {
            fprintf(stderr, "sc-stream: %s: unknown option, or its value is missing\n", argv[i]);
            return 2;
        }
        i += taken == 1;
    }
    int count = (int)options.connections, complete;
    connections = calloc((size_t)count, sizeof *connections);
    if (role == CLIENT) {
        for (int i = 0; i < count; i++) {
            connections[i] = (struct connection){.fd = open_socket(CLIENT, argv[2], argv[3]), .mismatch = -1};
            prompt(&options, connections[i].fd);
        }
        complete = serve(CLIENT, &options, connections, count, -1);
    } else {
        for (int i = 0; i < count; i++)
            connections[i] = (struct connection){.fd = -1, .mismatch = -1, .sending_over = 1, .receiving_over = 1};
        complete = serve(SERVER, &options, connections, 0, open_socket(SERVER, argv[2], argv[3]));
    }
    return report(stdout, argv[1], connections, count, complete);
}
