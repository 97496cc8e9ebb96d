// Sessions that are to leave: frozen, read from the journal, and parked.

#include "broker.h"
#include <errno.h>
#include <http_log.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

APLOG_USE_MODULE(sc);

bool session_kernel_taken(int fd, int64_t *taken) {
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

long session_take(struct session *session, unsigned char *bytes, const char **why, char words[static 160]) {
    struct slot *slot = session_slot(session);
    struct continuation continuation;
    int64_t taken;
    if (!session_kernel_taken(session->fd, &taken)) {
        *why = "its connection has ended";
        return 0;
    }
    *why = continuation_take(sc_region, slot, taken - slot->out_base, &continuation, words);
    if (*why) return 0;
    long length = continuation_encode(&continuation, bytes, BROKER_BYTES);
    if (length < 0) *why = "its state is larger than 16 MiB";
    return length < 0 ? 0 : length;
}

void session_thaw(struct session *session) {
    session->state = SERVING;
    gate_open(session_slot(session), SERVED);
}

static void finish_park(struct session *session) {
    char words[160];
    const char *why = NULL;
    unsigned char *bytes = broker.bytes;
    long length = session_take(session, bytes, &why, words);
    int result = length > 0 ? sc_export(session->c, bytes, (size_t)length) : 0;
    tls_wipe(bytes, (size_t)length);
    if (result < 0) why = result == -EFBIG ? "its request has grown beyond what was announced for it; try again" : "there is no memory";
    if (why == NULL) {
        session->state = PARKED_HERE;
        if (sc_parked(session->c) == 0) return;
        return session_thaw(session);
    }
    ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, broker.server, "mod_sc: a session stays: %s", why);
    session_thaw(session);
    sc_refuse(session->c, why);
}

static bool is_inside(struct session *session) { return atomic_load(&session_slot(session)->busy) != 0; }

void session_park(sc_continuation_t *c, void *what) {
    struct session *session = what;
    struct slot *slot = session->has_slot ? session_slot(session) : NULL;
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
    broker_tick(1);
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
            session_thaw(session);
            sc_refuse(session->c, "its thread does not come to rest");
        } else {
            session->next = broker.parking;
            broker.parking = session;
        }
    }
    if (broker.parking) broker_tick(1);
}
