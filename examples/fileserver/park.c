// Parking by a signal: `migrate --with-ipc --park-signal USR1` sends it, and goes on when all three processes have stopped themselves.

#include "fileserver.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

static int signals;

static sigset_t both(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGCONT);
    return set;
}

void block_signals(void) {
    sigset_t set = both();
    sigprocmask(SIG_BLOCK, &set, NULL);
}

void expect_parking(const char *name, struct session *session) {
    // The roles of the processes, and so the names of their descriptors, come from here.
    prctl(PR_SET_NAME, name);
    if (is_member)
        return join_session(name, session);
    sigset_t set = both();
    signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

/// Which of the two have come; SIGCONT continues a process even when it is blocked, and is seen here afterwards.
static int take_signals(void) {
    struct signalfd_siginfo info;
    int seen = 0;
    while (read(signals, &info, sizeof info) == sizeof info)
        seen |= info.ssi_signo == SIGUSR1 ? 1 : 2;
    return seen;
}

void wait_for(int first, short first_events, int second, short second_events, int timeout_ms) {
    struct pollfd fds[] = {{signals, POLLIN, 0}, {first, first_events, 0}, {second, second_events, 0}};
    if (is_member)
        return wait_as_member(fds, 3, timeout_ms);
    poll(fds, 3, timeout_ms);
    if (!fds[0].revents)
        return;
    // Whoever asked may have given up: SIGCONT then calls it off.
    if (take_signals() == 1) {
        raise(SIGSTOP);
        take_signals();
    }
}
