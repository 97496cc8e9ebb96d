// What the agent is told. Nothing waits: what the socket does not take now is told when it can be written, from the list of what has changed.

#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static int send_packet(sc_t *sc, void *fixed, size_t length, const void *more, size_t more_length, int fd) {
    struct sc_wire_head *head = fixed;
    head->length = (uint32_t)(length + more_length);
    struct iovec parts[2] = {{fixed, length}, {(void *)more, more_length}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = more_length ? 2 : 1};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    }
    if (sendmsg(sc->socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return 0;
    return errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

int sc__send_hello(sc_t *sc) {
    struct sc_wire_hello hello = {
        .head.type = SC_WIRE_HELLO, .magic = SC_WIRE_MAGIC, .oldest = SC_WIRE_OLDEST, .newest = SC_WIRE_NEWEST, .state_version = sc->state_version};
    memcpy(hello.service, sc->service, sizeof hello.service);
    return send_packet(sc, &hello, sizeof hello, NULL, 0, -1);
}

static int send_reason(sc_t *sc, uint32_t type, uint64_t id, int error, const char *reason) {
    struct sc_wire_reason packet = {.head = {.type = type, .continuation = id}, .error = error};
    snprintf(packet.text, sizeof packet.text, "%s", reason ? reason : "");
    return send_packet(sc, &packet, sizeof packet, NULL, 0, -1);
}

int sc__send_refused(sc_t *sc, uint64_t id, int error, const char *reason) { return send_reason(sc, SC_WIRE_REFUSED, id, error, reason); }

static int send_memory(sc_t *sc) {
    struct sc_wire_memory memory = {.head.type = SC_WIRE_MEMORY, .version = SC_MEMORY_VERSION, .stride = SC_MEMORY_STRIDE};
    return send_packet(sc, &memory, sizeof memory, NULL, 0, sc->memory);
}

static int send_head(sc_t *sc, uint32_t type, uint64_t id) {
    struct sc_wire_head head = {.type = type, .continuation = id};
    return send_packet(sc, &head, sizeof head, NULL, 0, -1);
}

static int tell_channel(sc_continuation_t *c, int index) {
    struct channel *channel = &c->channels[index];
    if (channel->forget) {
        struct sc_wire_channel gone = {.head = {.type = SC_WIRE_DISSOCIATE, .continuation = c->id}, .channel = (uint32_t)index};
        int result = send_packet(c->sc, &gone, sizeof gone, NULL, 0, -1);
        if (result < 0) return result;
        channel->forget = false;
    }
    // What is being imported is known to the agent until it is live.
    if (channel->fd < 0 || channel->told || c->state == ACCEPTED || (c->state == IMPORTED && c->known)) return 0;
    if (c->part[0] && !c->join_told && c->sc->version >= 3) {
        struct sc_wire_part join = {.head = {.type = SC_WIRE_JOIN, .continuation = c->id}};
        memcpy(join.group, c->group, sizeof join.group);
        memcpy(join.part, c->part, sizeof join.part);
        int result = send_packet(c->sc, &join, sizeof join, NULL, 0, -1);
        if (result < 0) return result;
        c->join_told = c->known = true;
    }
    struct sc_wire_associate associate = {
        .head = {.type = SC_WIRE_ASSOCIATE, .continuation = c->id}, .channel = (uint32_t)index, .fd = channel->fd,
        .flags = c->state == PARKED || c->state == IMPORTED ? SC_WIRE_IS_PARKED : 0};
    memcpy(associate.role, channel->role, sizeof associate.role);
    int result = send_packet(c->sc, &associate, sizeof associate, NULL, 0, channel->fd);
    // The server has closed it without a word; nothing can be told of it any more.
    if (result == -EBADF) return 0;
    if (result < 0) return result;
    channel->told = true;
    return 0;
}

/// The agent has a place for what is said of it; of one that is being imported, when it is live.
static bool is_told(const sc_continuation_t *c) {
    for (int index = 0; index < SC_WIRE_CHANNELS; index++)
        if (c->channels[index].told) return true;
    return false;
}

static int tell_pin(sc_continuation_t *c) {
    if (!c->tell_pin || !is_told(c) || c->sc->version < 5) return 0;
    int result = send_reason(c->sc, SC_WIRE_PIN, c->id, c->pin ? EBUSY : 0, c->pin);
    if (result == 0) c->tell_pin = false;
    return result;
}

static int tell_room(sc_continuation_t *c) {
    if (!c->tell_room || !is_told(c) || c->sc->version < 5) return 0;
    struct sc_wire_room packet = {.head = {.type = SC_WIRE_ROOM, .continuation = c->id}, .bytes = (uint32_t)c->room};
    int result = send_packet(c->sc, &packet, sizeof packet, NULL, 0, -1);
    if (result == 0) c->tell_room = false;
    return result;
}

/// A file that its reader need not fear to shrink or to wait for. Its descriptor, or a negative errno.
static int state_file(const void *bytes, size_t length) {
    int fd = memfd_create("sc-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) return -errno;
    for (size_t done = 0; done < length;) {
        ssize_t count = write(fd, (const char *)bytes + done, length - done);
        if (count < 0 && errno != EINTR) {
            int error = errno;
            close(fd);
            return -error;
        }
        if (count > 0) done += (size_t)count;
    }
    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
    return fd;
}

static int send_parked(sc_continuation_t *c) {
    struct sc_wire_parked parked = {
        .head = {.type = SC_WIRE_PARKED, .continuation = c->id}, .state_version = c->sc->state_version, .state_length = (uint32_t)c->length};
    if (c->length <= SC_WIRE_STATE) return send_packet(c->sc, &parked, sizeof parked, c->exported, c->length, -1);
    int fd = state_file(c->exported, c->length);
    // The agent gives up waiting for it.
    if (fd < 0) return -EAGAIN;
    int result = send_packet(c->sc, &parked, sizeof parked, NULL, 0, fd);
    close(fd);
    return result;
}

static int tell(sc_continuation_t *c) {
    if (c->ended) return c->known ? send_head(c->sc, SC_WIRE_END, c->id) : 0;
    for (int index = 0; index < SC_WIRE_CHANNELS; index++) {
        int result = tell_channel(c, index);
        if (result < 0) return result;
        if (c->channels[index].told) c->known = true;
    }
    int result = tell_pin(c);
    if (result == 0) result = tell_room(c);
    if (result < 0) return result;
    if (c->answer == ANSWER_PARKED) {
        result = send_parked(c);
    } else if (c->answer == ANSWER_REFUSED) {
        // While it repeats it is taken without being asked again.
        result = sc__send_refused(c->sc, c->id, c->repeating ? EAGAIN : EBUSY, c->reason);
    } else if (c->answer == ANSWER_ACCEPTED) {
        struct sc_wire_accepted accepted = {.head = {.type = SC_WIRE_ACCEPTED, .continuation = c->offer}, .continuation = c->id};
        result = send_packet(c->sc, &accepted, sizeof accepted, NULL, 0, -1);
    } else if (c->answer == ANSWER_DIFFERS) {
        result = send_reason(c->sc, SC_WIRE_DIFFERS, c->id, EILSEQ, c->reason);
    } else if (c->answer == ANSWER_READY) {
        result = send_head(c->sc, SC_WIRE_READY, c->id);
    }
    if (result == 0) c->answer = NO_ANSWER;
    return result;
}

void sc__mark(sc_continuation_t *c) {
    if (c->is_dirty || c->sc->status <= 0) return;
    c->is_dirty = true;
    c->next_dirty = NULL;
    *c->sc->dirty_tail = c;
    c->sc->dirty_tail = &c->next_dirty;
}

static void wait_to_write(sc_t *sc, bool waits) {
    if (sc->waits_to_write == waits) return;
    sc->waits_to_write = waits;
    struct epoll_event event = {.events = EPOLLIN | (waits ? EPOLLOUT : 0), .data.fd = sc->socket};
    epoll_ctl(sc->epoll, EPOLL_CTL_MOD, sc->socket, &event);
}

void sc__flush(sc_t *sc) {
    if (sc->status <= 0) return;
    int result = 0;
    if (sc->tell_memory) {
        result = send_memory(sc);
        if (result == 0) sc->tell_memory = false;
    }
    if (result == 0 && sc->tell_accepts) {
        struct sc_wire_offers offers = {.head.type = SC_WIRE_OFFERS, .accepts = sc->accepts};
        result = send_packet(sc, &offers, sizeof offers, NULL, 0, -1);
        if (result == 0) sc->tell_accepts = false;
    }
    while (result == 0 && sc->dirty) {
        sc_continuation_t *c = sc->dirty;
        result = tell(c);
        if (result < 0) break;
        sc->dirty = c->next_dirty;
        if (sc->dirty == NULL) sc->dirty_tail = &sc->dirty;
        c->is_dirty = false;
        if (c->ended) sc__free(c);
    }
    // Any other failure is seen by the next dispatch, which reads the end of the connection.
    if (result == 0 || result == -EAGAIN) wait_to_write(sc, result < 0);
}
