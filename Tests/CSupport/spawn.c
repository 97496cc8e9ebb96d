// Starting a process inside a network namespace: posix_spawn on a throw-away thread that has entered it.
#include "csupport.h"
#include "netns.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <unistd.h>

struct spawn {
    const char *const *argv, *const *envp;
    const int *fds;
    int nfds, own_session;
    pid_t pid;
};

/// The child inherits the namespace of the thread that runs this.
static int spawn_here(void *context) {
    struct spawn *spawn = context;
    // Copies above every target, so that no descriptor is overwritten before it has been used.
    int copies[CSUPPORT_MAX_SPAWN_FDS];
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    for (int i = 0; i < spawn->nfds; i++) {
        copies[i] = spawn->fds[i] < 0 ? -1 : fcntl(spawn->fds[i], F_DUPFD_CLOEXEC, 3 + CSUPPORT_MAX_SPAWN_FDS);
        if (copies[i] >= 0)
            posix_spawn_file_actions_adddup2(&actions, copies[i], i);
        else
            posix_spawn_file_actions_addopen(&actions, i, "/dev/null", O_RDWR, 0);
    }
    posix_spawn_file_actions_addclosefrom_np(&actions, spawn->nfds);

    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t none, defaults;
    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | (spawn->own_session ? POSIX_SPAWN_SETSID : 0));
    int error = posix_spawnp(&spawn->pid, spawn->argv[0], &actions, &attributes, (char *const *)spawn->argv, (char *const *)spawn->envp);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    for (int i = 0; i < spawn->nfds; i++)
        if (copies[i] >= 0)
            close(copies[i]);
    return -error;
}

pid_t csupport_spawn(const char *const argv[], const char *const envp[], int netns_fd, const int fds[], int nfds, int own_session) {
    if (nfds > CSUPPORT_MAX_SPAWN_FDS)
        return -EINVAL;
    struct spawn spawn = {argv, envp, fds, nfds, own_session, 0};
    int result = netns_fd < 0 ? spawn_here(&spawn) : csupport_in_netns(netns_fd, spawn_here, &spawn);
    return result < 0 ? result : spawn.pid;
}
