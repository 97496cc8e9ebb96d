// Handles on other processes: pidfds, their descriptors and signals, and what this process itself may do.
#include "cproc_process.h"

#include <linux/capability.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>

#include "result.h"

// The system calls are made directly: glibc wraps pidfds only since 2.36 and kcmp and capget never.

int cproc_pidfd_open(pid_t pid) {
    return result((int)syscall(SYS_pidfd_open, pid, 0));
}

int cproc_pidfd_getfd(int pidfd, int fd) {
    return result((int)syscall(SYS_pidfd_getfd, pidfd, fd, 0));
}

int cproc_pidfd_send_signal(int pidfd, int signal) {
    return result((int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0));
}

int cproc_continue(int pidfd) {
    return cproc_pidfd_send_signal(pidfd, SIGCONT);
}

int cproc_same_file(pid_t pid1, int fd1, pid_t pid2, int fd2) {
    // kcmp orders two kernel pointers: 1 and 2 are "less" and "greater", 3 is "not equal" (kcmp(2)).
    int order = result((int)syscall(SYS_kcmp, pid1, pid2, KCMP_FILE, (long)fd1, (long)fd2));
    return order > 0 ? 1 : order;
}

int cproc_has_capability(int cap) {
    if (cap < 0 || cap > CAP_LAST_CAP)
        return -EINVAL;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    if (syscall(SYS_capget, &header, data) < 0)
        return -errno;
    return (data[CAP_TO_INDEX(cap)].effective & CAP_TO_MASK(cap)) != 0;
}

uint64_t cproc_monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
