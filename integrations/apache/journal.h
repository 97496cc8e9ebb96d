// What an Apache writes down of each client connection while it serves it, in memory that all its processes share.
//
// One slot for each connection. Only the thread that serves the connection writes it, inside enter() and leave(); the broker reads it while the slot
// is frozen, or when its process is dead. Positions count bytes from the moment the connection came to this Apache: `in` what was read from the
// socket, `out` what was produced for it. A response that began elsewhere began at a negative position. Of TLS connections see tls_journal.h.
#pragma once

#include "tls_journal.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// Bytes that are kept of requests that are not answered completely. Of one that may not be carried out again, and of all by which a state still fits into
/// SC_STATE_DEFAULT; and by default and at most of the others (SCRequestMax).
#define SC_REQUEST_SHORT 57344u
#define SC_REQUEST_DEFAULT 1048576u
#define SC_REQUEST_MAX 16711680u
/// Bytes of a response's head, interim responses included.
#define SC_HEAD_MAX 4096
/// Responses that are produced and not sent completely (pipelining).
#define SC_RESPONSES 8
/// The last chunks that have begun, of all these responses.
#define SC_CHUNKS 128

enum slot_state {
    SLOT_FREE,
    SLOT_USED,
    SLOT_ENDED, // its connection is over; the broker frees it
};

enum freeze {
    SERVED,
    FROZEN, // its thread waits at the gate
    GONE,   // its thread ends the connection without a word
};

/// Why a session cannot move.
enum obstacle {
    OBSTACLE_TLS = 1,
    OBSTACLE_PROTOCOL = 2,  // not HTTP/1: HTTP/2, or what followed an upgrade
    OBSTACLE_INPUT = 4,     // the requests are longer than what is kept
    OBSTACLE_HEAD = 8,      // a response's head is longer than SC_HEAD_MAX
    OBSTACLE_RESPONSES = 16, // more than SC_RESPONSES
    OBSTACLE_CLOSING = 32,
    OBSTACLE_COUNT = 64, // a filter took input in a way that cannot be counted
};

enum body_kind { BODY_UNKNOWN, BODY_RAW, BODY_CHUNKED };

/// What the body consists of so far; both ends have to agree on it.
struct body {
    uint64_t length;    // payload bytes, without chunk framing
    uint64_t file_size; // of the file that is the body, and its time in seconds; 0: there is none
    int64_t file_time;
    uint8_t digest[16]; // XXH3 of what is not that file; 0: nothing
};

struct response {
    uint64_t in_start; // the first byte of its request
    int64_t out_start, out_end; // out_end OPEN_END while it is produced
    int64_t body_start;
    uint32_t head_length;
    uint32_t known_length; // of the head as it came from the server before, until it is produced again
    uint8_t head_done, kind, is_repeatable, reserved[5];
    struct body body;
    char head[SC_HEAD_MAX];
};
#define OPEN_END INT64_MAX

/// A chunk: the position of its size line, the payload before it, its length (0: the last one).
struct chunk {
    int64_t position, payload, length;
};

struct slot {
    _Atomic uint32_t state, life; // `life` tells the connections that use the slot one after the other apart
    _Atomic uint32_t freeze;      // a futex
    _Atomic uint32_t busy;        // its thread touches socket or journal
    _Atomic uint32_t changing;    // odd: in the middle of a change
    int32_t pid, fd;
    uint32_t obstacles, keepalives;
    uint8_t is_noted;         // the broker knows it
    uint8_t is_unrepeatable;  // the request at hand
    uint8_t is_pinned;        // the agent has been told that it cannot move, and waits to hear that it can
    _Atomic uint8_t is_live;  // it has come, and is not being closed: `fd` is its connection
    uint8_t tls_state;        // enum tls_state
    uint8_t reserved[3];
    int64_t out_base; // bytes that the kernel had taken (acknowledged and queued) at position 0
    int64_t out_position;
    uint64_t in_total, in_consumed; // read from the socket, and taken by the request parser
    uint64_t in_request;            // where the next request begins
    uint64_t in_logged;             // the position of the first byte that is kept (slot_input)
    uint32_t first, count;          // of responses, in the ring
    uint64_t chunk_count;
    struct response responses[SC_RESPONSES];
    struct chunk chunks[SC_CHUNKS];
    struct tls tls; // unless tls_state is TLS_NONE
};

#define REGION_MAGIC 0x31526373u

struct region {
    uint32_t magic, slot_count;
    uint64_t size, slot_size;
    uint32_t request_max; // bytes that are kept of each connection's requests, a whole number of pages: behind the slots, in their order
    _Atomic int32_t broker;      // its pid
    _Atomic uint32_t missed;     // messages to the broker that were lost: it looks at every slot
    _Atomic uint32_t hint;
    char import_name[108]; // of the abstract socket, with its leading NUL
    uint32_t import_length;
    struct slot slots[];
};

/// From the processes that serve to the broker, over a SOCK_SEQPACKET pair.
struct note {
    enum { NOTE_LASTS, NOTE_ENDED, NOTE_PASSED, NOTE_STARTED, NOTE_STOPPING } type; // NOTE_LASTS comes with the connection's descriptor
    uint32_t slot, life;
    int32_t pid;
};

/// From the broker to the process that takes a session in, when that has said that it is there: with two descriptors: the
/// client's connection, and a memory file of `length` bytes of continuation.
struct arrival_head {
    uint32_t magic, length;
};
/// The first byte to a process that is asked to take a session in.
#define CALL_IF_IDLE 1 // it may leave it to another one: EBUSY
#define CALL_AT_ONCE 2
/// The answer. Before it one with the slot NO_SLOT: a process is there.
#define NO_SLOT UINT32_MAX
struct arrival_answer {
    int32_t error; // 0, or an errno
    uint32_t slot, life;
    char reason[160];
};
/// The session is live.
struct arrival_go {
    int64_t out_base;
};

static inline uint32_t slot_index(const struct region *region, const struct slot *slot) { return (uint32_t)(slot - region->slots); }

/// Where a connection's requests are kept.
static inline char *slot_input(const struct region *region, const struct slot *slot) {
    size_t head = (sizeof *region + region->slot_count * sizeof *slot + 4095) & ~(size_t)4095;
    return (char *)region + head + (size_t)slot_index(region, slot) * region->request_max;
}

/// … and what else there is of a TLS connection.
static inline struct tls_area *slot_tls(const struct region *region, const struct slot *slot) {
    char *inputs = slot_input(region, region->slots), *areas = inputs + (size_t)region->slot_count * region->request_max;
    return (struct tls_area *)(areas + (size_t)slot_index(region, slot) * sizeof(struct tls_area));
}

static inline struct response *response_at(struct slot *slot, uint32_t index) {
    return &slot->responses[(slot->first + index) % SC_RESPONSES];
}

static inline struct response *last_response(struct slot *slot) { return slot->count ? response_at(slot, slot->count - 1) : NULL; }

/// Around every change that a process could die in the middle of.
static inline void begin_change(struct slot *slot) {
    atomic_store_explicit(&slot->changing, atomic_load_explicit(&slot->changing, memory_order_relaxed) + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}
static inline void end_change(struct slot *slot) {
    atomic_store_explicit(&slot->changing, atomic_load_explicit(&slot->changing, memory_order_relaxed) + 1, memory_order_release);
}
