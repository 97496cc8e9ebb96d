// The logger: writes complete lines into the log.

#include "fileserver.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void run_logger(struct session *session) {
    struct state *state = session->state;
    expect_parking("logger", session);
    for (;;) {
        wait_for(session->lines, POLLIN, -1, 0, -1);
        // A slow logger takes one line at a time, and the rest waits in the pipe.
        size_t room = session->slow ? 1 : sizeof state->logger.line - state->logger.length;
        ssize_t count = read_channel(session->lines, state->logger.line + state->logger.length, room, 0);
        if (count == 0)
            exit(0);
        if (count < 0)
            continue;
        state->logger.length += (uint32_t)count;
        char *newline = memrchr(state->logger.line, '\n', state->logger.length);
        if (!newline)
            continue;
        size_t length = (size_t)(newline + 1 - state->logger.line);
        if (write(session->log_file, state->logger.line, length) < 0)
            exit(1);
        state->logger.length -= (uint32_t)length;
        memmove(state->logger.line, newline + 1, state->logger.length);
        // Nobody keeps a log of the file: what was written since the last export, a successor would write again.
        is_whole();
        if (session->slow)
            wait_for(-1, 0, -1, 0, session->slow);
    }
}
