// Reading and writing with a log: what is read since the last export is kept, what is written is kept or hashed.
//
// No store here is needed to know how far the kernel came: it counts itself. `in`, `out` and the intent only show that nobody read or wrote past us.

#include "internal.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

/// Pieces of one call are few, and a place in them.
struct cursor {
    const struct iovec *parts;
    int count;
    size_t offset;
};

static unsigned char *memory(struct sc_memory_slot *slot, size_t place) { return (unsigned char *)slot + place; }

int sc_log(sc_continuation_t *c, int fd, size_t bytes) {
    if (c->sc->memory < 0 || bytes > SC_LOG_MAX || (bytes > 0 && bytes < 4096)) return -EINVAL;
    if (c->ended || c->state == PARKED || c->state == ACCEPTED) return -EBUSY;
    if (fd < 0 || fd >= c->sc->fd_count || c->sc->by_fd[fd] != c) return -ENOENT;
    if (c->log_fd >= 0) return -EALREADY;
    struct sc_memory_slot *slot = c->slot;
    if (slot == NULL) return -ENOMEM;
    if (slot->has_base) {
        uint64_t in, out;
        int result = sc__counters(fd, &in, &out);
        if (result < 0) return result;
        sc__memory_reset(c);
        slot->base_in = in;
        slot->base_out = out;
    }
    c->log_fd = fd;
    __atomic_store_n(&slot->log, bytes ? (uint32_t)bytes : SC_LOG_DEFAULT, __ATOMIC_RELEASE);
    return 0;
}

size_t sc_log_left(const sc_continuation_t *c) {
    if (c->log_fd < 0 || c->slot == NULL) return SIZE_MAX;
    uint64_t used = c->slot->in - sc__newest(c->slot)->in;
    return used < c->slot->log ? c->slot->log - used : 0;
}

static void begin(struct sc_memory_slot *slot, uint32_t intent, size_t length) {
    slot->intent_length = length;
    __atomic_store_n(&slot->intent, intent, __ATOMIC_RELEASE);
}

/// `position` is `in` or `out`, which the kernel has moved by `count`.
static void finish(struct sc_memory_slot *slot, uint64_t *position, ssize_t count) {
    if (count > 0) __atomic_store_n(position, *position + (uint64_t)count, __ATOMIC_RELEASE);
    __atomic_store_n(&slot->intent, SC_MEMORY_IDLE, __ATOMIC_RELEASE);
}

/// 0: this descriptor has no log, or the call consumes nothing. 1: it has. Negative: it may not be touched.
static int check(const sc_continuation_t *c, int fd, int flags, int allowed) {
    if (c->ended || c->state == PARKED || c->state == IMPORTED || c->state == ACCEPTED) return -EBUSY;
    if (c->differs) return -EILSEQ;
    if (fd != c->log_fd || fd < 0) return 0;
    return flags & ~allowed ? -EOPNOTSUPP : 1;
}

static size_t total(const struct iovec *parts, int count) {
    size_t sum = 0;
    for (int i = 0; i < count; i++) sum += parts[i].iov_len;
    return sum > SSIZE_MAX ? SSIZE_MAX : sum;
}

/// Into the log first: the kernel counts a byte as read only after it has copied it there.
static ssize_t receive_logged(sc_continuation_t *c, int fd, unsigned char **place, size_t length, int flags) {
    struct sc_memory_slot *slot = c->slot;
    *place = memory(slot, SC_MEMORY_INPUT) + (slot->log - sc_log_left(c));
    begin(slot, SC_MEMORY_RECEIVES, length);
    ssize_t received = recv(fd, *place, length, flags);
    int error = errno;
    finish(slot, &slot->in, received);
    return received < 0 ? -error : received;
}

ssize_t sc_recv_in_place(sc_continuation_t *c, int fd, const void **bytes, size_t length, int flags) {
    int result = check(c, fd, flags, MSG_DONTWAIT | MSG_WAITALL);
    if (result < 0) return result;
    if (!result) return -EOPNOTSUPP;
    size_t left = sc_log_left(c);
    if (left == 0) return -ENOBUFS;
    unsigned char *place;
    ssize_t received = receive_logged(c, fd, &place, length < left ? length : left, flags);
    *bytes = place;
    return received;
}

static ssize_t receive(sc_continuation_t *c, int fd, const struct iovec *parts, int count, int flags) {
    struct msghdr message = {.msg_iov = (void *)parts, .msg_iovlen = (size_t)count};
    int result = check(c, fd, flags, MSG_DONTWAIT | MSG_WAITALL | MSG_PEEK);
    if (result < 0) return result;
    size_t wanted = total(parts, count), left = result ? sc_log_left(c) : 0;
    struct sc_memory_slot *slot = c->slot;
    if (result && !(flags & MSG_PEEK) && wanted > 0 && left == 0) slot->gap = sc__newest(slot)->number;
    if (!result || flags & MSG_PEEK || wanted == 0 || left == 0) {
        bool counts = result && !(flags & MSG_PEEK);
        if (counts) begin(slot, SC_MEMORY_RECEIVES, wanted);
        ssize_t length = recvmsg(fd, &message, flags);
        int error = errno;
        if (counts) finish(slot, &slot->in, length);
        return length < 0 ? -error : length;
    }
    unsigned char *log;
    ssize_t received = receive_logged(c, fd, &log, wanted < left ? wanted : left, flags);
    for (size_t done = 0; received > 0 && done < (size_t)received; parts++) {
        size_t part = (size_t)received - done < parts->iov_len ? (size_t)received - done : parts->iov_len;
        memcpy(parts->iov_base, log + done, part);
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

/// Copies up to `room` bytes and moves on.
static size_t gather(struct cursor *cursor, unsigned char *place, size_t room) {
    size_t done = 0;
    while (done < room && cursor->count > 0) {
        size_t left = cursor->parts->iov_len - cursor->offset, part = left < room - done ? left : room - done;
        memcpy(place + done, (char *)cursor->parts->iov_base + cursor->offset, part);
        done += part;
        cursor->offset += part;
        if (cursor->offset == cursor->parts->iov_len) {
            cursor->parts++;
            cursor->count--;
            cursor->offset = 0;
        }
    }
    return done;
}

/// Where the next output goes, after what is kept there has been folded into the hash if `wanted` bytes would not fit. `room` is what fits.
static unsigned char *output_place(struct sc_memory_slot *slot, size_t wanted, size_t *room) {
    const struct sc_memory_record *record = sc__newest(slot);
    size_t used = (size_t)(slot->out - record->literal);
    if (used > 0 && used + wanted > SC_MEMORY_OUTPUT_SIZE) {
        struct sc_memory_record folded = *record;
        folded.hash = sc_memory_hash(record->hash, memory(slot, SC_MEMORY_OUTPUT), used);
        folded.literal = slot->out;
        sc__memory_publish(slot, folded);
        used = 0;
    }
    *room = SC_MEMORY_OUTPUT_SIZE - used;
    return memory(slot, SC_MEMORY_OUTPUT) + used;
}

/// One piece to the kernel, from its place in the memory; what the kernel does not take is not part of the output.
static ssize_t send_piece(sc_continuation_t *c, int fd, const unsigned char *place, size_t length, int flags) {
    begin(c->slot, SC_MEMORY_SENDS, length);
    ssize_t sent = send(fd, place, length, flags | MSG_NOSIGNAL);
    int error = errno;
    finish(c->slot, &c->slot->out, sent);
    return sent < 0 ? -error : sent;
}

static ssize_t transmit(sc_continuation_t *c, int fd, struct cursor cursor, int flags) {
    int result = check(c, fd, flags, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE);
    if (result < 0) return result;
    if (!result) {
        struct msghdr message = {.msg_iov = (void *)cursor.parts, .msg_iovlen = (size_t)cursor.count};
        ssize_t sent = sendmsg(fd, &message, flags | MSG_NOSIGNAL);
        return sent < 0 ? -errno : sent;
    }
    size_t wanted = total(cursor.parts, cursor.count), done = 0;
    while (c->repeat && done < wanted) {
        unsigned char piece[4096];
        size_t most = sc__repeat_left(c), length = gather(&cursor, piece, most < sizeof piece ? most : sizeof piece);
        result = sc__repeat(c, piece, length);
        if (result < 0) return result;
        done += length;
    }
    while (done < wanted) {
        size_t room;
        unsigned char *place = output_place(c->slot, wanted - done, &room);
        size_t length = gather(&cursor, place, wanted - done < room ? wanted - done : room);
        ssize_t sent = send_piece(c, fd, place, length, flags);
        if (sent < 0) return done > 0 ? (ssize_t)done : sent;
        done += (size_t)sent;
        if ((size_t)sent < length) break;
    }
    return (ssize_t)done;
}

ssize_t sc_writev(sc_continuation_t *c, int fd, const struct iovec *parts, int count) {
    if (count < 0 || count > IOV_MAX) return -EINVAL;
    return transmit(c, fd, (struct cursor){parts, count, 0}, 0);
}

ssize_t sc_send(sc_continuation_t *c, int fd, const void *bytes, size_t length, int flags) {
    struct iovec part = {(void *)bytes, length};
    return transmit(c, fd, (struct cursor){&part, 1, 0}, flags);
}

ssize_t sc_write(sc_continuation_t *c, int fd, const void *bytes, size_t length) { return sc_send(c, fd, bytes, length, 0); }

ssize_t sc_sendfile(sc_continuation_t *c, int fd, int in_fd, off_t *offset, size_t length) {
    int result = check(c, fd, 0, 0);
    if (result < 0) return result;
    if (!result) {
        ssize_t sent = sendfile(fd, in_fd, offset, length);
        return sent < 0 ? -errno : sent;
    }
    // Read at a place, not from the file's position: what the kernel does not take is not skipped.
    off_t start = offset ? *offset : lseek(in_fd, 0, SEEK_CUR);
    if (start < 0) return -errno;
    size_t done = 0;
    while (done < length) {
        unsigned char piece[4096];
        size_t room = c->repeat ? sc__repeat_left(c) : 0;
        unsigned char *place = c->repeat ? piece : output_place(c->slot, length - done, &room);
        if (c->repeat && room > sizeof piece) room = sizeof piece;
        ssize_t count = pread(in_fd, place, length - done < room ? length - done : room, start + (off_t)done);
        if (count > 0) {
            size_t wanted = (size_t)count;
            if (c->repeat) {
                int repeated = sc__repeat(c, piece, wanted);
                count = repeated < 0 ? repeated : count;
            } else {
                count = send_piece(c, fd, place, wanted, 0);
            }
            if (count > 0) done += (size_t)count;
            if (count == (ssize_t)wanted) continue;
        } else if (count < 0) {
            count = -errno;
        }
        if (count < 0 && (done == 0 || c->differs)) return count;
        break;
    }
    if (offset) *offset = start + (off_t)done;
    else if (lseek(in_fd, start + (off_t)done, SEEK_SET) < 0) return -errno;
    return (ssize_t)done;
}
