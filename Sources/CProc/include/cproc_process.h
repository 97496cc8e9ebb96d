// Processes: pidfds, their descriptors, stopping and continuing them.
#pragma once

#include <stdint.h>
#include <sys/types.h>

/// pidfd_open(2). ESRCH: no such process.
int cproc_pidfd_open(pid_t pid);

/// pidfd_getfd(2): a duplicate, in this process, of descriptor `fd` of the process behind `pidfd`.
/// Needs PTRACE_MODE_ATTACH_REALCREDS: EPERM means CAP_SYS_PTRACE (or the same user, dumpable, and a Yama scope that allows it).
int cproc_pidfd_getfd(int pidfd, int fd);

/// pidfd_send_signal(2). `signal` 0 only asks whether the process still exists (ESRCH: it ended).
int cproc_pidfd_send_signal(int pidfd, int signal);

/// kcmp(2) KCMP_FILE: 0 when both descriptors are the same open file description, 1 when not.
int cproc_same_file(pid_t pid1, int fd1, pid_t pid2, int fd2);

/// SIGSTOP to the process and a wait until every one of its threads is stopped (state T or t in /proc/PID/task/*/stat).
/// Returns the number of threads; 0 stays reserved: a process that was stopped already gives CPROC_ALREADY_STOPPED + threads,
/// so that the caller does not continue what somebody else stopped. ETIMEDOUT after `timeout_ms` (the process is continued
/// again first, unless it had been stopped before), ESRCH when it ends meanwhile.
int cproc_stop(pid_t pid, int pidfd, int timeout_ms);
#define CPROC_ALREADY_STOPPED (1 << 24)

/// The same wait for a process that will stop itself, for which it was asked by a signal of its own. ETIMEDOUT sends SIGCONT.
int cproc_wait_stopped(pid_t pid, int pidfd, int timeout_ms);

/// SIGCONT.
int cproc_continue(int pidfd);

/// cgroup v2 freezer: writes `frozen` (0 or 1) to cgroup.freeze of the open cgroup directory `cgroup_dir` and waits until
/// cgroup.events says the same. ETIMEDOUT puts the former state back. Note: does not stop io_uring workers; SIGSTOP does.
int cproc_cgroup_freeze(int cgroup_dir, int frozen, int timeout_ms);

/// The calling thread's effective capabilities have `cap` (CAP_NET_ADMIN 12, CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21, CAP_NET_RAW 13): 1 or 0.
int cproc_has_capability(int cap);

/// Nanoseconds of CLOCK_MONOTONIC, the same clock on both ends of a lab.
uint64_t cproc_monotonic_ns(void);

/// posix_spawn-like start of `argv[0]` (found by the caller's PATH) in network namespace `netns_fd` (-1: the caller's), its standard
/// streams set to the three descriptors (-1: /dev/null), and `passed[0..npassed)` as descriptors 3, 4, … . All others are closed, O_CLOEXEC
/// or not. When `listen_pid` is not 0 the child sets LISTEN_PID to its own pid in the environment before it executes. `envp` NULL: the
/// caller's. Returns the pid; ENOENT etc. are exec's own error. The signal mask is emptied and SIGPIPE set to default in the child.
int cproc_spawn(const char *const argv[], const char *const envp[], int netns_fd, int in, int out, int err, const int passed[], int npassed,
                int listen_pid);

/// Replaces this process by `argv[0]` (found by PATH) with `passed[0..npassed)` as descriptors 3, 4, … and all later ones closed,
/// LISTEN_PID set to the own pid, the signal mask emptied and SIGPIPE set to default. Returns only on failure, with -errno; descriptors 3…
/// may then have been replaced and all others set to close on exec.
int cproc_exec(const char *const argv[], const char *const envp[], const int passed[], int npassed);

/// prctl(PR_SET_PDEATHSIG) is not enough for a stopped target, so the one who stops a process arms a guard: a forked child that holds
/// `pidfd` and the reading end of a pipe and sends SIGCONT when the pipe closes without a "disarm" byte (the tool died).
/// Returns the pipe's writing end. Write one byte and close it to disarm; closing alone (or dying) continues the process.
int cproc_stop_guard(int pidfd);
