// What waits in pipes, Unix sockets and datagram sockets, read without taking it out; and how it is put into new ones.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "cproc_fds.h"

/// Access mode and status flags (F_GETFL) by the numbers of x86, whatever this machine's are; others are left out.
int cproc_description_flags(int fd);
/// Sets the status flags that fcntl(2) F_SETFL can change (append, non-blocking, direct, no access time, async) from those numbers.
int cproc_set_description_flags(int fd, uint32_t flags);
/// open(2) of a file with an access mode and status flags by those numbers. O_CLOEXEC, O_NOFOLLOW not; never creates or truncates.
int cproc_open_with(const char *path, uint32_t flags);

/// F_GETPIPE_SZ: bytes.
int cproc_pipe_capacity(int pipe);
/// pipe2(2) with O_CLOEXEC and a capacity of at least `capacity` bytes (F_SETPIPE_SZ). EPERM: more than fs.pipe-max-size without
/// CAP_SYS_RESOURCE.
int cproc_pipe_of(int ends[2], int capacity);
/// Copies what is in a pipe into a new one (tee(2)): nothing is consumed, and packets stay packets. `read_end` is a reading descriptor of it.
/// Returns the bytes; `*copy` is the new pipe's non-blocking reading end, which the caller owns.
int cproc_pipe_copy(int read_end, int *copy);
/// Writes into a pipe's non-blocking writing end, as one packet (O_DIRECT) or as bytes. Returns how many were taken.
ssize_t cproc_pipe_write(int write_end, const void *bytes, size_t length, int as_packet);

/// Sends as a user or another process (SCM_CREDENTIALS); the pid must exist and needs CAP_SYS_ADMIN, the others CAP_SETUID and CAP_SETGID.
struct cproc_sender {
    pid_t pid;
    uid_t uid;
    gid_t gid;
};

/// What one recvmsg(2) gave.
struct cproc_message {
    uint32_t length; // of the whole message, also when it did not fit
    int nfds;
    uint8_t is_truncated, has_sender;
    struct cproc_sender sender;
};

/// Looks at the next message (MSG_PEEK | MSG_DONTWAIT; with SO_PEEK_OFF the one at the offset). Its descriptors come as duplicates, O_CLOEXEC and
/// the caller's. Returns 0, EAGAIN when nothing waits there; an end of stream is a message of length 0.
int cproc_peek_message(int socket, void *bytes, size_t capacity, int fds[CPROC_MAX_FDS], struct cproc_message *message);
/// Of the `length` bytes of a stream that a peek has given together with descriptors: how many come before the message that has them. A peek names
/// the descriptors of the next such message however little of it is read, so this one runs into memory that it cannot write to on that message's last
/// byte, and the kernel counts whole messages only (unix_stream_read_generic() in net/unix/af_unix.c). SO_PEEK_OFF is where it was set before.
int cproc_peek_before_fds(int socket, uint32_t length);
/// Takes the next message out and drops it with its descriptors. Returns its length (for a stream, up to 64 KiB), EAGAIN when nothing waits.
int cproc_drop_message(int socket);
/// Sends one message without waiting, with its descriptors and, if not NULL, as `sender`. Returns the bytes sent; EAGAIN when there is no room.
ssize_t cproc_send_message(int socket, const void *bytes, size_t length, const int fds[], int nfds, const struct cproc_sender *sender);

/// socketpair(2) of Unix sockets, O_CLOEXEC, whose SO_PEERCRED shows this effective user and group (-1: the caller's) and this process.
int cproc_unix_pair(int type, uint32_t uid, uint32_t gid, int ends[2]);
