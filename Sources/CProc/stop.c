// Stopping every thread of a process and knowing that it has happened.
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cproc_process.h"
#include "result.h"

struct census {
    int threads;  // that can run at all: a leader that called pthread_exit() stays a zombie as long as the others live
    int running;  // seen neither stopped nor traced; counting ends at the first one
    int signaled; // in state T: stopped by a signal, not merely held by a debugger
};

/// The state letter in /proc/PID/task/TID/stat. It follows the command name, which may itself contain spaces and parentheses (proc(5)).
static int thread_state(int tasks, const char *tid) {
    char path[32], stat[128];
    snprintf(path, sizeof path, "%s/stat", tid);
    int fd = openat(tasks, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t length = read(fd, stat, sizeof stat - 1);
    int error = errno;
    close(fd);
    if (length < 0)
        return -error;
    stat[length] = '\0';
    const char *end = strrchr(stat, ')');
    return end && end[1] == ' ' ? end[2] : -EPROTO;
}

static int count_threads(pid_t pid, struct census *census) {
    *census = (struct census){0};
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *directory = opendir(path);
    if (!directory)
        return errno == ENOENT ? -ESRCH : -errno;
    // A thread made during the walk is found by it: clone() appends to the list, and a stopped thread cannot clone.
    int error = 0;
    for (struct dirent *entry; !census->running && (entry = readdir(directory));) {
        if (entry->d_name[0] == '.')
            continue;
        int state = thread_state(dirfd(directory), entry->d_name);
        if (state == -ENOENT || state == -ESRCH || state == 'Z' || state == 'X')
            continue;
        if (state < 0) {
            error = state;
            break;
        }
        census->threads++;
        census->signaled += state == 'T';
        census->running += state != 'T' && state != 't';
    }
    closedir(directory);
    return error ? error : census->threads ? 0 : -ESRCH;
}

/// Most processes stop within 20 µs, so the first looks only yield; later ones sleep longer and longer, up to 200 µs.
static void wait_a_little(int round) {
    if (round < 4) {
        sched_yield();
        return;
    }
    long us = round < 8 ? 50 : round < 16 ? 100 : 200;
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

int cproc_wait_stopped(pid_t pid, int pidfd, int timeout_ms) {
    struct census census;
    uint64_t deadline = cproc_monotonic_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * 1000000u;
    for (int round = 0;; round++) {
        int error = count_threads(pid, &census);
        if (error == 0 && !census.running)
            break;
        if (error == 0 && cproc_monotonic_ns() >= deadline)
            error = -ETIMEDOUT;
        if (error < 0) {
            cproc_continue(pidfd);
            return error;
        }
        wait_a_little(round);
    }
    // /proc was read by number: only the pidfd can tell that the number still means the same process.
    int error = cproc_pidfd_send_signal(pidfd, 0);
    return error < 0 ? error : census.threads;
}

int cproc_stop(pid_t pid, int pidfd, int timeout_ms) {
    struct census census;
    int error = count_threads(pid, &census);
    if (error < 0)
        return error;
    // One that a debugger holds (t) is not counted as stopped: the debugger may let it run at any time, a pending SIGSTOP then catches it.
    int stopped_before = census.signaled == census.threads;
    if (!stopped_before && (error = cproc_pidfd_send_signal(pidfd, SIGSTOP)) < 0)
        return error;
    int threads = cproc_wait_stopped(pid, pidfd, timeout_ms);
    return threads < 0 || !stopped_before ? threads : threads + CPROC_ALREADY_STOPPED;
}
