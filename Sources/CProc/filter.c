// Socket filters: dropping everything a socket would receive, and saving the filter it had (socket(7), SO_ATTACH_FILTER).
#include "cproc_filter.h"

#include <linux/filter.h>
#include <sys/socket.h>

#include "bpf.h"
#include "result.h"

int cproc_drop_program(void) {
    const struct bpf_insn program[] = {
        BPF_MOVE(BPF_REG_0, 0), // keep 0 bytes of the packet
        BPF_RETURN,
    };
    return bpf_load(BPF_PROG_TYPE_SOCKET_FILTER, program, sizeof program / sizeof *program);
}

int cproc_attach_program(int fd, int program) {
    return result(setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof program));
}

int cproc_detach_filter(int fd) {
    int ignored = 0;
    int error = result(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &ignored, sizeof ignored));
    return error == -ENOENT ? 0 : error;
}

int cproc_get_filter(int fd, uint64_t *out, uint32_t capacity) {
    // The length counts instructions, not bytes, and 0 only asks for the number (sk_get_filter in net/core/filter.c).
    socklen_t count = 0;
    if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &count) < 0)
        return -errno;
    if (count == 0 || count > capacity)
        return (int)count;
    if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, out, &count) < 0)
        return -errno;
    return (int)count;
}

int cproc_set_filter(int fd, const uint64_t *program, uint32_t count) {
    if (count > BPF_MAXINSNS)
        return -EINVAL;
    struct sock_fprog filter = {.len = (unsigned short)count, .filter = (struct sock_filter *)program};
    return result(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter));
}

int cproc_filter_locked(int fd) {
    int locked = 0;
    socklen_t length = sizeof locked;
    return getsockopt(fd, SOL_SOCKET, SO_LOCK_FILTER, &locked, &length) < 0 ? -errno : locked;
}
