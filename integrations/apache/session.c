// The sessions as the broker knows them: parked, taken in, and taken over from a process that died.

#include "broker.h"
#include <errno.h>
#include <http_log.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

APLOG_USE_MODULE(sc);

/// Seconds that an offer waits for a process; whoever offers is patient for ten.
#define HIRING_LIMIT 7

static struct slot *slot_of(const struct session *session) { return &sc_region->slots[session->slot]; }

/// Bytes that the kernel has taken since the socket was made: acknowledged and queued. Acknowledgements may come between the two looks.
static bool kernel_taken(int fd, int64_t *taken) {
    for (int tries = 0; tries < 1000; tries++) {
        struct tcp_info before = {0}, after = {0};
        socklen_t size = sizeof before;
        int queued = 0;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &before, &size) < 0 || ioctl(fd, SIOCOUTQ, &queued) < 0) return false;
        size = sizeof after;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &after, &size) < 0) return false;
        if (before.tcpi_bytes_acked != after.tcpi_bytes_acked) continue;
        *taken = (int64_t)before.tcpi_bytes_acked + queued;
        return true;
    }
    return false;
}

static void take_out(struct session **list, struct session *session) {
    while (*list && *list != session) list = &(*list)->next;
    if (*list) *list = session->next;
}

static void drop(struct session *session) {
    if (session->has_slot && broker.by_slot[session->slot] == session) broker.by_slot[session->slot] = NULL;
    take_out(session->state == WAITING ? &broker.waiting : &broker.parking, session);
    if (session->control >= 0) close(session->control);
    sc_end(session->c);
    if (session->fd >= 0) close(session->fd);
    free(session);
}

void session_begin(uint32_t index, uint32_t life, int fd) {
    struct slot *slot = &sc_region->slots[index];
    // One that ended as it became known was not told of.
    if (broker.by_slot[index] && broker.by_slot[index]->life != life && broker.by_slot[index]->state == SERVING) drop(broker.by_slot[index]);
    struct session *session = calloc(1, sizeof *session);
    bool is_there = atomic_load(&slot->life) == life && atomic_load(&slot->state) != SLOT_FREE;
    if (session == NULL || broker.by_slot[index] || !is_there || sc_create(broker.sc, session, &session->c) < 0) {
        free(session);
        close(fd);
        return;
    }
    *session = (struct session){.c = session->c, .fd = fd, .control = -1, .slot = index, .life = life, .has_slot = true};
    // A connection that has ended already is of no use to anybody.
    if (sc_associate(session->c, fd, "client") < 0) {
        sc_end(session->c);
        session->c = NULL;
    }
    broker.by_slot[index] = session;
    session_look(session);
}

void session_look(struct session *session) {
    struct slot *slot = session->has_slot ? slot_of(session) : NULL;
    struct outlook outlook;
    bool is_there = slot && atomic_load(&slot->life) == session->life && atomic_load(&slot->state) != SLOT_FREE;
    if (slot && !is_there && session->state == SERVING) return drop(session);
    if (!is_there || session->state != SERVING || session->c == NULL || !continuation_look(sc_region, slot, &outlook)) return;
    // Before it is as long as that: in the next second it may be.
    bool is_long = slot->in_total - slot->in_logged > SC_REQUEST_SHORT / 2;
    size_t more = slot->tls_state == TLS_NONE ? 0 : sizeof(struct continuation_tls) + SC_TLS_RECORD;
    sc_reserve(session->c, more + (is_long ? sc_region->request_max + SC_STATE_DEFAULT - SC_REQUEST_SHORT : SC_STATE_DEFAULT));
    uint64_t seen = session->seen;
    session->seen = outlook.why && !outlook.is_lasting ? outlook.request + 1 : 0;
    bool is_old = outlook.is_lasting || (outlook.why && session->seen == seen);
    if (outlook.why && !is_old) return;
    // Before it is told, so that its end is not missed for long.
    slot->is_pinned = outlook.why && !outlook.is_lasting;
    sc_pin(session->c, outlook.why);
}

void session_ended(uint32_t index) {
    struct slot *slot = &sc_region->slots[index];
    if (atomic_load(&slot->state) != SLOT_ENDED) return;
    struct session *session = broker.by_slot[index];
    if (session && session->life == atomic_load(&slot->life)) {
        // Parked: what becomes of it is decided elsewhere.
        if (session->state == PARKED_HERE) session->has_slot = false, broker.by_slot[index] = NULL;
        else drop(session);
    }
    atomic_store(&slot->freeze, SERVED);
    atomic_store(&slot->state, SLOT_FREE);
}

// MARK: Away from here

/// The session's bytes, or 0 and why it cannot be continued.
static long take(struct session *session, unsigned char *bytes, const char **why, char words[static 160]) {
    struct slot *slot = slot_of(session);
    struct continuation continuation;
    int64_t taken;
    if (!kernel_taken(session->fd, &taken)) {
        *why = "its connection has ended";
        return 0;
    }
    *why = continuation_take(sc_region, slot, taken - slot->out_base, &continuation, words);
    if (*why) return 0;
    long length = continuation_encode(&continuation, bytes, BROKER_BYTES);
    if (length < 0) *why = "its state is larger than 16 MiB";
    return length < 0 ? 0 : length;
}

static void thaw(struct session *session) {
    session->state = SERVING;
    gate_open(slot_of(session), SERVED);
}

static void finish_park(struct session *session) {
    char words[160];
    const char *why = NULL;
    unsigned char *bytes = broker.bytes;
    long length = take(session, bytes, &why, words);
    int result = length > 0 ? sc_export(session->c, bytes, (size_t)length) : 0;
    if (result < 0) why = result == -EFBIG ? "its request has grown beyond what was announced for it; try again" : "there is no memory";
    if (why == NULL) {
        session->state = PARKED_HERE;
        if (sc_parked(session->c) == 0) return;
        return thaw(session);
    }
    ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, broker.server, "mod_sc: a session stays: %s", why);
    thaw(session);
    sc_refuse(session->c, why);
}

static bool is_inside(struct session *session) { return atomic_load(&slot_of(session)->busy) != 0; }

static void park(sc_continuation_t *c, void *what) {
    struct session *session = what;
    struct slot *slot = session->has_slot ? slot_of(session) : NULL;
    if (slot == NULL || session->state != SERVING || atomic_load(&slot->state) != SLOT_USED || atomic_load(&slot->life) != session->life) {
        sc_refuse(c, "its connection has just ended");
        return;
    }
    session->state = PARKING_HERE;
    atomic_store(&slot->freeze, FROZEN);
    if (!is_inside(session)) return finish_park(session);
    // The thread is inside for some microseconds; longer only while a file is read.
    session->asked = 0;
    session->next = broker.parking;
    broker.parking = session;
    broker_tick();
}

void session_park_again(void) {
    struct session *sessions = broker.parking;
    broker.parking = NULL;
    while (sessions) {
        struct session *session = sessions;
        sessions = session->next;
        if (!is_inside(session)) {
            finish_park(session);
        } else if (++session->asked > 5000) {
            thaw(session);
            sc_refuse(session->c, "its thread does not come to rest");
        } else {
            session->next = broker.parking;
            broker.parking = session;
        }
    }
    if (broker.parking) broker_tick();
}

// MARK: In from elsewhere

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

static int hire(struct session *session) {
    session->control = reach();
    if (session->control < 0) return session->control;
    broker_watch(session->control, session);
    return 0;
}

/// To the process that was hired for it, or to any. 0, or a negative errno.
static int give(struct session *session, const void *bytes, size_t length) {
    int result = session->control < 0 ? hire(session) : 0;
    if (result < 0) return result;
    // In a file, so that everything is in the socket's buffer at once, and nobody has to be waited for.
    int fds[2] = {session->fd, memfd_create("sc-session", MFD_CLOEXEC)};
    if (fds[1] < 0) return -errno;
    struct arrival_head head = {REGION_MAGIC, (uint32_t)length};
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
    if (write(fds[1], bytes, length) != (ssize_t)length) result = -ENOMEM;
    else if (sendmsg(session->control, &message, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof head) result = -EAGAIN;
    close(fds[1]);
    if (result < 0) return result;
    session->state = ARRIVING;
    return 0;
}

bool session_probe(void) {
    int fd = reach();
    if (fd >= 0) close(fd);
    return fd != -ECONNREFUSED;
}

static void offer(sc_t *sc, sc_offer_t *offer, void *user) {
    (void)sc, (void)user;
    if (!broker.takes_sessions) return sc_decline(offer, "this Apache is being stopped");
    struct session *session = calloc(1, sizeof *session);
    if (session == NULL) return sc_decline(offer, "no memory");
    *session = (struct session){.state = WAITING, .fd = -1, .control = -1, .offer = offer};
    if (hire(session) < 0) {
        free(session);
        return sc_decline(offer, "nobody accepts connections here now");
    }
    session->next = broker.waiting;
    broker.waiting = session;
}

static void decline(struct session *session, const char *why) {
    sc_decline(session->offer, why);
    drop(session);
}

/// A process is there. While the client is still served elsewhere: one that had to be started first would have kept it waiting.
static void hired(struct session *session) {
    if (session->state != WAITING) return;
    take_out(&broker.waiting, session);
    session->state = EXPECTED;
    if (sc_accept(session->offer, session, &session->c) < 0) drop(session);
}

void session_wait_less(void) {
    for (struct session *session = broker.waiting, *next; session; session = next) {
        next = session->next;
        if (++session->waited > HIRING_LIMIT) decline(session, "no process or thread is free to serve it (MaxRequestWorkers)");
    }
}

static int import(sc_continuation_t *c, void *what, const sc_import_t *import) {
    (void)c;
    struct session *session = what;
    struct continuation continuation;
    int result = import->state_version != CONTINUATION_VERSION ? -EPROTONOSUPPORT
                 : import->channels != 1 || !continuation_decode(import->state, import->length, &continuation) ? -EINVAL : 0;
    session->fd = result == 0 ? import->fds[0] : -1;
    if (result == 0) result = give(session, import->state, import->length);
    if (result == 0) return SC_LATER;
    // The library closes the descriptor, and ends c.
    session->fd = -1;
    session->c = NULL;
    drop(session);
    return result;
}

/// What the client has got from the kernel counts from here on.
static bool go(struct session *session) {
    struct arrival_go message;
    if (!kernel_taken(session->fd, &message.out_base)) return false;
    bool is_told = send(session->control, &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof message;
    close(session->control);
    session->control = -1;
    session->state = SERVING;
    session->is_revival = false;
    return is_told;
}

void session_answered(struct session *session) {
    struct arrival_answer answer;
    ssize_t length = recv(session->control, &answer, sizeof answer, MSG_DONTWAIT);
    if (length < 0 && errno == EAGAIN) return;
    if (length == sizeof answer && answer.error == 0 && answer.slot == NO_SLOT) return hired(session);
    if (session->state == WAITING) return decline(session, "the process that would take it in has ended");
    if (session->state == EXPECTED) {
        // Another one is asked when the session comes.
        close(session->control);
        session->control = -1;
        return;
    }
    bool is_ready = session->state == ARRIVING && length == sizeof answer && answer.error == 0 && answer.slot < sc_region->slot_count;
    if (is_ready) {
        session->slot = answer.slot;
        session->life = answer.life;
        session->has_slot = true;
        broker.by_slot[answer.slot] = session;
        session->state = READY;
        if (!session->is_revival) sc_ready(session->c);
        else if (!go(session)) drop(session);
        return;
    }
    const char *why = length == sizeof answer ? answer.reason : "the process that took it in has ended";
    bool is_revival = session->is_revival, was_arriving = session->state == ARRIVING;
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, broker.server, "mod_sc: a session %s: %s", is_revival ? "ends with its process" : "does not come", why);
    if (is_revival || !was_arriving) return drop(session);
    sc_refuse(session->c, why);
    // sc_refuse of an import closes nothing of ours but ends the continuation.
    session->c = NULL;
    drop(session);
}

static void resume(sc_continuation_t *c, void *what) {
    (void)c;
    struct session *session = what;
    if (session->state == READY) {
        if (!go(session)) drop(session);
        return;
    }
    if (session->state == PARKING_HERE) return; // asked no longer; it is noticed when it is at rest
    if (session->state != PARKED_HERE) return;
    if (session->has_slot && atomic_load(&slot_of(session)->state) == SLOT_USED && slot_of(session)->life == session->life) return thaw(session);
    // Its connection was closed by the server while it was parked (a timeout), or its process has died.
    shutdown(session->fd, SHUT_RDWR);
    drop(session);
}

static void gone(sc_continuation_t *c, void *what) {
    (void)c;
    struct session *session = what;
    if (session->state == PARKED_HERE && session->has_slot) {
        struct slot *slot = slot_of(session);
        // The thread gives the slot back by itself.
        slot->is_noted = 0;
        gate_open(slot, GONE);
        if (atomic_load(&slot->state) == SLOT_ENDED) session_ended(session->slot);
    }
    drop(session);
}

const sc_callbacks_t session_callbacks = {sizeof(sc_callbacks_t), park, resume, gone, offer, import};

// MARK: After a death

void session_orphaned(struct session *session) {
    struct slot *slot = slot_of(session);
    uint32_t old = session->slot;
    if (session->state == PARKED_HERE) {
        session->has_slot = false;
        broker.by_slot[old] = NULL;
    } else {
        unsigned char *bytes = broker.bytes;
        char words[160];
        const char *why = NULL;
        bool is_torn = atomic_load(&slot->changing) & 1;
        long length = is_torn ? 0 : take(session, bytes, &why, words);
        session->has_slot = false;
        broker.by_slot[old] = NULL;
        session->is_revival = true;
        int result = length > 0 ? give(session, bytes, (size_t)length) : -1;
        if (result < 0) {
            ap_log_error(APLOG_MARK, APLOG_WARNING, 0, broker.server, "mod_sc: a session ends with its process %d: %s", slot->pid,
                         is_torn ? "it was in the middle of a change" : why ? why : strerror(-result));
            shutdown(session->fd, SHUT_RDWR);
            drop(session);
        }
    }
    input_forget(slot, slot->in_total - slot->in_logged);
    atomic_store(&slot->freeze, SERVED);
    atomic_store(&slot->state, SLOT_FREE);
}
