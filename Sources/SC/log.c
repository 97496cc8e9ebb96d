// Reading with a log: what is read since the last export is kept.
//
// No store here is needed to know how far the kernel came: it counts itself. `in`, `out` and the intent only show that nobody read or wrote past us.

#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/// Before each message in its area.
#define HEADER(place) ((place)->kind == SC_MEMORY_MESSAGES ? sizeof(uint32_t) : 0)

struct log *sc__log(const sc_continuation_t *c, int fd) {
    for (unsigned i = 0; fd >= 0 && i < SC_MEMORY_LOGS; i++)
        if (c->logs[i].fd == fd) return (struct log *)&c->logs[i];
    return NULL;
}

struct sc_memory_log *sc__place(const sc_continuation_t *c, const struct log *log) { return &c->slot->logs[log - c->logs]; }

static unsigned char *area(const sc_continuation_t *c, const struct log *log, size_t first) {
    return (unsigned char *)c->slot + first + (size_t)(log - c->logs) * SC_MEMORY_LOG_BYTES;
}

unsigned char *sc__input(const sc_continuation_t *c, const struct log *log) { return area(c, log, SC_MEMORY_INPUT); }

unsigned char *sc__output(const sc_continuation_t *c, const struct log *log) { return area(c, log, SC_MEMORY_OUTPUT); }

const struct sc_memory_position *sc__exported(const sc_continuation_t *c, const struct log *log) {
    return &sc__newest(c->slot)->positions[log - c->logs];
}

/// An enum sc_memory_kind, or a negative errno.
static int kind_of(int fd) {
    struct stat stat;
    int domain = 0, type = 0;
    socklen_t size = sizeof domain, type_size = sizeof type;
    if (fstat(fd, &stat) < 0) return -errno;
    // A pipe of packets has boundaries that read(2) does not tell.
    if (S_ISFIFO(stat.st_mode)) return fcntl(fd, F_GETFL) & O_DIRECT ? -EPROTOTYPE : SC_MEMORY_PIPE;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) < 0) return -EPROTOTYPE;
    if (domain == AF_UNIX) return type == SOCK_STREAM ? SC_MEMORY_STREAM : SC_MEMORY_MESSAGES;
    return type == SOCK_STREAM ? SC_MEMORY_TCP : -EPROTOTYPE;
}

static uint32_t channel_of(const sc_continuation_t *c, int fd) {
    uint32_t index = 0;
    while (c->channels[index].fd != fd) index++;
    return index;
}

int sc_log(sc_continuation_t *c, int fd, size_t bytes) {
    if (c->sc->memory < 0 || bytes > SC_LOG_MAX || (bytes > 0 && bytes < 4096)) return -EINVAL;
    if (c->ended || c->state == PARKED || c->state == ACCEPTED) return -EBUSY;
    if (fd < 0 || fd >= c->sc->fd_count || c->sc->by_fd[fd] != c) return -ENOENT;
    if (sc__log(c, fd)) return -EALREADY;
    if (c->slot == NULL) return -ENOMEM;
    unsigned free = 0;
    while (free < SC_MEMORY_LOGS && c->logs[free].fd >= 0) free++;
    int kind = kind_of(fd);
    if (kind < 0) return kind;
    if (free == SC_MEMORY_LOGS) return -ENOSPC;
    struct sc_memory_log place = {.kind = (uint32_t)kind, .channel = channel_of(c, fd)};
    if (kind == SC_MEMORY_TCP) {
        int result = c->slot->has_base ? sc__counters(fd, &place.base_in, &place.base_out) : 0;
        if (result < 0) return result;
    } else if (c->state == IMPORTED) {
        // Nobody writes into it before the session is live. One that is new is logged by both ends before they use it.
        int queued = 0;
        if (ioctl(fd, FIONREAD, &queued) < 0) return -errno;
        place.queued = (uint64_t)queued;
    }
    // An export that does not say where this channel stood is none.
    sc__memory_forget(c);
    c->logs[free] = (struct log){.fd = fd};
    c->slot->logs[free] = place;
    __atomic_store_n(&c->slot->logs[free].size, bytes ? (uint32_t)bytes : SC_LOG_DEFAULT, __ATOMIC_RELEASE);
    return 0;
}

void sc__forget_log(sc_continuation_t *c, int fd) {
    struct log *log = sc__log(c, fd);
    if (log == NULL) return;
    sc__memory_forget(c);
    *sc__place(c, log) = (struct sc_memory_log){0};
    if (log->repeat) c->repeating--;
    free(log->repeat);
    *log = (struct log){.fd = -1};
}

static size_t left_of(const sc_continuation_t *c, const struct log *log) {
    uint32_t size = sc__place(c, log)->size;
    return log->received < size ? size - log->received : 0;
}

size_t sc_log_left(const sc_continuation_t *c) {
    size_t least = SIZE_MAX;
    for (unsigned i = 0; c->slot && i < SC_MEMORY_LOGS; i++) {
        if (c->logs[i].fd < 0) continue;
        size_t left = left_of(c, &c->logs[i]);
        if (left < least) least = left;
    }
    return least;
}

void sc__begin(struct sc_memory_log *place, uint32_t intent, size_t length) {
    place->intent_length = length;
    __atomic_store_n(&place->intent, intent, __ATOMIC_RELEASE);
}

void sc__finish(struct sc_memory_log *place, uint64_t *position, ssize_t count) {
    if (count > 0) __atomic_store_n(position, *position + (uint64_t)count, __ATOMIC_RELEASE);
    __atomic_store_n(&place->intent, SC_MEMORY_IDLE, __ATOMIC_RELEASE);
}

int sc__may(const sc_continuation_t *c) {
    if (c->ended || c->state == PARKED || c->state == IMPORTED || c->state == ACCEPTED) return -EBUSY;
    return c->differs ? -EILSEQ : 0;
}

size_t sc__total(const struct iovec *parts, int count) {
    size_t sum = 0;
    for (int i = 0; i < count; i++) sum += parts[i].iov_len;
    return sum > SSIZE_MAX ? SSIZE_MAX : sum;
}

/// Into the log first: the kernel counts a byte as read only after it has copied it there. A message has room for all of `length`.
static ssize_t receive_logged(sc_continuation_t *c, struct log *log, unsigned char **bytes, size_t length, int flags) {
    struct sc_memory_log *place = sc__place(c, log);
    unsigned char *frame = sc__input(c, log) + log->received;
    size_t header = HEADER(place);
    *bytes = frame + header;
    sc__begin(place, SC_MEMORY_RECEIVES, length);
    ssize_t count = place->kind == SC_MEMORY_PIPE ? read(log->fd, *bytes, length) : recv(log->fd, *bytes, length, flags | (header ? MSG_TRUNC : 0));
    int error = errno;
    if (count > (ssize_t)length) {
        // The rest of the message is lost for its reader, who would have to get it cut again.
        place->gap = sc__newest(c->slot)->number;
    } else if (count > 0) {
        uint32_t size = (uint32_t)count;
        if (header) memcpy(frame, &size, header);
        log->received += header + (size_t)count;
    }
    sc__finish(place, &place->in, count);
    return count < 0 ? -error : count > (ssize_t)length ? (ssize_t)length : count;
}

/// How many of `wanted` bytes one read may have; 0: the log takes none of them.
static size_t room_for(const sc_continuation_t *c, const struct log *log, size_t wanted) {
    size_t header = HEADER(sc__place(c, log)), left = left_of(c, log);
    if (header) return wanted + header <= left ? wanted : 0;
    return wanted < left ? wanted : left;
}

static int allowed(const sc_continuation_t *c, const struct log *log, int flags, int known) {
    return flags & ~(sc__place(c, log)->kind == SC_MEMORY_PIPE ? 0 : known) ? -EOPNOTSUPP : 0;
}

ssize_t sc_recv_in_place(sc_continuation_t *c, int fd, const void **bytes, size_t length, int flags) {
    int result = sc__may(c);
    if (result < 0) return result;
    struct log *log = sc__log(c, fd);
    if (log == NULL || allowed(c, log, flags, MSG_DONTWAIT | MSG_WAITALL) < 0) return -EOPNOTSUPP;
    size_t room = room_for(c, log, length);
    if (room == 0 && length > 0) return -ENOBUFS;
    unsigned char *place;
    ssize_t received = receive_logged(c, log, &place, room, flags);
    *bytes = place;
    return received;
}

static ssize_t plain(int fd, bool is_pipe, const struct iovec *parts, int count, int flags) {
    struct msghdr message = {.msg_iov = (void *)parts, .msg_iovlen = (size_t)count};
    ssize_t length = is_pipe ? readv(fd, parts, count) : recvmsg(fd, &message, flags);
    return length < 0 ? -errno : length;
}

static ssize_t receive(sc_continuation_t *c, int fd, const struct iovec *parts, int count, int flags) {
    int result = sc__may(c);
    struct log *log = sc__log(c, fd);
    if (result == 0 && log) result = allowed(c, log, flags, MSG_DONTWAIT | MSG_WAITALL | MSG_PEEK);
    if (result < 0) return result;
    // Without a log a descriptor that is no socket is read as one all the same, if nothing is asked of recv(2).
    if (log == NULL) return plain(fd, flags == 0, parts, count, flags);
    struct sc_memory_log *place = sc__place(c, log);
    bool is_pipe = place->kind == SC_MEMORY_PIPE;
    size_t wanted = sc__total(parts, count), room = room_for(c, log, wanted);
    if (flags & MSG_PEEK || wanted == 0) return plain(fd, is_pipe, parts, count, flags);
    if (room == 0) {
        place->gap = sc__newest(c->slot)->number;
        sc__begin(place, SC_MEMORY_RECEIVES, wanted);
        ssize_t length = plain(fd, is_pipe, parts, count, flags);
        sc__finish(place, &place->in, length);
        return length;
    }
    unsigned char *bytes;
    ssize_t received = receive_logged(c, log, &bytes, room, flags);
    for (size_t done = 0; received > 0 && done < (size_t)received; parts++) {
        size_t part = (size_t)received - done < parts->iov_len ? (size_t)received - done : parts->iov_len;
        memcpy(parts->iov_base, bytes + done, part);
        done += part;
    }
    return received;
}

ssize_t sc_readv(sc_continuation_t *c, int fd, const struct iovec *parts, int count) {
    if (count < 0 || count > IOV_MAX) return -EINVAL;
    return receive(c, fd, parts, count, 0);
}

ssize_t sc_recv(sc_continuation_t *c, int fd, void *bytes, size_t length, int flags) {
    struct iovec part = {bytes, length};
    return receive(c, fd, &part, 1, flags);
}

ssize_t sc_read(sc_continuation_t *c, int fd, void *bytes, size_t length) { return sc_recv(c, fd, bytes, length, 0); }
