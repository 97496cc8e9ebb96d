// Keepers: see cproc_keeper.h. Between fork and exec only async-signal-safe calls are made, as the caller may have threads.
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "cproc_fds.h"
#include "cproc_keeper.h"
#include "cproc_process.h"
#include "detach.h"
#include "result.h"

enum { STANDARD_ERROR = 2, OWN_SOCKET = 3, OWN_PROGRAM = 4, DISMISSAL = 'd', GIFT = 'g' };

struct keeper {
    const char *const *argv;
    char *const *envp;
    int *held;
    uint32_t capacity, count;
    int socket, program;
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
static void keep(void *context) {
    struct keeper *keeper = context;
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    int own = fcntl(keeper->socket, F_DUPFD_CLOEXEC, OWN_PROGRAM + 1), file = fcntl(keeper->program, F_DUPFD_CLOEXEC, OWN_PROGRAM + 1), null = open("/dev/null", O_RDWR);
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

int cproc_keeper_start(const char *const argv[], const char *const envp[], uint32_t capacity) {
    int ends[2];
    if (capacity > 1u << 20)
        return -EINVAL;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -errno;
    struct keeper keeper = {.argv = argv, .envp = envp ? (char *const *)envp : environ, .capacity = capacity, .socket = ends[0]};
    keeper.held = calloc(capacity + 1, sizeof(int));
    keeper.program = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int error = !keeper.held ? -ENOMEM : keeper.program < 0 ? -errno : start_detached("sc-keeper", keep, &keeper);
    free(keeper.held);
    close_quietly(keeper.program);
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
