// Sending and receiving descriptors over Unix sockets without ever leaking one.
#include "cproc_fds.h"

#include <string.h>
#include <sys/socket.h>

#include "result.h"

#ifndef SCM_PIDFD
#define SCM_PIDFD 0x04 // Linux 6.5, newer than glibc's headers
#endif

ssize_t cproc_send_fds(int socket, const void *bytes, size_t length, const int fds[], int nfds) {
    if (length == 0 || nfds < 0 || nfds > CPROC_MAX_FDS)
        return -EINVAL;
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(CPROC_MAX_FDS * sizeof(int))] = {0};
    struct iovec iovec = {.iov_base = (void *)bytes, .iov_len = length};
    struct msghdr message = {.msg_iov = &iovec, .msg_iovlen = 1};
    if (nfds) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE((size_t)nfds * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN((size_t)nfds * sizeof(int))};
        memcpy(CMSG_DATA(header), fds, (size_t)nfds * sizeof(int));
    }
    ssize_t sent;
    do
        sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

/// Descriptors in one control message. With SO_PASSPIDFD the kernel adds the sender's pidfd, which nobody here asked for.
static size_t descriptors_in(const struct cmsghdr *header) {
    if (header->cmsg_level != SOL_SOCKET || (header->cmsg_type != SCM_RIGHTS && header->cmsg_type != SCM_PIDFD))
        return 0;
    return (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
}

ssize_t cproc_recv_fds(int socket, void *bytes, size_t capacity, int fds[], int *nfds) {
    int room = *nfds, count = 0, surplus = 0;
    *nfds = 0;
    if (room < 0 || capacity == 0)
        return -EINVAL;
    // Room for the largest SCM_RIGHTS message and for what socket options may add beside it: credentials, a pidfd, a security label.
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(CPROC_MAX_FDS * sizeof(int)) + 1024];
    struct iovec iovec = {.iov_base = bytes, .iov_len = capacity};
    struct msghdr message;
    ssize_t length;
    do {
        message = (struct msghdr){.msg_iov = &iovec, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        length = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    } while (length < 0 && errno == EINTR);
    if (length < 0)
        return -errno;

    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        size_t arrived = descriptors_in(header);
        for (size_t i = 0; i < arrived; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
            if (header->cmsg_type == SCM_PIDFD) {
                close(fd);
            } else if (count < room) {
                fds[count++] = fd;
            } else {
                close(fd);
                surplus = 1;
            }
        }
    }
    // The control buffer holds all that can be sent, so a truncated one means that the kernel found no free descriptor number.
    int truncated = message.msg_flags & MSG_CTRUNC;
    if (surplus || truncated) {
        for (int i = 0; i < count; i++)
            close(fds[i]);
        return surplus ? -E2BIG : -EMFILE;
    }
    *nfds = count;
    return length;
}

int cproc_peer_credentials(int socket, pid_t *pid, uid_t *uid, gid_t *gid) {
    struct ucred credentials;
    socklen_t length = sizeof credentials;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0)
        return -errno;
    *pid = credentials.pid;
    *uid = credentials.uid;
    *gid = credentials.gid;
    return 0;
}
