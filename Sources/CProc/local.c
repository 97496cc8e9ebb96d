// Pipes, Unix sockets and datagram sockets: their content without taking it out, and new ones with such content.
#include "cproc_local.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "cproc_netns.h"
#include "result.h"

/// The host's flags beside those of x86 (include/uapi/asm-generic/fcntl.h), which images use.
static const struct {
    int host;
    uint32_t image;
} flag_numbers[] = {
    {O_APPEND, 02000},       {O_NONBLOCK, 04000},   {O_DSYNC, 010000},           {O_ASYNC, 020000},
    {O_DIRECT, 040000},      {O_NOATIME, 01000000}, {O_SYNC & ~O_DSYNC, 04000000},
};

int cproc_description_flags(int fd) {
    int found = fcntl(fd, F_GETFL);
    if (found < 0)
        return -errno;
    int flags = found & O_ACCMODE;
    for (size_t i = 0; i < sizeof flag_numbers / sizeof *flag_numbers; i++)
        if (found & flag_numbers[i].host)
            flags |= (int)flag_numbers[i].image;
    return flags;
}

static int host_flags(uint32_t flags) {
    int host = (int)(flags & O_ACCMODE);
    for (size_t i = 0; i < sizeof flag_numbers / sizeof *flag_numbers; i++)
        if (flags & flag_numbers[i].image)
            host |= flag_numbers[i].host;
    return host;
}

int cproc_set_description_flags(int fd, uint32_t flags) {
    return result(fcntl(fd, F_SETFL, host_flags(flags)));
}

int cproc_open_with(const char *path, uint32_t flags) {
    // Without O_NONBLOCK a path that has become a FIFO would block the opener.
    int fd = open(path, host_flags(flags) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    return result(fd);
}

int cproc_pipe_capacity(int pipe) {
    return result(fcntl(pipe, F_GETPIPE_SZ));
}

int cproc_pipe_of(int ends[2], int capacity) {
    int made[2];
    if (pipe2(made, O_CLOEXEC) < 0)
        return -errno;
    if (fcntl(made[0], F_GETPIPE_SZ) != capacity && fcntl(made[0], F_SETPIPE_SZ, capacity) < 0) {
        close_quietly(made[0]);
        close_quietly(made[1]);
        return -errno;
    }
    memcpy(ends, made, sizeof made);
    return 0;
}

int cproc_pipe_copy(int read_end, int *copy) {
    int capacity = cproc_pipe_capacity(read_end), ends[2];
    if (capacity < 0)
        return capacity;
    int error = cproc_pipe_of(ends, capacity);
    if (error)
        return error;
    // One call copies every buffer that has room in the other pipe, and that is as large (link_pipe() in fs/splice.c).
    ssize_t count = tee(read_end, ends[1], INT32_MAX, SPLICE_F_NONBLOCK);
    error = count < 0 && errno != EAGAIN ? -errno : 0;
    close_quietly(ends[1]);
    if (error || fcntl(ends[0], F_SETFL, O_NONBLOCK) < 0) {
        error = error ? error : -errno;
        close_quietly(ends[0]);
        return error;
    }
    *copy = ends[0];
    return count < 0 ? 0 : (int)count;
}

ssize_t cproc_pipe_write(int write_end, const void *bytes, size_t length, int as_packet) {
    if (fcntl(write_end, F_SETFL, O_NONBLOCK | (as_packet ? O_DIRECT : 0)) < 0)
        return -errno;
    ssize_t written;
    do
        written = write(write_end, bytes, length);
    while (written < 0 && errno == EINTR);
    return written < 0 ? -errno : written;
}

#ifndef SCM_PIDFD
#define SCM_PIDFD 0x04 // Linux 6.5, newer than glibc's headers
#endif

static int receive(int socket, struct msghdr *header, int flags) {
    ssize_t length;
    do
        length = recvmsg(socket, header, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    return length < 0 ? -errno : (int)length;
}

int cproc_peek_message(int socket, void *bytes, size_t capacity, int fds[CPROC_MAX_FDS], struct cproc_message *message) {
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(CPROC_MAX_FDS * sizeof(int)) + 1024];
    struct iovec iovec = {.iov_base = bytes, .iov_len = capacity};
    struct msghdr header = {.msg_iov = &iovec, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    *message = (struct cproc_message){0};
    // MSG_TRUNC asks for the whole length of a datagram; for a stream it changes nothing in a peek.
    int length = receive(socket, &header, MSG_PEEK | MSG_TRUNC);
    if (length < 0)
        return length;
    message->length = (uint32_t)length;
    message->is_truncated = (header.msg_flags & MSG_TRUNC) != 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(&header); part; part = CMSG_NXTHDR(&header, part)) {
        if (part->cmsg_level != SOL_SOCKET)
            continue;
        if (part->cmsg_type == SCM_CREDENTIALS) {
            struct ucred who;
            memcpy(&who, CMSG_DATA(part), sizeof who);
            message->has_sender = 1;
            message->sender = (struct cproc_sender){who.pid, who.uid, who.gid};
        } else if (part->cmsg_type == SCM_RIGHTS || part->cmsg_type == SCM_PIDFD) {
            size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (size_t i = 0; i < count; i++) {
                int fd;
                memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
                if (part->cmsg_type == SCM_RIGHTS && message->nfds < CPROC_MAX_FDS)
                    fds[message->nfds++] = fd;
                else
                    close(fd);
            }
        }
    }
    if (header.msg_flags & MSG_CTRUNC) {
        for (int i = 0; i < message->nfds; i++)
            close(fds[i]);
        message->nfds = 0;
        return -EMFILE;
    }
    return 0;
}

int cproc_peek_before_fds(int socket, uint32_t length) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (length + page - 1) / page * page;
    char *memory = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    int error = mprotect(memory + room, page, PROT_NONE) < 0 ? -errno : 0;
    // The last of the bytes lies on the page that nobody may touch.
    struct iovec iovec = {.iov_base = memory + room - (length - 1), .iov_len = length};
    struct msghdr header = {.msg_iov = &iovec, .msg_iovlen = 1};
    int count = error ? error : receive(socket, &header, MSG_PEEK);
    munmap(memory, room + page);
    return count == -EFAULT ? 0 : count;
}

int cproc_drop_message(int socket) {
    char bytes[65536];
    struct iovec iovec = {.iov_base = bytes, .iov_len = sizeof bytes};
    // Without room for control messages the kernel drops the descriptors itself.
    struct msghdr header = {.msg_iov = &iovec, .msg_iovlen = 1};
    return receive(socket, &header, 0);
}

ssize_t cproc_send_message(int socket, const void *bytes, size_t length, const int fds[], int nfds, const struct cproc_sender *sender) {
    if (nfds < 0 || nfds > CPROC_MAX_FDS)
        return -EINVAL;
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(CPROC_MAX_FDS * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))] = {0};
    struct iovec iovec = {.iov_base = (void *)bytes, .iov_len = length};
    struct msghdr header = {.msg_iov = &iovec, .msg_iovlen = 1, .msg_control = control};
    struct cmsghdr *part = (struct cmsghdr *)control;
    if (nfds) {
        *part = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN((size_t)nfds * sizeof(int))};
        memcpy(CMSG_DATA(part), fds, (size_t)nfds * sizeof(int));
        header.msg_controllen += CMSG_SPACE((size_t)nfds * sizeof(int));
        part = (struct cmsghdr *)(control + header.msg_controllen);
    }
    if (sender) {
        struct ucred who = {sender->pid, sender->uid, sender->gid};
        *part = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS, .cmsg_len = CMSG_LEN(sizeof who)};
        memcpy(CMSG_DATA(part), &who, sizeof who);
        header.msg_controllen += CMSG_SPACE(sizeof who);
    }
    if (header.msg_controllen == 0)
        header.msg_control = NULL;
    ssize_t sent;
    do
        sent = sendmsg(socket, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

struct pair_request {
    int type, *ends;
    uint32_t uid, gid;
};

/// On a thread that ends afterwards: the raw system calls change this thread alone, glibc's would change all (setuid(2), VERSIONS).
static int make_pair(void *context) {
    struct pair_request *request = context;
    if (syscall(SYS_setresgid, -1, request->gid, -1) < 0 || syscall(SYS_setresuid, -1, request->uid, -1) < 0)
        return -errno;
    return result(socketpair(AF_UNIX, request->type | SOCK_CLOEXEC, 0, request->ends));
}

int cproc_unix_pair(int type, uint32_t uid, uint32_t gid, int ends[2]) {
    if ((uid == UINT32_MAX || uid == geteuid()) && (gid == UINT32_MAX || gid == getegid()))
        return result(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends));
    struct pair_request request = {type, ends, uid, gid};
    return cproc_in_netns(-1, make_pair, &request);
}
