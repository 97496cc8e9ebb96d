// The front: between the client and the worker, it understands lines in one direction and nothing in the other.

#include "fileserver.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/// The session is over, for all three: the others see the ends of their channels.
static void end(struct session *session) {
    unlink(session->state_path);
    exit(0);
}

static void read_requests(struct session *session) {
    struct state *state = session->state;
    ssize_t count = read_channel(session->tcp, state->front.in + state->front.length, sizeof state->front.in - state->front.length, MSG_DONTWAIT);
    if (count > 0)
        state->front.length += (uint32_t)count;
    else if (count == 0)
        state->front.ended = 1;
    else if (errno != EAGAIN)
        end(session);
}

/// Gives the worker the lines that are complete, as one message each.
static void pass_requests(struct session *session) {
    struct state *state = session->state;
    char *line = state->front.in, *newline;
    while ((newline = memchr(line + state->front.used, '\n', state->front.length - state->front.used))) {
        size_t length = (size_t)(newline - line) - state->front.used;
        // An empty message would look like the end.
        const char *request = length ? line + state->front.used : " ";
        if (write_channel(session->to_worker, request, length ? length : 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
            if (errno != EAGAIN)
                end(session);
            break;
        }
        state->front.used += (uint32_t)length + 1;
    }
    memmove(line, line + state->front.used, state->front.length - state->front.used);
    state->front.length -= state->front.used;
    state->front.used = 0;
    if (state->front.length == sizeof state->front.in && !newline && !memchr(line, '\n', state->front.length))
        end(session); // no request is that long
    // The worker sees the end when it has answered everything.
    if (state->front.ended && !memchr(line, '\n', state->front.length))
        shutdown(session->to_worker, SHUT_WR);
}

static void pass_answers(struct session *session) {
    struct state *state = session->state;
    if (state->front.out_length == 0) {
        ssize_t count = read_channel(session->to_worker, state->front.out, sizeof state->front.out, MSG_DONTWAIT);
        if (count == 0 || (count < 0 && errno != EAGAIN))
            end(session);
        if (count < 0)
            return;
        state->front.out_length = (uint32_t)count;
        state->front.out_sent = 0;
    }
    ssize_t sent = write_channel(
        session->tcp, state->front.out + state->front.out_sent, state->front.out_length - state->front.out_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        end(session);
    if (sent > 0 && (state->front.out_sent += (uint32_t)sent) == state->front.out_length)
        state->front.out_length = 0;
}

void run_front(struct session *session) {
    struct state *state = session->state;
    expect_parking("front", session);
    for (;;) {
        int has_line = memchr(state->front.in, '\n', state->front.length) != NULL;
        int is_full = state->front.length == sizeof state->front.in;
        wait_for(
            session->tcp, (short)((is_full || state->front.ended ? 0 : POLLIN) | (state->front.out_length ? POLLOUT : 0)), session->to_worker,
            (short)((state->front.out_length ? 0 : POLLIN) | (has_line ? POLLOUT : 0)), -1);
        if (!is_full && !state->front.ended)
            read_requests(session);
        pass_requests(session);
        pass_answers(session);
    }
}
