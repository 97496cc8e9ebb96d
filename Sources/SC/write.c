// Writing with a log: what is written since the last export is kept, or hashed.

#include "internal.h"
#include <errno.h>
#include <limits.h>
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
static unsigned char *output_place(sc_continuation_t *c, struct log *log, size_t wanted, size_t *room) {
    if (log->sent > 0 && log->sent + wanted > SC_MEMORY_OUTPUT_SIZE) {
        struct sc_memory_record folded = *sc__newest(c->slot);
        struct sc_memory_position *position = &folded.positions[log - c->logs];
        position->hash = sc_memory_hash(position->hash, position->hashed, sc__output(c, log), log->sent);
        position->hashed += log->sent;
        position->literal = sc__place(c, log)->out;
        sc__memory_publish(c->slot, folded);
        log->sent = 0;
    }
    *room = SC_MEMORY_OUTPUT_SIZE - log->sent;
    return sc__output(c, log) + log->sent;
}

/// One piece to the kernel, from its place in the memory; what the kernel does not take is not part of the output. `header`: bytes before it, of a message.
static ssize_t send_piece(sc_continuation_t *c, struct log *log, const unsigned char *bytes, size_t length, int flags, size_t header) {
    struct sc_memory_log *place = sc__place(c, log);
    sc__begin(place, SC_MEMORY_SENDS, length);
    ssize_t sent = place->kind == SC_MEMORY_PIPE ? write(log->fd, bytes, length) : send(log->fd, bytes, length, flags | MSG_NOSIGNAL);
    int error = errno;
    if (sent > 0) log->sent += header + (size_t)sent;
    sc__finish(place, &place->out, sent);
    return sent < 0 ? -error : sent;
}

/// A message is one call, whole or not at all.
static ssize_t send_message(sc_continuation_t *c, struct log *log, struct cursor cursor, size_t wanted, int flags) {
    uint32_t size = (uint32_t)wanted;
    if (wanted == 0) return -EINVAL;
    if (wanted > SC_MEMORY_OUTPUT_SIZE - sizeof size) return -EMSGSIZE;
    if (log->repeat) {
        unsigned char piece[4096];
        memcpy(piece, &size, sizeof size);
        for (size_t length = sizeof size; length > 0; length = gather(&cursor, piece, sizeof piece)) {
            if (log->repeat == NULL || length > sc__repeat_left(log)) return sc__repeat_is_short(c, log);
            int result = sc__repeat(c, log, piece, length);
            if (result < 0) return result;
        }
        return (ssize_t)wanted;
    }
    size_t room;
    unsigned char *frame = output_place(c, log, wanted + sizeof size, &room);
    memcpy(frame, &size, sizeof size);
    gather(&cursor, frame + sizeof size, wanted);
    return send_piece(c, log, frame + sizeof size, wanted, flags, sizeof size);
}

static ssize_t transmit(sc_continuation_t *c, int fd, struct cursor cursor, int flags) {
    int result = sc__may(c);
    if (result < 0) return result;
    struct log *log = sc__log(c, fd);
    if (log == NULL) {
        struct msghdr message = {.msg_iov = (void *)cursor.parts, .msg_iovlen = (size_t)cursor.count};
        ssize_t sent = sendmsg(fd, &message, flags | MSG_NOSIGNAL);
        if (sent < 0 && errno == ENOTSOCK && flags == 0) sent = writev(fd, cursor.parts, cursor.count);
        return sent < 0 ? -errno : sent;
    }
    uint32_t kind = sc__place(c, log)->kind;
    if (flags & ~(kind == SC_MEMORY_PIPE ? MSG_NOSIGNAL : MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE)) return -EOPNOTSUPP;
    size_t wanted = sc__total(cursor.parts, cursor.count), done = 0;
    if (kind == SC_MEMORY_MESSAGES) return send_message(c, log, cursor, wanted, flags);
    while (log->repeat && done < wanted) {
        unsigned char piece[4096];
        size_t most = sc__repeat_left(log), length = gather(&cursor, piece, most < sizeof piece ? most : sizeof piece);
        result = sc__repeat(c, log, piece, length);
        if (result < 0) return result;
        done += length;
    }
    while (done < wanted) {
        size_t room;
        unsigned char *place = output_place(c, log, wanted - done, &room);
        size_t length = gather(&cursor, place, wanted - done < room ? wanted - done : room);
        ssize_t sent = send_piece(c, log, place, length, flags, 0);
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
    int result = sc__may(c);
    if (result < 0) return result;
    struct log *log = sc__log(c, fd);
    if (log == NULL) {
        ssize_t sent = sendfile(fd, in_fd, offset, length);
        return sent < 0 ? -errno : sent;
    }
    if (sc__place(c, log)->kind == SC_MEMORY_MESSAGES) return -EOPNOTSUPP;
    // Read at a place, not from the file's position: what the kernel does not take is not skipped.
    off_t start = offset ? *offset : lseek(in_fd, 0, SEEK_CUR);
    if (start < 0) return -errno;
    size_t done = 0;
    while (done < length) {
        unsigned char piece[4096];
        size_t room = log->repeat ? sc__repeat_left(log) : 0;
        unsigned char *place = log->repeat ? piece : output_place(c, log, length - done, &room);
        if (log->repeat && room > sizeof piece) room = sizeof piece;
        ssize_t count = pread(in_fd, place, length - done < room ? length - done : room, start + (off_t)done);
        if (count > 0) {
            size_t wanted = (size_t)count;
            if (log->repeat) {
                int repeated = sc__repeat(c, log, piece, wanted);
                count = repeated < 0 ? repeated : count;
            } else {
                count = send_piece(c, log, place, wanted, 0, 0);
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
