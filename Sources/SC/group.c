// Sessions of several processes, and which descriptors can belong to a session.

#include "internal.h"
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

int sc_join(sc_continuation_t *c, const void *group, const char *part) {
    if (group == NULL || !sc__is_name(part, SC_PART_MAX) || strchr(part, '.') != NULL) return -EINVAL;
    for (int i = 0; i < SC_WIRE_CHANNELS; i++)
        if (c->channels[i].fd >= 0) return -EALREADY;
    if (c->part[0]) return -EALREADY;
    snprintf(c->part, sizeof c->part, "%s", part);
    memcpy(c->group, group, sizeof c->group);
    return 0;
}

const char *sc_offer_part(const sc_offer_t *offer) { return offer->part; }

bool sc__take_part(sc_t *sc, const struct sc_wire_part *packet) {
    if (memchr(packet->part, 0, sizeof packet->part) == NULL) return false;
    sc->part = *packet;
    return true;
}

static int option(int fd, int name) {
    int value = 0;
    socklen_t size = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? -errno : value;
}

static bool is_tcp(int fd) { return option(fd, SO_TYPE) == SOCK_STREAM && option(fd, SO_PROTOCOL) == IPPROTO_TCP; }

int sc__check_channel(int fd) {
    struct stat stat;
    if (fstat(fd, &stat) < 0) return -errno;
    if (S_ISFIFO(stat.st_mode) || S_ISREG(stat.st_mode)) return 0;
    if (!S_ISSOCK(stat.st_mode)) return -EPROTOTYPE;
    int domain = option(fd, SO_DOMAIN);
    bool is_udp = (domain == AF_INET || domain == AF_INET6) && option(fd, SO_PROTOCOL) == IPPROTO_UDP;
    if (domain != AF_UNIX && !is_udp && !is_tcp(fd)) return -EPROTOTYPE;
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;
    return getpeername(fd, (struct sockaddr *)&peer, &size) < 0 ? -errno : 0;
}

int sc__connection(const sc_continuation_t *c) {
    for (int i = 0; i < SC_WIRE_CHANNELS; i++)
        if (c->channels[i].fd >= 0 && is_tcp(c->channels[i].fd)) return c->channels[i].fd;
    return -1;
}
