// The guard: a process that continues a stopped target when the one who stopped it dies.
#include <fcntl.h>
#include <linux/close_range.h>

#include "cproc_process.h"
#include "detach.h"
#include "result.h"

enum { GUARD_PIDFD = 0, GUARD_PIPE = 1 };

struct watch {
    int pidfd, pipe;
};

/// Every other descriptor is closed: the guard must keep neither a session's socket nor the pipe's writing end alive.
static void guard(void *context) {
    const struct watch *watch = context;
    int target = fcntl(watch->pidfd, F_DUPFD, GUARD_PIPE + 1), held = fcntl(watch->pipe, F_DUPFD, GUARD_PIPE + 1);
    if (target < 0 || held < 0 || dup2(target, GUARD_PIDFD) < 0 || dup2(held, GUARD_PIPE) < 0)
        _exit(1);
    close_range(GUARD_PIPE + 1, ~0u, 0);
    if (chdir("/") < 0) {
        // It only keeps a mount busy.
    }
    char byte;
    ssize_t length;
    do
        length = read(GUARD_PIPE, &byte, 1);
    while (length < 0 && errno == EINTR);
    if (length == 0)
        cproc_continue(GUARD_PIDFD);
    _exit(0);
}

int cproc_stop_guard(int pidfd) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    int error = start_detached("sc-guard", guard, &(struct watch){.pidfd = pidfd, .pipe = ends[0]});
    close(ends[0]);
    if (error < 0) {
        close(ends[1]);
        return error;
    }
    return ends[1];
}
