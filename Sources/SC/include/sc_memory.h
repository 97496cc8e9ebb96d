// The memory that a server shares with the agent of its host: what is left of a session when its process is killed or hangs. Not for servers.
//
// One memory file for each process (SC_WIRE_MEMORY), in which the continuation with the index i (the lower half of its number) has the bytes from
// i * SC_MEMORY_STRIDE on; pages that were never written take no room:
//
//   0                      struct sc_memory_slot
//   SC_MEMORY_STATES       two states of SC_WIRE_STATE bytes, of which the newest record names one
//   SC_MEMORY_OUTPUT       of the first log: the output since the export (or since it was last folded into the hash), from `literal` on
//   SC_MEMORY_INPUT        of the first log: the input since the export, from position `in` of the record on
//   … + SC_MEMORY_LOG_BYTES for each further log
//
// A log of kind SC_MEMORY_MESSAGES has each message behind its length (uint32_t); positions count the bytes of the messages alone.
//
// The server may be killed between any two stores. So a record is never changed: the other one is written, its sequence last. Input is received by the
// kernel into its final place here before the kernel counts it as read, and output stands here before the kernel gets it: how many bytes of either are
// real, the socket's own counters tell (tcpi_bytes_received - SIOCINQ, tcpi_bytes_acked + SIOCOUTQ, FINs apart), whatever the server managed to note. Pipes and
// Unix sockets have no counters: there the position of the other end, less what is in the queue, tells it.
// Both ends are on one host, so numbers are in its byte order. The agent reads with pread(2), only while the server is dead or stopped, and believes
// nothing that it has not compared.
#pragma once

#include "sc_wire.h"
#include <endian.h>
#include <string.h>

#define SC_MEMORY_VERSION 3u
#define SC_MEMORY_STRIDE 2097152u
#define SC_MEMORY_STATES 4096u
#define SC_MEMORY_OUTPUT 135168u
#define SC_MEMORY_OUTPUT_SIZE 65536u
#define SC_MEMORY_INPUT 200704u
/// The most bytes of input that a log takes.
#define SC_MEMORY_INPUT_MAX 262144u
#define SC_MEMORY_LOGS 4u
#define SC_MEMORY_LOG_BYTES 327680u

/// What the process was about to do to the channel.
enum sc_memory_intent { SC_MEMORY_IDLE, SC_MEMORY_RECEIVES, SC_MEMORY_SENDS };

enum sc_memory_kind {
    SC_MEMORY_TCP,
    SC_MEMORY_STREAM, // a Unix socket without message boundaries
    SC_MEMORY_MESSAGES, // one with them
    SC_MEMORY_PIPE,
};

/// Where a channel stood at an export, and its output since then.
struct sc_memory_position {
    uint64_t in, out; // bytes read and written
    uint64_t literal; // output from here on stands in the memory; what lies between `out` and it is in `hash`
    uint64_t hashed;  // bytes of it, with the lengths of messages
    uint64_t hash;    // sc_memory_hash
};

/// A moment to which the session can be taken back, and the output since then.
struct sc_memory_record {
    uint64_t sequence; // written last; 0: none. The higher one counts, if its checksum is right
    uint64_t number;   // of the export: records of the same one have the same state
    uint32_t state_index, state_length, state_version;
    uint32_t positions_count; // of `positions`, one for each log; without a log one for the session's connection
    uint64_t state_checksum;  // sc_memory_hash of the state
    uint64_t checksum;        // of all fields before it, then of the positions that count
    struct sc_memory_position positions[SC_MEMORY_LOGS];
};

/// A channel that is read and written with a log.
struct sc_memory_log {
    uint32_t size; // bytes of input that it takes; 0: there is none
    uint32_t kind;
    uint32_t channel; // its number of SC_WIRE_ASSOCIATE
    uint32_t intent;
    uint64_t intent_length;     // at most so many bytes
    uint64_t base_in, base_out; // TCP: the kernel's counters minus the positions, modulo 2^64. Other kinds: the positions when it came to this process
    uint64_t in, out;           // positions, behind the kernel's during a call
    uint64_t gap;    // the number of the export after which input was read that the log did not take
    uint64_t queued; // other kinds: bytes that waited in it then
};

struct sc_memory_slot {
    uint64_t continuation; // its number; 0: free
    uint32_t has_base;     // 0: nothing was read or written yet; its positions are those of the record
    uint32_t reserved;
    struct sc_memory_record records[2];
    struct sc_memory_log logs[SC_MEMORY_LOGS];
};

/// Output that a successor produces again, and that its client has: it is compared, and not sent. After it come `literal` bytes.
struct sc_memory_repeat {
    uint64_t hashed; // bytes, of which only `hash` is known
    uint64_t hash;
    uint64_t literal; // the number of bytes after those
};

/// A polynomial modulo 2^64 over words of 8 bytes, counted from the first byte of all: the same for any division of the bytes into pieces. `at` is the number of
/// bytes before these; begin with 0. It finds differences that happen, not those that somebody computes; the length is compared apart.
///
/// Of a factor's product the higher bits depend on lower ones alone, so the upper half of a word counts in the lower one as well: otherwise the same change in
/// the last bytes of two words could vanish. The factor is 5 modulo 8, so that its powers come round as late as they can.
static inline uint64_t sc_memory_word(uint64_t word) { return word + (word >> 32); }

static inline uint64_t sc_memory_word_at(const unsigned char *bytes) {
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return sc_memory_word(le64toh(word));
}

static inline uint64_t sc_memory_hash(uint64_t hash, uint64_t at, const void *bytes, uint64_t length) {
    const uint64_t k = 0x9e3779b97f4a7c15u, k2 = k * k, k4 = k2 * k2, k8 = k4 * k4;
    const unsigned char *next = (const unsigned char *)bytes, *end = next + length;
    for (; next < end && at % 8; next++, at++) hash += sc_memory_word((uint64_t)*next << at % 8 * 8);
    for (; end - next >= 64; next += 64)
        hash = hash * k8 + sc_memory_word_at(next) * (k4 * k2 * k) + sc_memory_word_at(next + 8) * (k4 * k2) + sc_memory_word_at(next + 16) * (k4 * k)
               + sc_memory_word_at(next + 24) * k4 + sc_memory_word_at(next + 32) * (k2 * k) + sc_memory_word_at(next + 40) * k2
               + sc_memory_word_at(next + 48) * k + sc_memory_word_at(next + 56);
    for (; end - next >= 8; next += 8) hash = hash * k + sc_memory_word_at(next);
    if (next < end) hash *= k;
    for (unsigned lane = 0; next < end; next++, lane += 8) hash += sc_memory_word((uint64_t)*next << lane);
    return hash;
}
