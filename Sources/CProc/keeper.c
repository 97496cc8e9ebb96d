// Keepers: see cproc_keeper.h. Between fork and exec only async-signal-safe calls are made, as the caller may have threads.
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "cproc_fds.h"
#include "cproc_keeper.h"
#include "cproc_process.h"
#include "result.h"

enum { STANDARD_ERROR = 2, OWN_SOCKET = 3, OWN_PROGRAM = 4, DISMISSAL = 'd', GIFT = 'g' };

struct keeper {
    const char *const *argv;
    char *const *envp;
    int *held;
    uint32_t capacity, count;
};

static void take_in(struct keeper *keeper, const int fds[], int count) {
    for (int i = 0; i < count; i++) {
        if (keeper->count < keeper->capacity)
            keeper->held[keeper->count++] = fds[i];
        else
            close(fds[i]);
    }
}

/// Moves the held descriptors to 3, 4, …: first all out of the way of those numbers, then into place.
static void place(struct keeper *keeper) {
    int end = STANDARD_ERROR + 1 + (int)keeper->count;
    for (uint32_t i = 0; i < keeper->count; i++)
        keeper->held[i] = fcntl(keeper->held[i], F_DUPFD_CLOEXEC, end);
    for (uint32_t i = 0; i < keeper->count; i++)
        dup2(keeper->held[i], STANDARD_ERROR + 1 + (int)i);
    close_range((unsigned)end, ~0u, CLOSE_RANGE_CLOEXEC);
}

static void take_over(struct keeper *keeper, int program) {
    // Above all places, so that placing does not overwrite it.
    program = fcntl(program, F_DUPFD_CLOEXEC, STANDARD_ERROR + 1 + (int)keeper->count);
    place(keeper);
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
    syscall(SYS_execveat, program, "", keeper->argv, keeper->envp, AT_EMPTY_PATH);
    for (uint32_t i = 0; i < keeper->count; i++)
        cproc_continue(STANDARD_ERROR + 1 + (int)i);
    _exit(1);
}

/// Everything of the caller's but its standard error is let go: a keeper must keep neither a session's socket nor the socket's other end alive.
static void keep(struct keeper *keeper, int socket, int program) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    int own = fcntl(socket, F_DUPFD_CLOEXEC, OWN_PROGRAM + 1), file = fcntl(program, F_DUPFD_CLOEXEC, OWN_PROGRAM + 1), null = open("/dev/null", O_RDWR);
    if (own < 0 || file < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(own, OWN_SOCKET) < 0 || dup2(file, OWN_PROGRAM) < 0)
        _exit(1);
    close_range(OWN_PROGRAM + 1, ~0u, 0);
    fcntl(OWN_SOCKET, F_SETFD, FD_CLOEXEC);
    fcntl(OWN_PROGRAM, F_SETFD, FD_CLOEXEC);
    if (chdir("/") < 0) {
        // It only keeps a mount busy.
    }
    for (;;) {
        char kind = 0;
        int fds[CPROC_MAX_FDS], count = CPROC_MAX_FDS;
        ssize_t length = cproc_recv_fds(OWN_SOCKET, &kind, 1, fds, &count);
        if (length == 1 && kind == DISMISSAL)
            _exit(0);
        if (length == 1)
            take_in(keeper, fds, count);
        else if (length == 0 || length == -ECONNRESET)
            take_over(keeper, OWN_PROGRAM);
    }
}

/// The intermediate child.
static void start(struct keeper *keeper, int socket, int program) {
    setsid();
    // Before the keeper exists: whoever looks for the caller's processes by name never finds it among them.
    prctl(PR_SET_NAME, "sc-keeper");
    // _Fork(3) runs no atfork handlers, which may not be async-signal-safe.
    pid_t child = _Fork();
    if (child == 0)
        keep(keeper, socket, program);
    _exit(child < 0 ? errno : 0);
}

static int reap(pid_t child) {
    int status = 0;
    pid_t reaped;
    do
        reaped = waitpid(child, &status, 0);
    while (reaped < 0 && errno == EINTR);
    // ECHILD: the caller ignores SIGCHLD, and the kernel has reaped the child itself.
    if (reaped != child)
        return 0;
    return WIFEXITED(status) ? -WEXITSTATUS(status) : -ECHILD;
}

int cproc_keeper_start(const char *const argv[], const char *const envp[], uint32_t capacity) {
    int ends[2];
    if (capacity > 1u << 20)
        return -EINVAL;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -errno;
    struct keeper keeper = {.argv = argv, .envp = envp ? (char *const *)envp : environ, .capacity = capacity};
    keeper.held = calloc(capacity + 1, sizeof(int));
    int program = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int error = !keeper.held ? -ENOMEM : program < 0 ? -errno : 0;
    if (error == 0) {
        // The children inherit the blocked mask: the caller's signal handlers never run in them.
        sigset_t all, mask;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &mask);
        pid_t child = _Fork();
        if (child == 0)
            start(&keeper, ends[0], program);
        error = child < 0 ? -errno : 0;
        pthread_sigmask(SIG_SETMASK, &mask, NULL);
        if (child > 0)
            error = reap(child);
    }
    free(keeper.held);
    close_quietly(program);
    close(ends[0]);
    if (error < 0) {
        close(ends[1]);
        return error;
    }
    return ends[1];
}

int cproc_keeper_give(int keeper, const int fds[], uint32_t count) {
    char kind = GIFT;
    for (uint32_t given = 0; given < count;) {
        uint32_t some = count - given > CPROC_MAX_FDS ? CPROC_MAX_FDS : count - given;
        ssize_t sent = cproc_send_fds(keeper, &kind, 1, fds + given, (int)some);
        if (sent < 0)
            return (int)sent;
        given += some;
    }
    return 0;
}

int cproc_keeper_dismiss(int keeper) {
    char kind = DISMISSAL;
    ssize_t sent = cproc_send_fds(keeper, &kind, 1, NULL, 0);
    return sent < 0 ? (int)sent : 0;
}
