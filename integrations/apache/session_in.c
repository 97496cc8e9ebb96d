// Sessions that come: a process of the MPM is hired for each, gets it, and says whether it can serve it.

#include "broker.h"
#include <errno.h>
#include <http_log.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

APLOG_USE_MODULE(sc);

/// Seconds that an offer waits for a process; whoever offers is patient for ten.
#define HIRING_LIMIT 7
/// How many processes are given one session, when each of them ends before it is live there.
#define GIVING_LIMIT 5

/// A connection to whoever will accept in the MPM's loop, not waited for; a backlog that is full refuses. Its descriptor, or a negative errno.
static int reach(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, sc_region->import_name, sc_region->import_length);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + sc_region->import_length);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, size) == 0) return fd < 0 ? -errno : fd;
    int error = errno;
    close(fd);
    return -error;
}

/// Seconds after which a process may be asked for its last threads, and milliseconds until another one is asked.
#define COURTESY 3
#define NEXT_CALL 20
/// Processes that are being asked at a time: what one of them has free shows in its answer only.
#define CALLS 2

static void hang_up(struct session *session) {
    if (session->control >= 0) close(session->control);
    session->control = -1;
}

static int hire(struct session *session) {
    session->control = reach();
    if (session->control < 0) return session->control;
    char call = session->state == WAITING && session->waited < COURTESY ? CALL_IF_IDLE : CALL_AT_ONCE;
    if (send(session->control, &call, sizeof call, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        int error = errno;
        hang_up(session);
        return -error;
    }
    broker_watch(session->control, session);
    return 0;
}

/// In a file, so that everything is in the socket's buffer at once, and nobody has to be waited for; and another process can have it too.
static int keep(struct session *session, const void *bytes, size_t length) {
    int file = memfd_create("sc-session", MFD_CLOEXEC);
    if (file < 0) return -errno;
    if (session->state_file >= 0) close(session->state_file);
    session->state_file = file;
    session->state_length = (uint32_t)length;
    return write(file, bytes, length) == (ssize_t)length ? 0 : -ENOMEM;
}

static int give(struct session *session) {
    int result = session->control < 0 ? hire(session) : 0;
    if (result < 0) return result;
    int fds[2] = {session->fd, session->state_file};
    struct arrival_head head = {REGION_MAGIC, session->state_length};
    struct iovec part = {&head, sizeof head};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof fds)];
    } control = {0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(&control.header), fds, sizeof fds);
    if (sendmsg(session->control, &message, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof head) return -EAGAIN;
    session->state = ARRIVING;
    session->given++;
    return 0;
}

int session_give(struct session *session, const void *bytes, size_t length) {
    int result = keep(session, bytes, length);
    session->given = 0;
    return result < 0 ? result : give(session);
}

/// It does not come, or ends with the processes that were to serve it.
static void fail(struct session *session, const char *why) {
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, broker.server, "mod_sc: a session %s: %s", session->is_ours ? "ends with its process" : "does not come", why);
    if (!session->is_ours && !session->is_told) {
        sc_refuse(session->c, why);
        // sc_refuse of an import closes nothing of ours but ends the continuation.
        session->c = NULL;
    }
    session_drop(session);
}

void session_give_again(struct session *session) {
    hang_up(session);
    if (session->has_slot && broker.by_slot[session->slot] == session) broker.by_slot[session->slot] = NULL;
    session->has_slot = false;
    // The session itself may be what ends them.
    if (session->given >= GIVING_LIMIT || give(session) < 0) fail(session, "the process that took it in has ended");
}

bool session_probe(void) {
    int fd = reach();
    if (fd >= 0) close(fd);
    return fd != -ECONNREFUSED;
}

static void decline(struct session *session, const char *why) {
    sc_decline(session->offer, why);
    session_drop(session);
}

/// For those that wait, as many as may be asked for at a time.
static void hire_some(void) {
    int calls = 0;
    for (struct session *session = broker.waiting; session; session = session->next) calls += session->control >= 0;
    for (struct session *session = broker.waiting, *next; session && calls < CALLS; session = next) {
        next = session->next;
        if (session->control >= 0 || session->is_turned_down) continue;
        if (hire(session) < 0) decline(session, "nobody accepts connections here now");
        else calls++;
    }
}

void session_offer(sc_t *sc, sc_offer_t *offer, void *user) {
    (void)sc, (void)user;
    if (!broker.takes_sessions) return sc_decline(offer, "this Apache is being stopped");
    struct session *session = calloc(1, sizeof *session);
    if (session == NULL) return sc_decline(offer, "no memory");
    *session = (struct session){.state = WAITING, .fd = -1, .control = -1, .state_file = -1, .offer = offer};
    session->next = broker.waiting;
    broker.waiting = session;
    hire_some();
}

void session_hire_again(void) {
    for (struct session *session = broker.waiting; session; session = session->next) session->is_turned_down = false;
    hire_some();
}

/// A process is there. While the client is still served elsewhere: one that had to be started first would have kept it waiting.
static void hired(struct session *session) {
    if (session->state != WAITING) return;
    session_take_out(&broker.waiting, session);
    session->state = EXPECTED;
    if (sc_accept(session->offer, session, &session->c) < 0) session_drop(session);
    hire_some();
}

/// A process with many sessions on their way to it left this one to others.
static void turned_down(struct session *session) {
    hang_up(session);
    session->is_turned_down = true;
    broker_tick(NEXT_CALL);
    hire_some();
}

void session_wait_less(void) {
    for (struct session *session = broker.waiting, *next; session; session = next) {
        next = session->next;
        if (++session->waited > HIRING_LIMIT) decline(session, "no process or thread is free to serve it (MaxRequestWorkers)");
    }
    hire_some();
}

int session_import(sc_continuation_t *c, void *what, const sc_import_t *import) {
    (void)c;
    struct session *session = what;
    struct continuation continuation;
    int result = import->state_version != CONTINUATION_VERSION ? -EPROTONOSUPPORT
                 : import->channels != 1 || !continuation_decode(import->state, import->length, &continuation) ? -EINVAL : 0;
    session->fd = result == 0 ? import->fds[0] : -1;
    if (result == 0) result = session_give(session, import->state, import->length);
    if (result == 0) return SC_LATER;
    // The library closes the descriptor, and ends c.
    session->fd = -1;
    session->c = NULL;
    session_drop(session);
    return result;
}

void session_go(struct session *session) {
    struct arrival_go message;
    if (!session_kernel_taken(session->fd, &message.out_base)) return session_drop(session);
    if (send(session->control, &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof message) return session_give_again(session);
    hang_up(session);
    session->state = SERVING;
}

/// A process can serve it.
static void settle(struct session *session, uint32_t index, uint32_t life) {
    struct slot *slot = &sc_region->slots[index];
    // It may have died since it said so.
    if (atomic_load(&slot->state) != SLOT_USED || atomic_load(&slot->life) != life) return session_give_again(session);
    session->slot = index;
    session->life = life;
    session->has_slot = true;
    broker.by_slot[index] = session;
    session->state = READY;
    if (session->is_ours) return session_go(session);
    if (!session->is_told) sc_ready(session->c);
    session->is_told = true;
}

void session_answered(struct session *session) {
    struct arrival_answer answer;
    ssize_t length = recv(session->control, &answer, sizeof answer, MSG_DONTWAIT);
    if (length < 0 && errno == EAGAIN) return;
    if (length == sizeof answer && answer.error == 0 && answer.slot == NO_SLOT) return hired(session);
    if (session->state == WAITING && length == sizeof answer && answer.error == EBUSY) return turned_down(session);
    if (session->state == WAITING) {
        decline(session, "the process that would take it in has ended");
        return hire_some();
    }
    if (session->state == EXPECTED) {
        // Another one is asked when the session comes.
        return hang_up(session);
    }
    if (length != sizeof answer) return session_give_again(session);
    if (answer.error == 0 && session->state == ARRIVING && answer.slot < sc_region->slot_count) return settle(session, answer.slot, answer.life);
    fail(session, answer.reason);
}
