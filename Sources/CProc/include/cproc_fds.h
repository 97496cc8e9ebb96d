// Descriptors over Unix sockets (SCM_RIGHTS, unix(7)).
#pragma once

#include <stddef.h>
#include <sys/types.h>

/// The most descriptors one message carries (SCM_MAX_FD in the kernel's include/net/scm.h).
#define CPROC_MAX_FDS 253

/// Sends `length` bytes (at least 1) and `nfds` descriptors (0...253) in one message. Returns the bytes sent (a stream may take fewer;
/// the descriptors go with the first), EINVAL for more than 253. MSG_NOSIGNAL: EPIPE instead of a signal.
ssize_t cproc_send_fds(int socket, const void *bytes, size_t length, const int fds[], int nfds);

/// Receives up to `capacity` bytes and up to `*nfds` descriptors (all O_CLOEXEC); sets `*nfds` to how many arrived. 0: end of stream.
/// Descriptors beyond the room, also of further SCM_RIGHTS messages, are closed, never leaked; then E2BIG is returned and all others are
/// closed as well. EMFILE: this process may not hold so many, and none is kept.
ssize_t cproc_recv_fds(int socket, void *bytes, size_t capacity, int fds[], int *nfds);

/// SO_PEERCRED: the pid, uid and gid of the peer when it connected.
int cproc_peer_credentials(int socket, pid_t *pid, uid_t *uid, gid_t *gid);
