// The floor of the benchmark: the same system calls as the engine's, in bare C, with nothing around them.
#pragma once

#include "cproc.h"

struct cfloor_option {
    int level, name;
    uint32_t length;
    int fresh_length; // of a fresh socket's value, or -errno
    uint8_t fresh[16];
};

struct cfloor_state {
    struct cproc_endpoint local, peer;
    struct cproc_tcp_info info;
    struct cproc_window window;
    uint32_t write_seq, rcv_nxt, timestamp;
    int mss_clamp, send_length, receive_length, unsent, reuse, send_buffer, receive_buffer, buffer_lock;
    int differing; // options whose value is not a fresh socket's
    char congestion[16];
    uint8_t *send_queue, *receive_queue; // borrowed from the caller, `capacity` bytes each
    uint32_t capacity;
};

/// Lock, options, dump: as HeldSocket.lock and HeldSocket.dump. 0 or -errno.
int cfloor_dump(int fd, int program, const struct cfloor_option options[], int count, struct cfloor_state *state);
/// As HeldSocket.letGo.
int cfloor_let_go(int fd, const struct cfloor_state *state);
/// As RestoredSocket's rebuild and activate. Returns the new socket, or -errno.
int cfloor_restore(const struct cfloor_state *state);
