// libsc: what a server calls so that its sessions can move to other processes and hosts while their clients notice nothing.
//
// THE RECIPE. A server that has an event loop, in the order of calls:
//
//   1. sc_open("echo", 1, &callbacks, user, 0, &sc)   once in each process that serves (after fork); sc_accept_offers(sc, 1) if it takes sessions in
//   2. add sc_fd(sc) to the event loop (readable); when it is, call sc_dispatch(sc), which calls the callbacks
//   3. for each client: sc_create(sc, session, &c), sc_associate(c, fd, "client")
//   4. at a safe point, when the session's state is whole: sc_export(c, bytes, length). Not needed after each; the one before sc_parked counts
//   5. callback `park`: finish the step at hand, take the descriptors out of the event loop, sc_export, sc_parked(c); do not touch them until
//        `resume`: the session stays. Serve it again
//        `gone`:   it is served elsewhere. Close the descriptors, forget the session, sc_end(c). Closing sends nothing
//   6. when the client's session is over: take the descriptors out of the event loop, sc_end(c), close them
//
// A server that takes sessions in (sc_accept_offers):
//
//   7. callback `offer`: sc_accept(offer, session, &c) or sc_decline(offer, reason). The session still runs elsewhere; nothing is lost by declining
//   8. callback `import`: build the session from its state and its descriptors, which are associated already. Return 0, or a negative errno to
//      refuse (or SC_LATER, and call sc_ready or sc_refuse). Do not touch the descriptors until
//        `resume`: it is live. Serve it: add the descriptors to the event loop, and look for input that waits
//        `gone`:   it does not come. As in 5
//
// A server whose sessions outlive it (SC_SURVIVE for sc_open), killed, stopped or busy without end:
//
//   9. sc_log(c, fd, 0) after sc_associate, and in `import`; from then on sc_recv, sc_send and the like for this descriptor, and nothing else. In a
//      session of several processes: for every channel of a part that is to outlive its process, and for their other ends, before they are used
//  10. sc_export at each safe point, right after sc_log too. A successor begins with that state; the input since then lies before it again, and what it
//      writes is compared with what the client has, until it is new. So between two exports the output must be a function of state and input alone; of
//      several channels each one's, whatever the order in which they had input
//  11. when sc_log_left(c) is small, come to a safe point before you read on
//
// A session that several processes serve together, joined by pipes and Unix sockets:
//
//  12. one of them draws SC_GROUP_SIZE random bytes (getrandom) and gives them to the others; each calls sc_create, sc_join(c, group, part), and
//      sc_associate for every end that it has of the session's channels. They are parked, offered and moved together, with what is in the channels
//  13. on the target each part is offered to the processes of the service by turns: sc_offer_part says which it is; decline one that is not yours
//
// RULES. Nothing here blocks, and there are no threads: all calls on one sc_t come from one thread at a time. Callbacks are called by sc_dispatch
// only, and may call everything here but sc_close and sc_dispatch. The agent holds duplicates, so close(2) alone neither ends a connection nor takes it out of an epoll
// set: EPOLL_CTL_DEL and sc_end (or sc_dissociate) come before it. The client sees the end when the agent has let go as well; shutdown(2) does not wait
// for that. When no agent runs, every call does its book-keeping and nothing else; an agent that starts, or starts again, is found by sc_dispatch, at
// most once a second, and is told everything. Results are 0 or a negative errno; a call that fails has changed nothing.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SC_API __attribute__((visibility("default")))

/// The version of this interface; sc_abi() tells the library's.
#define SC_ABI 0
SC_API int sc_abi(void);

/// The most bytes of state that a continuation exports, and without sc_reserve.
#define SC_STATE_MAX 16777216
#define SC_STATE_DEFAULT 65536
/// The most channels of one continuation.
#define SC_CHANNELS_MAX 8
/// The most bytes of a service's name, and of a role.
#define SC_SERVICE_MAX 63
#define SC_ROLE_MAX 31
/// The most bytes of a reason; sc_refuse and sc_decline cut a longer one.
#define SC_REASON_MAX 199

/// A process's part in a service.
typedef struct sc sc_t;
/// One session as this process serves it.
typedef struct sc_continuation sc_continuation_t;
/// A session that would come.
typedef struct sc_offer sc_offer_t;

/// The bytes that name a session of several processes, and the most bytes of what one does in it.
#define SC_GROUP_SIZE 16
#define SC_PART_MAX 31

/// What comes with a session.
typedef struct sc_import {
    const void *state; // valid during the callback
    size_t length;
    uint32_t state_version; // the exporter's; one that is not known is refused with -EPROTONOSUPPORT
    uint32_t channels;
    const int *fds;           // yours from now on, unless the callback returns an error; O_CLOEXEC, and blocking: set O_NONBLOCK here
    const char *const *roles; // as the exporter had associated them
} sc_import_t;

/// What `import` returns when it cannot tell yet.
#define SC_LATER 1

/// What a server does when it is asked. Any of them may be NULL: without `park` sessions cannot leave, without `offer` and `import` none come.
typedef struct sc_callbacks {
    size_t size; // sizeof(sc_callbacks_t): later versions have more
    /// Bring the session to a safe point and call sc_parked, now or soon: within a second by default.
    void (*park)(sc_continuation_t *c, void *session);
    /// Serve the session: it stays, or it has come.
    void (*resume)(sc_continuation_t *c, void *session);
    /// It is served elsewhere, or does not come: close the descriptors, forget it, sc_end(c).
    void (*gone)(sc_continuation_t *c, void *session);
    /// A session would come: call sc_accept or sc_decline, now or soon.
    void (*offer)(sc_t *sc, sc_offer_t *offer, void *user);
    /// It is here, still silent. 0: ready to serve it; negative: refused, and the descriptors are closed by the library, c ends. SC_LATER: sc_ready or
    /// sc_refuse follows, soon, since the client waits already; the descriptors are yours. `gone` may come first.
    int (*import)(sc_continuation_t *c, void *session, const sc_import_t *import);
} sc_callbacks_t;

/// A flag of sc_open: exports, and logs, are kept in memory that outlives the process, and the agent gives its sessions to another one of the service.
#define SC_SURVIVE 1u

/// Makes this process one of `service`'s. `state_version` names the form of the state that it exports. `flags`: 0 or SC_SURVIVE. Succeeds without an agent.
/// EINVAL: the name (letters, digits, '.', '-', '_'), the flags or the callbacks' size.
SC_API int sc_open(const char *service, uint32_t state_version, const sc_callbacks_t *callbacks, void *user, unsigned flags, sc_t **out);

/// Ends it all; the sessions are served on, and can move no longer. Not from a callback.
SC_API void sc_close(sc_t *sc);

/// The one descriptor to wait for (readable). It stays the same for the life of `sc`; do not read it.
SC_API int sc_fd(const sc_t *sc);

/// Does what is due without blocking. Returns how many callbacks it called, or a negative errno.
SC_API int sc_dispatch(sc_t *sc);

/// 1: an agent is there and knows this process; 0: none runs, or it does not answer yet; negative: it refuses this process, with sc_reason's words.
SC_API int sc_status(const sc_t *sc);
/// Why the agent refuses, for a log; "" otherwise.
SC_API const char *sc_reason(const sc_t *sc);

/// A continuation for one session; `session` is given to the callbacks. ENOMEM.
SC_API int sc_create(sc_t *sc, void *session, sc_continuation_t **out);

/// Ends it; before the descriptors are closed. NULL is nothing. It may be called in any state, `park` and `gone` included.
SC_API void sc_end(sc_continuation_t *c);

/// The session is served by several processes, and `part` is what this one does in it ("worker"). `group`: SC_GROUP_SIZE bytes, the same in all of them.
/// Before the first sc_associate; one that was imported has joined already. EINVAL: the part (letters, digits, '-', '_'); EALREADY: it has joined, or has channels.
SC_API int sc_join(sc_continuation_t *c, const void *group, const char *part);

/// `fd` belongs to the session, as `role` ("client"): a connected TCP, UDP or Unix socket, an end of a pipe, a regular file. Without sc_join a session
/// that is to move has one, of TCP. EBADF; EPROTOTYPE: something else; ENOTCONN; EALREADY: `fd` is associated already; ENOSPC: SC_CHANNELS_MAX;
/// EINVAL: the role; EBUSY: it is parked or being imported.
SC_API int sc_associate(sc_continuation_t *c, int fd, const char *role);

/// It belongs to it no longer; before `fd` is closed. ENOENT: it did not; EBUSY: it is parked.
SC_API int sc_dissociate(sc_continuation_t *c, int fd);

/// The state may have so many bytes, SC_STATE_DEFAULT to SC_STATE_MAX: who would take the session is told beforehand, and may refuse what is too much. So it
/// is said of the sessions that need it, while they do. EINVAL: `bytes`; EOPNOTSUPP: with SC_SURVIVE, whose memory has no room for it.
SC_API int sc_reserve(sc_continuation_t *c, size_t bytes);

/// Keeps a copy of the session's state, in place of the former. EFBIG: more than is reserved, or than this host's agent takes; ENOMEM; EBUSY: it is parked. The former stays then.
SC_API int sc_export(sc_continuation_t *c, const void *bytes, size_t length);

/// The most logs of one continuation.
#define SC_LOGS_MAX 4
/// The most bytes of input that a log takes, and how many it takes by default.
#define SC_LOG_MAX 262144
#define SC_LOG_DEFAULT 131072

/// Keeps what is read from `fd`, a channel of the session, since the last export, `bytes` of it (4096 to SC_LOG_MAX; 0: SC_LOG_DEFAULT), and what is
/// written: a TCP connection, a Unix socket, an end of a pipe. From now on this descriptor is read and written only by the calls below. It counts from
/// the next export on; those before count no longer. Descriptors that travel through a Unix socket (SCM_RIGHTS) are not kept, nor are empty messages.
/// EINVAL: `bytes`, or no SC_SURVIVE; ENOENT: `fd` is none of its channels; EPROTOTYPE: it is a file, UDP, or a pipe in packet mode; EALREADY: it has a log; ENOSPC: SC_LOGS_MAX
/// have one; EBUSY: it is parked; ENOMEM.
SC_API int sc_log(sc_continuation_t *c, int fd, size_t bytes);

/// How many bytes the fullest of its logs still takes before the next export; SIZE_MAX without a log. At 0 reading goes on, and until the next export
/// the session cannot outlive the process. A message takes 4 bytes besides its own, and is read with room for all that was asked for, or not kept.
SC_API size_t sc_log_left(const sc_continuation_t *c);

/// As read(2), readv(2) and recv(2), with -errno as result; at most sc_log_left(c) bytes at once, unless that is 0. Without a log for `fd` they are these
/// calls. EBUSY: it is parked, or being imported; EILSEQ: as below; EOPNOTSUPP: other flags than MSG_DONTWAIT, MSG_WAITALL and MSG_PEEK; of a pipe any.
SC_API ssize_t sc_read(sc_continuation_t *c, int fd, void *bytes, size_t length);
SC_API ssize_t sc_readv(sc_continuation_t *c, int fd, const struct iovec *parts, int count);
SC_API ssize_t sc_recv(sc_continuation_t *c, int fd, void *bytes, size_t length, int flags);

/// As sc_recv, without a copy: `*bytes` are the log's own, one call's behind the former's, to be read until the next sc_export. EOPNOTSUPP: `fd` has no
/// log; ENOBUFS: it is full, export first.
SC_API ssize_t sc_recv_in_place(sc_continuation_t *c, int fd, const void **bytes, size_t length, int flags);

/// As write(2), writev(2), send(2) and sendfile(2), with -errno as result; SIGPIPE only of pipes. Output that the client has already is compared and counts
/// as written. EILSEQ: it differs; the connection has been reset, end the session. EBUSY as above; EOPNOTSUPP: other flags than MSG_DONTWAIT, MSG_NOSIGNAL
/// and MSG_MORE; of a pipe any but MSG_NOSIGNAL. Of messages with a log: EINVAL: an empty one; EMSGSIZE: one of more than 65,532 bytes. With a log,
/// sc_sendfile copies the file's bytes; EOPNOTSUPP: to messages.
SC_API ssize_t sc_write(sc_continuation_t *c, int fd, const void *bytes, size_t length);
SC_API ssize_t sc_writev(sc_continuation_t *c, int fd, const struct iovec *parts, int count);
SC_API ssize_t sc_send(sc_continuation_t *c, int fd, const void *bytes, size_t length, int flags);
SC_API ssize_t sc_sendfile(sc_continuation_t *c, int fd, int in_fd, off_t *offset, size_t length);

/// The session is at a safe point, its state exported, and will not be touched. ESTALE: nobody waits for it any longer (`resume` has been called).
/// EFBIG: the state that was exported is longer than the agent takes; sc_refuse then.
SC_API int sc_parked(sc_continuation_t *c);

/// The session cannot be parked now; it is served on, and `resume` is not called. `reason` is shown to who asked. ESTALE as above.
SC_API int sc_refuse(sc_continuation_t *c, const char *reason);

/// The session cannot move, for this reason, until NULL says that it can again: who wants to move it is told without `park` being called, and `sc-checkpoint
/// sessions` shows it. For what stands in the way for longer than a moment; the rest is sc_refuse's. Saying the same again costs nothing. In any state; a
/// move that is under way goes on. EINVAL: "", or more than SC_REASON_MAX bytes; ENOMEM.
SC_API int sc_pin(sc_continuation_t *c, const char *reason);

/// After SC_LATER: the session can be served here; `resume` or `gone` follows. ESTALE: nobody waits for it any longer (`gone` has been called).
/// sc_refuse in its place refuses it, with a reason for who asked, and ends c; close the descriptors then.
SC_API int sc_ready(sc_continuation_t *c);

/// Sessions may come (1) or not (0, the default). EINVAL: there are no callbacks for them.
SC_API int sc_accept_offers(sc_t *sc, int accept);

/// What this process would do in a session of several; "" for one of one process.
SC_API const char *sc_offer_part(const sc_offer_t *offer);

/// The connection that would come, as "IP:PORT", and the most bytes of state it can have. Valid until the offer is answered.
SC_API const char *sc_offer_local(const sc_offer_t *offer);
SC_API const char *sc_offer_peer(const sc_offer_t *offer);
SC_API size_t sc_offer_state_bytes(const sc_offer_t *offer);

/// The form of the state, as the exporter's sc_open has it; 0: not known. One that this server cannot import is declined now, while that costs nothing.
SC_API uint32_t sc_offer_state_version(const sc_offer_t *offer);

/// Yes: `*out` is the continuation that will be imported. The offer is no more. ESTALE: it has been withdrawn; ENOMEM.
SC_API int sc_accept(sc_offer_t *offer, void *session, sc_continuation_t **out);
/// No, with a reason that the one who asked is shown. The offer is no more.
SC_API void sc_decline(sc_offer_t *offer, const char *reason);

#ifdef __cplusplus
}
#endif
