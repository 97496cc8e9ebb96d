// What libsc remembers: the connection to the agent, the continuations, and what the agent has not been told yet.
#pragma once

#include "include/sc.h"
#include "include/sc_memory.h"
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum state {
    RUNNING,
    PARKING,   // `park` was called
    PARKED,    // the server has let go; `resume` or `gone` follows
    ACCEPTED,  // an offer was accepted; IMPORT follows
    IMPORTED,  // the server has it; `resume` or `gone` follows
};

/// A packet that says how a request ended, not sent yet.
enum answer { NO_ANSWER, ANSWER_PARKED, ANSWER_REFUSED, ANSWER_ACCEPTED, ANSWER_READY, ANSWER_DIFFERS };

struct channel {
    int fd; // -1: free
    bool told;
    bool forget; // the agent has it still
    char role[SC_WIRE_ROLE];
};

/// A channel that is read and written by the library. Its place in the memory (sc_memory.h) has the same index.
struct log {
    int fd;                // -1: free
    size_t received, sent; // bytes of its areas that are taken
    struct repeat *repeat; // NULL: nobody has output of it that has to come again
};

struct sc_continuation {
    sc_t *sc;
    uint64_t id; // its place in sc->slots, and a count above it that tells its successors apart
    void *session;
    struct channel channels[SC_WIRE_CHANNELS];
    char part[SC_WIRE_PART]; // "": of one process
    unsigned char group[SC_WIRE_GROUP];
    bool join_told;
    const void *exported; // the last export: in `bytes`, or in the slot
    size_t length;
    void *bytes;
    size_t capacity;
    struct sc_memory_slot *slot; // NULL: nothing of it outlives this process
    struct log logs[SC_MEMORY_LOGS];
    struct repeat *repeats; // came before their channels
    int repeating;          // logs with a repeat
    bool differs;                // ended, since the output that came again was another
    uint64_t offer; // that was accepted
    uint64_t since; // monotonic ms when the agent that had asked went away
    enum state state;
    enum answer answer;
    char reason[SC_WIRE_REASON];
    char *pin;     // why it cannot move; NULL: it can
    bool tell_pin; // the agent knows another one
    size_t room;   // bytes of state that it may have
    bool tell_room;
    bool ended, known, is_dirty;
    bool is_late; // imported, and the server has not answered yet
    sc_continuation_t *next_dirty;
};

struct sc_offer {
    sc_t *sc; // NULL: withdrawn
    uint64_t id;
    size_t state_bytes;
    uint32_t state_version;
    char local[64], peer[64];
    char part[SC_WIRE_PART];
    unsigned char group[SC_WIRE_GROUP];
    sc_offer_t *next;
};

struct sc {
    char service[SC_WIRE_NAME];
    char path[108];
    uint32_t state_version;
    sc_callbacks_t callbacks;
    void *user;
    int epoll, timer, socket; // socket -1: not connected
    int status;               // of sc_status
    char reason[SC_WIRE_REASON];
    uint64_t last_attempt; // monotonic ms
    uint32_t version; // of the protocol with this agent
    bool accepts, tell_accepts, tell_memory, waits_to_write;
    int memory; // -1: none
    unsigned char **chunks; // its mapped parts
    uint32_t chunk_count;
    struct sc_wire_part part; // of the offer that comes next
    int called; // callbacks in this dispatch
    sc_continuation_t **slots;
    uint32_t slot_count, generation, free_hint;
    sc_continuation_t **by_fd;
    int fd_count;
    sc_continuation_t *dirty, **dirty_tail;
    sc_offer_t *offers;
    unsigned char *buffer; // SC_WIRE_MAX
};

#define HIDDEN __attribute__((visibility("hidden")))

// agent.c: the connection.
HIDDEN void sc__attempt(sc_t *sc);
HIDDEN void sc__lost(sc_t *sc);
HIDDEN void sc__tick_every(sc_t *sc, unsigned seconds);
HIDDEN uint64_t sc__now(void);
/// A word of the letters that service names have.
HIDDEN bool sc__is_name(const char *text, size_t longest);

// send.c: what the agent is told. 0, or a negative errno; -EAGAIN: later.
HIDDEN int sc__send_hello(sc_t *sc);
HIDDEN int sc__send_refused(sc_t *sc, uint64_t id, int error, const char *reason);
HIDDEN void sc__mark(sc_continuation_t *c);
HIDDEN void sc__flush(sc_t *sc);

// receive.c: what it says. False: the connection makes no sense any longer.
HIDDEN bool sc__receive(sc_t *sc, size_t length, int *fds, int count);
/// Looks at the sockets of sessions whose agent went away in the middle of a move.
HIDDEN void sc__settle(sc_t *sc);

// memory.c: what outlives this process.
HIDDEN int sc__memory_open(sc_t *sc);
HIDDEN void sc__memory_close(sc_t *sc);
/// Gives the continuation its slot, if there is memory.
HIDDEN void sc__memory_claim(sc_continuation_t *c);
HIDDEN void sc__memory_leave(sc_continuation_t *c);
/// Forgets what was exported.
HIDDEN void sc__memory_forget(sc_continuation_t *c);
/// False: it has to be kept elsewhere.
HIDDEN bool sc__memory_export(sc_continuation_t *c, const void *bytes, size_t length, uint32_t version);
/// Nothing was read or written since it held still; the kernel's counters may be others.
HIDDEN void sc__memory_resume(sc_continuation_t *c);
HIDDEN void sc__memory_publish(struct sc_memory_slot *slot, struct sc_memory_record record);
HIDDEN const struct sc_memory_record *sc__newest(const struct sc_memory_slot *slot);
HIDDEN int sc__counters(int fd, uint64_t *in, uint64_t *out);

// log.c: which channels have a log.
/// NULL: `fd` has none.
HIDDEN struct log *sc__log(const sc_continuation_t *c, int fd);
HIDDEN struct sc_memory_log *sc__place(const sc_continuation_t *c, const struct log *log);
/// The areas of a log in the memory.
HIDDEN unsigned char *sc__input(const sc_continuation_t *c, const struct log *log);
HIDDEN unsigned char *sc__output(const sc_continuation_t *c, const struct log *log);
HIDDEN const struct sc_memory_position *sc__exported(const sc_continuation_t *c, const struct log *log);
HIDDEN void sc__begin(struct sc_memory_log *place, uint32_t intent, size_t length);
/// `position` is `in` or `out`, which the kernel has moved by `count`.
HIDDEN void sc__finish(struct sc_memory_log *place, uint64_t *position, ssize_t count);
/// It is a channel of the session no longer.
HIDDEN void sc__forget_log(sc_continuation_t *c, int fd);
/// Why the descriptor may not be read or written now; 0: it may.
HIDDEN int sc__may(const sc_continuation_t *c);
HIDDEN size_t sc__total(const struct iovec *parts, int count);

// repeat.c: output that has come out already.
/// For the channel of this role, which comes later.
HIDDEN int sc__repeat_set(sc_continuation_t *c, const char *role, const struct sc_memory_repeat *record, const void *literal);
/// Gives them to the logs. False: a channel has none.
HIDDEN bool sc__repeat_publish(sc_continuation_t *c);
/// The most bytes that one sc__repeat may have; not 0 while there is a repeat.
HIDDEN size_t sc__repeat_left(const struct log *log);
/// -EILSEQ: they differ, and the session has been ended.
HIDDEN int sc__repeat(sc_continuation_t *c, struct log *log, const unsigned char *bytes, size_t length);
/// The output that comes again ends in the middle of a message.
HIDDEN int sc__repeat_is_short(sc_continuation_t *c, struct log *log);
HIDDEN void sc__repeat_free(sc_continuation_t *c);

// group.c
/// 0 when a channel can be associated, or a negative errno.
HIDDEN int sc__check_channel(int fd);
/// The session's TCP connection among this process's channels; -1: another one has it.
HIDDEN int sc__connection(const sc_continuation_t *c);
HIDDEN bool sc__take_part(sc_t *sc, const struct sc_wire_part *packet);

// continuation.c
HIDDEN sc_continuation_t *sc__find(sc_t *sc, uint64_t id);
HIDDEN int sc__add_channel(sc_continuation_t *c, int fd, const char *role);
HIDDEN void sc__free(sc_continuation_t *c);
HIDDEN void sc__free_offer(sc_offer_t *offer);
HIDDEN void sc__gone(sc_continuation_t *c);
HIDDEN void sc__resume(sc_continuation_t *c);
