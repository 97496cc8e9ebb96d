// Socket options, addresses and ioctls with their types.
#include "cproc_socket.h"

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "address.h"
#include "cproc_process.h"
#include "result.h"

static int ioctl_int(int fd, unsigned long request) {
    int value = 0;
    return ioctl(fd, request, &value) < 0 ? -errno : value;
}

int cproc_siocinq(int fd) {
    return ioctl_int(fd, SIOCINQ);
}

int cproc_siocoutq(int fd) {
    return ioctl_int(fd, SIOCOUTQ);
}

int cproc_siocoutqnsd(int fd) {
    return ioctl_int(fd, SIOCOUTQNSD);
}

int cproc_siocatmark(int fd) {
    return ioctl_int(fd, SIOCATMARK);
}

int cproc_socket_netns(int fd) {
    return result(ioctl(fd, SIOCGSKNS)); // O_CLOEXEC: open_related_ns() in fs/nsfs.c
}

int cproc_getsockopt_int(int fd, int level, int name, int *value) {
    *value = 0; // some options write a single byte
    socklen_t length = sizeof *value;
    return result(getsockopt(fd, level, name, value, &length));
}

int cproc_setsockopt_int(int fd, int level, int name, int value) {
    return result(setsockopt(fd, level, name, &value, sizeof value));
}

int cproc_getsockopt(int fd, int level, int name, void *value, uint32_t capacity) {
    socklen_t length = capacity;
    return getsockopt(fd, level, name, value, &length) < 0 ? -errno : (int)length;
}

int cproc_setsockopt(int fd, int level, int name, const void *value, uint32_t length) {
    return result(setsockopt(fd, level, name, value, length));
}

int cproc_socket_cookie(int fd, uint64_t *cookie) {
    socklen_t length = sizeof *cookie;
    return result(getsockopt(fd, SOL_SOCKET, SO_COOKIE, cookie, &length));
}

int cproc_poll(int fd, short events, int timeout_ms) {
    uint64_t deadline = cproc_monotonic_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * 1000000u;
    for (;;) {
        struct pollfd poll_fd = {.fd = fd, .events = events};
        int ready = poll(&poll_fd, 1, timeout_ms);
        if (ready >= 0)
            return ready ? poll_fd.revents : 0;
        if (errno != EINTR)
            return -errno;
        if (timeout_ms > 0) {
            uint64_t now = cproc_monotonic_ns();
            timeout_ms = now < deadline ? (int)((deadline - now + 999999) / 1000000) : 0;
        }
    }
}

int address_from_endpoint(const struct cproc_endpoint *endpoint, union address *address) {
    memset(address, 0, sizeof *address);
    address->any.sa_family = endpoint->family;
    switch (endpoint->family) {
    case AF_INET:
        address->v4.sin_port = htons(endpoint->port);
        memcpy(&address->v4.sin_addr, endpoint->address, 4);
        return sizeof address->v4;
    case AF_INET6:
        address->v6.sin6_port = htons(endpoint->port);
        address->v6.sin6_scope_id = endpoint->scope;
        memcpy(&address->v6.sin6_addr, endpoint->address, 16);
        return sizeof address->v6;
    default:
        return -EAFNOSUPPORT;
    }
}

void endpoint_from_address(const union address *address, struct cproc_endpoint *endpoint) {
    *endpoint = (struct cproc_endpoint){.family = address->any.sa_family};
    switch (address->any.sa_family) {
    case AF_INET:
        endpoint->port = ntohs(address->v4.sin_port);
        memcpy(endpoint->address, &address->v4.sin_addr, 4);
        break;
    case AF_INET6:
        endpoint->port = ntohs(address->v6.sin6_port);
        endpoint->scope = address->v6.sin6_scope_id;
        memcpy(endpoint->address, &address->v6.sin6_addr, 16);
        break;
    }
}

int cproc_getsockname(int fd, struct cproc_endpoint *endpoint) {
    union address address = {0};
    socklen_t length = sizeof address;
    if (getsockname(fd, &address.any, &length) < 0)
        return -errno;
    endpoint_from_address(&address, endpoint);
    return 0;
}

int cproc_getpeername(int fd, struct cproc_endpoint *endpoint) {
    union address address = {0};
    socklen_t length = sizeof address;
    if (getpeername(fd, &address.any, &length) < 0)
        return -errno;
    endpoint_from_address(&address, endpoint);
    return 0;
}

int cproc_bind(int fd, const struct cproc_endpoint *endpoint) {
    union address address;
    int length = address_from_endpoint(endpoint, &address);
    return length < 0 ? length : result(bind(fd, &address.any, (socklen_t)length));
}

int cproc_connect(int fd, const struct cproc_endpoint *endpoint) {
    union address address;
    int length = address_from_endpoint(endpoint, &address);
    if (length < 0)
        return length;
    if (connect(fd, &address.any, (socklen_t)length) == 0)
        return 0;
    if (errno != EINTR)
        return -errno;
    // An interrupted connect goes on by itself, and a second call would fail with EALREADY (connect(2), ERRORS).
    int ready = cproc_poll(fd, POLLOUT, -1), error = 0;
    if (ready < 0)
        return ready;
    int failed = cproc_getsockopt_int(fd, SOL_SOCKET, SO_ERROR, &error);
    return failed ? failed : -error;
}

int cproc_disconnect(int fd) {
    struct sockaddr unspecified = {.sa_family = AF_UNSPEC};
    return result(connect(fd, &unspecified, sizeof unspecified));
}

int cproc_fstat(int fd, struct cproc_stat *out) {
    struct stat stat;
    if (fstat(fd, &stat) < 0)
        return -errno;
    *out = (struct cproc_stat){
        .mode = stat.st_mode,
        .device = stat.st_dev,
        .inode = stat.st_ino,
        .size = (uint64_t)stat.st_size,
        .mtime_ns = (int64_t)stat.st_mtim.tv_sec * 1000000000 + stat.st_mtim.tv_nsec,
    };
    return 0;
}
