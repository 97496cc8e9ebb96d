// The guard: a process that continues a stopped target when the one who stopped it dies.
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "cproc_process.h"
#include "result.h"

enum { GUARD_PIDFD = 0, GUARD_PIPE = 1 };

/// Runs in a child of a possibly multi-threaded process, so only async-signal-safe calls are allowed.
/// Every other descriptor is closed: the guard must keep neither a session's socket nor the pipe's writing end alive.
static void guard(int pidfd, int pipe) {
    int target = fcntl(pidfd, F_DUPFD, GUARD_PIPE + 1), held = fcntl(pipe, F_DUPFD, GUARD_PIPE + 1);
    if (target < 0 || held < 0 || dup2(target, GUARD_PIDFD) < 0 || dup2(held, GUARD_PIPE) < 0)
        _exit(1);
    close_range(GUARD_PIPE + 1, ~0u, 0);
    prctl(PR_SET_NAME, "sc-guard");
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

/// The intermediate child: the guard is a grandchild in a session of its own, so that no terminal signal reaches it and init reaps it.
static void start_guard(int pidfd, int pipe) {
    setsid();
    // _Fork(3) runs no atfork handlers, which may not be async-signal-safe.
    pid_t child = _Fork();
    if (child == 0)
        guard(pidfd, pipe);
    _exit(child < 0 ? errno : 0);
}

int cproc_stop_guard(int pidfd) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;

    // The children inherit the blocked mask: the tool's signal handlers never run in them.
    sigset_t all, mask;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    pid_t child = _Fork();
    int error = child < 0 ? -errno : 0;
    if (child == 0)
        start_guard(pidfd, ends[0]);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);

    close(ends[0]);
    if (child > 0) {
        int status = 0;
        pid_t reaped;
        do
            reaped = waitpid(child, &status, 0);
        while (reaped < 0 && errno == EINTR);
        // ECHILD: the tool ignores SIGCHLD, and the kernel has reaped the child itself.
        if (reaped == child)
            error = WIFEXITED(status) ? -WEXITSTATUS(status) : -ECHILD;
    }
    if (error < 0) {
        close(ends[1]);
        return error;
    }
    return ends[1];
}
