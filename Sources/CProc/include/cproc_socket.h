// Sockets: ioctls and options that Swift's Glibc module does not offer with their types.
#pragma once

#include <stdint.h>
#include <sys/socket.h>

/// SIOCINQ (tcp(7)): unread bytes; excludes the FIN and stops at the urgent mark.
int cproc_siocinq(int fd);
/// SIOCOUTQ: unacknowledged and unsent bytes, our queued FIN counted as one.
int cproc_siocoutq(int fd);
/// SIOCOUTQNSD: bytes not yet sent, our unsent FIN counted.
int cproc_siocoutqnsd(int fd);
/// SIOCATMARK: 1 when the read position is at the urgent mark.
int cproc_siocatmark(int fd);
/// SIOCGSKNS: a descriptor of the network namespace the socket was made in. EPERM without CAP_NET_ADMIN there.
int cproc_socket_netns(int fd);

/// getsockopt of an int / setsockopt of an int.
int cproc_getsockopt_int(int fd, int level, int name, int *value);
int cproc_setsockopt_int(int fd, int level, int name, int value);
/// getsockopt into `value`; returns the length the kernel gave.
int cproc_getsockopt(int fd, int level, int name, void *value, uint32_t capacity);
int cproc_setsockopt(int fd, int level, int name, const void *value, uint32_t length);

/// SO_COOKIE: the kernel's number of the socket, unique on this boot.
int cproc_socket_cookie(int fd, uint64_t *cookie);

/// Poll one descriptor: the revents (>= 0), 0 on timeout. `timeout_ms` -1 waits for ever. EINTR is retried with the remaining time.
int cproc_poll(int fd, short events, int timeout_ms);

/// An address as the kernel's sockaddr_in or sockaddr_in6. `family` AF_INET uses the first 4 bytes of `address`.
struct cproc_endpoint {
    uint16_t family;
    uint16_t port; // host order
    uint32_t scope;
    uint8_t address[16];
};
int cproc_getsockname(int fd, struct cproc_endpoint *endpoint);
int cproc_getpeername(int fd, struct cproc_endpoint *endpoint);
int cproc_bind(int fd, const struct cproc_endpoint *endpoint);
int cproc_connect(int fd, const struct cproc_endpoint *endpoint);
/// connect(AF_UNSPEC), tcp_disconnect() in the kernel: in repair mode the socket goes to CLOSE without a FIN or RST; unread data is thrown
/// away.
int cproc_disconnect(int fd);

/// fstat(2) of a descriptor, without its large struct.
struct cproc_stat {
    uint32_t mode;
    uint64_t device, inode, size;
    int64_t mtime_ns;
};
int cproc_fstat(int fd, struct cproc_stat *out);
