// The broker: one process of this Apache that speaks to the agent (libsc) for all that serve, and holds a duplicate of every connection that lasts.
#pragma once

#include "mod_sc.h"
#include <sc.h>

enum session_state {
    SERVING,
    PARKING_HERE, // frozen; its thread is still inside
    PARKED_HERE,
    ARRIVING, // given to the MPM, no answer yet
    READY,    // it can be served here, and is not live
    WAITING,  // an offer came, and a process to take it in is being waited for
    EXPECTED, // the offer was accepted; `control` leads to that process
};

struct session {
    enum session_state state;
    sc_continuation_t *c;
    int fd;      // the client's connection; -1: not here yet
    int control; // to the process that takes it in; -1: none
    uint32_t slot, life;
    bool has_slot;
    bool is_ours;         // it goes live here as soon as it can: the agent has said so, or a process that served it has died
    bool is_told;         // the agent knows that it can be served here
    int state_file;       // its state, for the process that takes it in; -1: it is live, and that is in its slot
    uint32_t state_length;
    unsigned given;       // how many processes it was given to
    sc_offer_t *offer;    // while WAITING
    unsigned waited;      // seconds that it has been
    bool is_turned_down;  // by a process that has few threads left: another one is asked in a moment
    unsigned asked;       // milliseconds since it was asked to park
    uint64_t seen;        // the request that was in the way when it was looked at last, plus one; 0: none was
    struct session *next; // of those that are being parked, or wait
};

/// The largest state of a session.
#define BROKER_BYTES ((size_t)SC_STATE_MAX)
_Static_assert(SC_REQUEST_MAX + SC_HEAD_MAX + SC_TLS_RECORD + 4096 <= SC_STATE_MAX, "a request with its head does not fit into a state");

struct broker {
    unsigned char *bytes; // BROKER_BYTES, for one state at a time
    server_rec *server;
    sc_t *sc;
    int epoll, timer;
    struct session **by_slot;
    struct session *parking, *waiting;
    struct process *processes;
    bool takes_sessions;
    int probes; // looks that are due whether anybody accepts here
};

extern struct broker broker;

// broker.c
void broker_watch(int fd, void *what);
/// In so many milliseconds at most, session_park_again() and session_hire_again().
void broker_tick(int milliseconds);

// session.c, session_away.c, session_in.c
extern const sc_callbacks_t session_callbacks;
void session_begin(uint32_t index, uint32_t life, int fd);
/// The connection of a slot is over.
void session_ended(uint32_t index);
/// Tells the agent whether it can move. Once a second of all: what stands in the way for less long is told when somebody asks for the session.
void session_look(struct session *session);
/// Its process has died in the middle.
void session_orphaned(struct session *session);
/// A process that takes the session in has said something, or has gone.
void session_answered(struct session *session);
void session_park_again(void);
void session_hire_again(void);
/// A second has passed: declines the offers for which no process has been free for long.
void session_wait_less(void);
bool session_probe(void);

// Between session.c, session_away.c and session_in.c.
static inline struct slot *session_slot(const struct session *session) { return &sc_region->slots[session->slot]; }
void session_drop(struct session *session);
void session_take_out(struct session **list, struct session *session);
/// Bytes that the kernel has taken since the socket was made: acknowledged and queued. Acknowledgements may come between the two looks.
bool session_kernel_taken(int fd, int64_t *taken);
/// The session's bytes, or 0 and why it cannot be continued.
long session_take(struct session *session, unsigned char *bytes, const char **why, char words[static 160]);
void session_thaw(struct session *session);
/// To the process that was hired for it, or to any, with this state. 0, or a negative errno.
int session_give(struct session *session, const void *bytes, size_t length);
/// Its process has ended before it was live there: another one is asked.
void session_give_again(struct session *session);
/// It is live: what the client has got from the kernel counts from here on.
void session_go(struct session *session);
void session_park(sc_continuation_t *c, void *what);
void session_offer(sc_t *sc, sc_offer_t *offer, void *user);
int session_import(sc_continuation_t *c, void *what, const sc_import_t *import);
