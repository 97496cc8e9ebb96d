// The worker: opens what is asked for and sends it, piece by piece; the open file and its position move with the session.

#include "fileserver.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void take_request(struct session *session) {
    struct state *state = session->state;
    char line[LINE + 1];
    ssize_t length = read_channel(session->to_front, line, LINE, MSG_DONTWAIT);
    if (length < 0 && errno == EAGAIN)
        return;
    if (length <= 0)
        exit(0);
    line[length] = '\0';
    state->worker.requests++;
    char *name = strncmp(line, "GET ", 4) == 0 && !strchr(line, '/') ? line + 4 : "";
    snprintf(state->worker.name, LINE, "%s", *name ? name : "-");
    struct stat stat;
    session->file = *name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (session->file < 0 || fstat(session->file, &stat) < 0 || !S_ISREG(stat.st_mode)) {
        state->worker.size = 0;
        state->worker.out_length = (uint32_t)snprintf(state->worker.out, CHUNK, "ERR %s\n", *name ? strerror(errno) : "GET NAME is expected");
        return;
    }
    state->worker.size = (uint64_t)stat.st_size;
    state->worker.out_length = (uint32_t)snprintf(state->worker.out, CHUNK, "OK %llu\n", (unsigned long long)stat.st_size);
}

static void send_out(struct session *session) {
    struct state *state = session->state;
    if (write_channel(session->to_front, state->worker.out, state->worker.out_length, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        state->worker.out_length = 0;
    else if (errno != EAGAIN)
        exit(0);
}

static void read_file(struct session *session) {
    struct state *state = session->state;
    ssize_t count = read(session->file, state->worker.out, CHUNK);
    if (count > 0) {
        state->worker.out_length = (uint32_t)count;
        return;
    }
    close(session->file);
    session->file = -1;
}

/// A line is shorter than PIPE_BUF, so the pipe takes all of it or nothing (pipe(7)).
static void write_line(struct session *session) {
    struct state *state = session->state;
    if (write_channel(session->log, state->worker.line, state->worker.line_length, 0) >= 0)
        state->worker.line_length = 0;
    else if (errno != EAGAIN)
        exit(0);
}

void run_worker(struct session *session) {
    struct state *state = session->state;
    expect_parking("worker", session);
    for (;;) {
        int is_idle = !state->worker.out_length && !state->worker.line_length && session->file < 0 && !*state->worker.name;
        int is_reading = !state->worker.out_length && session->file >= 0;
        wait_for(
            session->to_front, (short)((is_idle ? POLLIN : 0) | (state->worker.out_length ? POLLOUT : 0)), session->log,
            (short)(state->worker.line_length ? POLLOUT : 0), is_reading ? 0 : -1);
        if (is_idle)
            take_request(session);
        if (state->worker.out_length)
            send_out(session);
        if (!state->worker.out_length && session->file >= 0)
            read_file(session);
        if (!state->worker.out_length && session->file < 0 && *state->worker.name) {
            state->worker.line_length = (uint32_t)snprintf(
                state->worker.line, LINE, "%llu %s %llu\n", (unsigned long long)state->worker.requests, state->worker.name,
                (unsigned long long)state->worker.size);
            *state->worker.name = '\0';
        }
        if (state->worker.line_length)
            write_line(session);
    }
}
