// Processes from outside: waiting for a child with a limit, and the marks a tool may have left on another process's sockets.
#include "csupport.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int csupport_wait(pid_t pid, int timeout_ms, int *status) {
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0)
        return -errno;
    struct pollfd ended = {pidfd, POLLIN, 0};
    int ready;
    do
        ready = poll(&ended, 1, timeout_ms);
    while (ready < 0 && errno == EINTR);
    int result = ready < 0 ? -errno : ready;
    if (ready > 0)
        result = waitpid(pid, status, 0) == pid ? 1 : -errno;
    close(pidfd);
    return result;
}

int csupport_pipe(int ends[2]) {
    return pipe2(ends, O_CLOEXEC) == 0 ? 0 : -errno;
}

int csupport_socket_marks(pid_t pid, int fd) {
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0)
        return -errno;
    int copy = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
    int error = errno;
    close(pidfd);
    if (copy < 0)
        return -error;

    int marks = 0, value = 0;
    struct sock_filter program[BPF_MAXINSNS];
    // The length counts instructions, not bytes; an eBPF program cannot be read back and gives EACCES.
    socklen_t length = BPF_MAXINSNS;
    int result = getsockopt(copy, SOL_SOCKET, SO_GET_FILTER, program, &length);
    if (result < 0 && errno == ENOTSOCK) {
        close(copy);
        return -ENOTSOCK;
    }
    if ((result == 0 && length > 0) || (result < 0 && errno == EACCES))
        marks |= CSUPPORT_MARK_FILTER;
    length = sizeof value;
    if (getsockopt(copy, SOL_SOCKET, SO_LOCK_FILTER, &value, &length) == 0 && value)
        marks |= CSUPPORT_MARK_LOCKED;
    value = 0;
    length = sizeof value;
    if (getsockopt(copy, IPPROTO_TCP, TCP_REPAIR, &value, &length) == 0 && value)
        marks |= CSUPPORT_MARK_REPAIR;
    close(copy);
    return marks;
}
