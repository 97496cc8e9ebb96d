// The sessions as the broker knows them, from their first sign to their end, and after the death of their process.

#include "broker.h"
#include <http_log.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

APLOG_USE_MODULE(sc);

void session_take_out(struct session **list, struct session *session) {
    while (*list && *list != session) list = &(*list)->next;
    if (*list) *list = session->next;
}

void session_drop(struct session *session) {
    if (session->has_slot && broker.by_slot[session->slot] == session) broker.by_slot[session->slot] = NULL;
    session_take_out(session->state == WAITING ? &broker.waiting : &broker.parking, session);
    if (session->control >= 0) close(session->control);
    if (session->state_file >= 0) close(session->state_file);
    sc_end(session->c);
    if (session->fd >= 0) close(session->fd);
    free(session);
}

void session_begin(uint32_t index, uint32_t life, int fd) {
    struct slot *slot = &sc_region->slots[index];
    // One that ended as it became known was not told of.
    if (broker.by_slot[index] && broker.by_slot[index]->life != life && broker.by_slot[index]->state == SERVING) session_drop(broker.by_slot[index]);
    struct session *session = calloc(1, sizeof *session);
    bool is_there = atomic_load(&slot->life) == life && atomic_load(&slot->state) != SLOT_FREE;
    if (session == NULL || broker.by_slot[index] || !is_there || sc_create(broker.sc, session, &session->c) < 0) {
        free(session);
        close(fd);
        return;
    }
    *session = (struct session){.c = session->c, .fd = fd, .control = -1, .state_file = -1, .slot = index, .life = life, .has_slot = true};
    // A connection that has ended already is of no use to anybody.
    if (sc_associate(session->c, fd, "client") < 0) {
        sc_end(session->c);
        session->c = NULL;
    }
    broker.by_slot[index] = session;
    session_look(session);
}

void session_look(struct session *session) {
    struct slot *slot = session->has_slot ? session_slot(session) : NULL;
    struct outlook outlook;
    bool is_there = slot && atomic_load(&slot->life) == session->life && atomic_load(&slot->state) != SLOT_FREE;
    if (slot && !is_there && session->state == SERVING) return session_drop(session);
    if (is_there && session->state == SERVING && session->state_file >= 0 && slot->is_noted) {
        close(session->state_file);
        session->state_file = -1;
    }
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
        else session_drop(session);
    }
    slot_forget(slot);
    atomic_store(&slot->freeze, SERVED);
    slot_free(slot);
}

// MARK: How a move has ended

static void resume(sc_continuation_t *c, void *what) {
    (void)c;
    struct session *session = what;
    if (session->state == READY || session->state == ARRIVING) {
        session->is_ours = true;
        if (session->state == READY) session_go(session);
        return;
    }
    if (session->state == PARKING_HERE) return; // asked no longer; it is noticed when it is at rest
    if (session->state != PARKED_HERE) return;
    bool is_there = session->has_slot && atomic_load(&session_slot(session)->state) == SLOT_USED && session_slot(session)->life == session->life;
    if (is_there) return session_thaw(session);
    // Its connection was closed by the server while it was parked (a timeout), or its process has died.
    shutdown(session->fd, SHUT_RDWR);
    session_drop(session);
}

static void gone(sc_continuation_t *c, void *what) {
    (void)c;
    struct session *session = what;
    if (session->state == PARKED_HERE && session->has_slot) {
        struct slot *slot = session_slot(session);
        // The thread gives the slot back by itself.
        slot->is_noted = 0;
        gate_open(slot, GONE);
        if (atomic_load(&slot->state) == SLOT_ENDED) session_ended(session->slot);
    }
    session_drop(session);
}

const sc_callbacks_t session_callbacks = {sizeof(sc_callbacks_t), session_park, resume, gone, session_offer, session_import};

// MARK: After a death

void session_orphaned(struct session *session) {
    struct slot *slot = session_slot(session);
    uint32_t old = session->slot;
    if (session->state == PARKED_HERE) {
        session->has_slot = false;
        broker.by_slot[old] = NULL;
    } else if (session->state_file >= 0 && !slot->is_noted) {
        // It was never live there: what came is still what there is.
        session_give_again(session);
    } else {
        unsigned char *bytes = broker.bytes;
        char words[160];
        const char *why = NULL;
        bool is_torn = atomic_load(&slot->changing) & 1;
        long length = is_torn ? 0 : session_take(session, bytes, &why, words);
        session->has_slot = false;
        broker.by_slot[old] = NULL;
        session->is_ours = true;
        int result = length > 0 ? session_give(session, bytes, (size_t)length) : -1;
        tls_wipe(bytes, (size_t)length);
        if (result < 0) {
            ap_log_error(APLOG_MARK, APLOG_WARNING, 0, broker.server, "mod_sc: a session ends with its process %d: %s", slot->pid,
                         is_torn ? "it was in the middle of a change" : why ? why : strerror(-result));
            shutdown(session->fd, SHUT_RDWR);
            session_drop(session);
        }
    }
    slot_forget(slot);
    atomic_store(&slot->freeze, SERVED);
    slot_free(slot);
}
