// Starting a process that outlives its creator.
#include "detach.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "result.h"

/// The intermediate child. _Fork(3) runs no atfork handlers, which may not be async-signal-safe.
static void start(const char *name, void (*body)(void *), void *context) {
    setsid();
    prctl(PR_SET_NAME, name);
    pid_t child = _Fork();
    if (child == 0)
        body(context);
    _exit(child < 0 ? errno : 0);
}

static int reap(pid_t child) {
    int status = 0;
    pid_t reaped;
    do
        reaped = waitpid(child, &status, 0);
    while (reaped < 0 && errno == EINTR);
    // ECHILD: the creator ignores SIGCHLD, and the kernel has reaped the child itself.
    if (reaped != child)
        return 0;
    return WIFEXITED(status) ? -WEXITSTATUS(status) : -ECHILD;
}

int start_detached(const char *name, void (*body)(void *), void *context) {
    // The children inherit the blocked mask: the creator's signal handlers never run in them.
    sigset_t all, mask;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    pid_t child = _Fork();
    int error = child < 0 ? -errno : 0;
    if (child == 0)
        start(name, body, context);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    return child > 0 ? reap(child) : error;
}
