// The parts of sc-hold: the connections it keeps, and the commands that act on them.
#pragma once

#include <stdint.h>

/// One kept connection.
struct held {
    int fd;                  // -1 once closed
    uint64_t sent, received; // since the connection began
};

/// All of them.
struct holder {
    struct held *connections;
    int count;
    int is_server; // which of the two contents `fill` sends
};

/// Remembers a descriptor and returns its index.
int hold(struct holder *holder, int fd, uint64_t sent, uint64_t received);

/// Carries out one command line and prints its answer as one line of JSON. Returns 0 when the program shall end.
int command(struct holder *holder, char *line);
