// The one place where errno turns into the -errno convention of cproc.h.
#pragma once

#include <errno.h>
#include <unistd.h>

static inline int result(int value) {
    return value < 0 ? -errno : value;
}

/// close(2) that leaves errno alone, for error paths. A close that fails with EINTR has closed the descriptor on Linux (close(2), NOTES).
static inline void close_quietly(int fd) {
    int saved = errno;
    if (fd >= 0)
        close(fd);
    errno = saved;
}
