// sc-hold: opens, accepts or adopts connections, keeps them, and acts on them as the lines of its standard input say.
#include "hold.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static const char usage[] =
    "usage: sc-hold client ADDRESS PORT COUNT\n"
    "       sc-hold server ADDRESS PORT [--echo]     (with --echo every byte is sent back)\n"
    "       sc-hold adopt [--echo]                   (the descriptors 3... of LISTEN_FDS)\n"
    "commands, I is an index or all; each is answered by one line of JSON:\n"
    "  ping I     send 8 bytes and wait for their echo      fill I     send until the connection takes no more for 300 ms\n"
    "  write I T  send the text T                           drain I    read what fill sent until nothing comes for 300 ms, verify it\n"
    "  read I N   read N bytes, or to the end               shutwr I   shut down the writing side\n"
    "  state I    TCP state and queued bytes                close I, reset I   close, close with RST\n"
    "  count      how many connections there are            quit\n"
    "Example: sc-hold server 127.0.0.1 9000 --echo & echo 'ping all' | sc-hold client 127.0.0.1 9000 100\n";

enum { STDIN_TAG = -1, LISTENER_TAG = -2 };

static void watch(int epoll, int fd, int tag) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = tag};
    // A regular file as standard input cannot be watched; see the caller.
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 && errno != EPERM) {
        perror("sc-hold: epoll_ctl");
        exit(1);
    }
}

static int open_socket(const char *address, const char *port, int is_server) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;
    int error = getaddrinfo(address, port, &hints, &found);
    if (error) {
        fprintf(stderr, "sc-hold: %s port %s: %s\n", address, port, gai_strerror(error));
        exit(2);
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    if (is_server)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (is_server ? bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, 4096) < 0
                  : connect(fd, found->ai_addr, found->ai_addrlen) < 0) {
        perror(is_server ? "sc-hold: bind" : "sc-hold: connect");
        exit(1);
    }
    freeaddrinfo(found);
    return fd;
}

/// Sends back what has arrived. The end of the peer's stream only ends the watching, so that the connection stays half closed.
static void echo(struct holder *holder, int index, int epoll) {
    struct held *held = &holder->connections[index];
    char buffer[65536];
    ssize_t count = recv(held->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (count > 0) {
        held->received += (uint64_t)count;
        ssize_t sent = send(held->fd, buffer, (size_t)count, MSG_NOSIGNAL);
        held->sent += sent > 0 ? (uint64_t)sent : 0;
    } else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
        epoll_ctl(epoll, EPOLL_CTL_DEL, held->fd, NULL);
    }
}

/// Reads complete lines from standard input. Returns 0 when the program shall end; an end of input only ends the commands.
static int read_commands(struct holder *holder, int epoll) {
    static char buffer[65536];
    static size_t length;
    ssize_t count = read(0, buffer + length, sizeof buffer - length);
    if (count <= 0) {
        epoll_ctl(epoll, EPOLL_CTL_DEL, 0, NULL);
        return 1;
    }
    length += (size_t)count;
    char *newline;
    while ((newline = memchr(buffer, '\n', length))) {
        *newline = 0;
        if (!command(holder, buffer))
            return 0;
        length -= (size_t)(newline + 1 - buffer);
        memmove(buffer, newline + 1, length);
    }
    return 1;
}

/// The `index`th number of a comma separated environment variable, 0 when it is not there.
static uint64_t number_at(const char *variable, int index) {
    const char *text = getenv(variable);
    for (int i = 0; text && i < index; i++) {
        text = strchr(text, ',');
        text = text ? text + 1 : NULL;
    }
    return text ? strtoull(text, NULL, 10) : 0;
}

int main(int argc, char **argv) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    setvbuf(stdout, NULL, _IOLBF, 0);

    const char *role = argc > 1 ? argv[1] : "";
    int is_client = argc == 5 && strcmp(role, "client") == 0, is_server = argc >= 4 && strcmp(role, "server") == 0;
    int is_adopter = argc >= 2 && strcmp(role, "adopt") == 0, echoes = strcmp(argv[argc - 1], "--echo") == 0;
    if (!is_client && !is_server && !is_adopter) {
        fputs(usage, stderr);
        return 2;
    }
    struct holder holder = {.is_server = !is_client};
    int epoll = epoll_create1(EPOLL_CLOEXEC), listener = -1, going = 1;
    if (is_client) {
        for (int i = 0; i < atoi(argv[4]); i++)
            hold(&holder, open_socket(argv[2], argv[3], 0), 0, 0);
        fprintf(stderr, "connected\n");
    } else if (is_adopter) {
        const char *count = getenv("LISTEN_FDS");
        for (int i = 0; count && i < atoi(count); i++) {
            hold(&holder, 3 + i, number_at("SC_CHANNEL_WRITTEN", i), number_at("SC_CHANNEL_READ", i));
            if (echoes)
                watch(epoll, 3 + i, i);
        }
        fprintf(stderr, "adopted\n");
    } else {
        listener = open_socket(argv[2], argv[3], 1);
        watch(epoll, listener, LISTENER_TAG);
        fprintf(stderr, "listening\n");
    }
    watch(epoll, 0, STDIN_TAG);
    while (going) {
        struct epoll_event events[256];
        int count = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < count && going; i++) {
            int tag = events[i].data.fd;
            if (tag == STDIN_TAG) {
                going = read_commands(&holder, epoll);
            } else if (tag == LISTENER_TAG) {
                int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                int index = fd >= 0 ? hold(&holder, fd, 0, 0) : -1;
                if (fd >= 0 && echoes)
                    watch(epoll, fd, index);
            } else {
                echo(&holder, tag, epoll);
            }
        }
    }
    return 0;
}
