// Segments in the peer's name, built and checksummed by libnet and delivered to this host through a raw socket.
#include "cproc_inject.h"

#include <libnet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "address.h"
#include "result.h"

struct cproc_injector {
    libnet_t *net;
    int fd; // raw, with the IP header in the packet
    uint16_t family;
    uint32_t mark, scope; // what the raw socket is set to
};

/// libnet reports failures as text; where it leaves errno alone, the cause is unknown.
static int libnet_failure(void) {
    return errno ? -errno : -EIO;
}

int cproc_injector_open(uint16_t family, struct cproc_injector **out) {
    if (family != AF_INET && family != AF_INET6)
        return -EAFNOSUPPORT;
    struct cproc_injector *injector = calloc(1, sizeof *injector);
    if (!injector)
        return -ENOMEM;
    char message[LIBNET_ERRBUF_SIZE];
    errno = 0;
    injector->family = family;
    injector->fd = -1;
    // libnet only builds: a socket that it opens itself is given a larger send buffer in 6,500 steps of 128 bytes, which takes 2 to 4 ms.
    injector->net = libnet_init(LIBNET_NONE, NULL, message);
    int error = injector->net ? 0 : libnet_failure();
    if (!error && (injector->fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW)) < 0)
        error = -errno;
    if (error) {
        cproc_injector_close(injector);
        return error;
    }
    *out = injector;
    return 0;
}

void cproc_injector_close(struct cproc_injector *injector) {
    if (!injector)
        return;
    if (injector->net)
        libnet_destroy(injector->net);
    if (injector->fd >= 0)
        close(injector->fd);
    free(injector);
}

/// The socket's mark, and the interface of a link-local address.
static int aim(struct cproc_injector *injector, uint32_t mark, uint32_t scope) {
    int fd = injector->fd;
    if (mark != injector->mark && setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark) < 0)
        return -errno;
    injector->mark = mark;
    int interface = (int)scope;
    if (scope != injector->scope && setsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &interface, sizeof interface) < 0)
        return -errno;
    injector->scope = scope;
    return 0;
}

static int build_ipv4(libnet_t *net, const struct cproc_endpoint *source, const struct cproc_endpoint *destination) {
    uint32_t from, to;
    memcpy(&from, source->address, sizeof from);
    memcpy(&to, destination->address, sizeof to);
    // The id of a packet that may not be fragmented means nothing (RFC 6864, section 4.1).
    return libnet_build_ipv4(LIBNET_IPV4_H + LIBNET_TCP_H, 0, 0, IP_DF, 64, IPPROTO_TCP, 0, from, to, NULL, 0, net, 0);
}

static int build_ipv6(libnet_t *net, const struct cproc_endpoint *source, const struct cproc_endpoint *destination) {
    struct libnet_in6_addr from, to;
    memcpy(&from, source->address, sizeof from);
    memcpy(&to, destination->address, sizeof to);
    return libnet_build_ipv6(0, 0, LIBNET_TCP_H, IPPROTO_TCP, 64, from, to, NULL, 0, net, 0);
}

static int send_packet(int fd, const uint8_t *packet, uint32_t length, const struct cproc_endpoint *destination) {
    union address to;
    int size = address_from_endpoint(destination, &to);
    if (size < 0)
        return size;
    // The packet has the port; a raw IPv6 socket would take one here for a protocol number.
    if (to.any.sa_family == AF_INET6)
        to.v6.sin6_port = 0;
    return result(sendto(fd, packet, length, MSG_NOSIGNAL, &to.any, (socklen_t)size));
}

int cproc_inject(struct cproc_injector *injector, const struct cproc_endpoint *source, const struct cproc_endpoint *destination,
                 uint32_t seq, uint32_t ack, uint8_t flags, uint16_t window, uint32_t mark) {
    if (source->family != injector->family || destination->family != injector->family)
        return -EAFNOSUPPORT;
    int error = aim(injector, mark, injector->family == AF_INET6 ? destination->scope : 0);
    if (error < 0)
        return error;
    libnet_t *net = injector->net;
    libnet_clear_packet(net);
    errno = 0;
    int built = libnet_build_tcp(source->port, destination->port, seq, ack, flags, window, 0, 0, LIBNET_TCP_H, NULL, 0, net, 0);
    if (built >= 0)
        built = injector->family == AF_INET ? build_ipv4(net, source, destination) : build_ipv6(net, source, destination);
    uint8_t *packet = NULL;
    uint32_t length = 0;
    // What libnet_write does before it sends; libnet_adv_cull_packet wants a link-layer context.
    if (built < 0 || libnet_pblock_coalesce(net, &packet, &length) < 0)
        return libnet_failure();
    error = send_packet(injector->fd, packet, length, destination);
    free(packet);
    return error;
}
