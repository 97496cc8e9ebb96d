// The memory that outlives this process: exports, and where in its input and output a session stands (sc_memory.h).

#include "internal.h"
#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

// The places of sc_memory.h, which are numbers there for the agent's sake.
_Static_assert(sizeof(struct sc_memory_slot) <= SC_MEMORY_STATES, "the slot's head overlaps the states");
_Static_assert(SC_MEMORY_STATES + 2 * SC_WIRE_STATE <= SC_MEMORY_OUTPUT, "the states overlap the output");
_Static_assert(SC_MEMORY_OUTPUT + SC_MEMORY_OUTPUT_SIZE <= SC_MEMORY_INPUT, "the output overlaps the input");
_Static_assert(SC_MEMORY_INPUT + SC_MEMORY_INPUT_MAX <= SC_MEMORY_OUTPUT + SC_MEMORY_LOG_BYTES, "the input is longer than its place");
_Static_assert(SC_MEMORY_OUTPUT + SC_MEMORY_LOGS * SC_MEMORY_LOG_BYTES <= SC_MEMORY_STRIDE, "the logs are longer than their slot");
_Static_assert(SC_LOG_MAX == SC_MEMORY_INPUT_MAX && SC_LOGS_MAX == SC_MEMORY_LOGS, "sc.h says otherwise");

/// Slots that are mapped together.
#define CHUNK 32u
#define CHUNK_BYTES ((size_t)CHUNK * SC_MEMORY_STRIDE)

int sc__memory_open(sc_t *sc) {
    sc->memory = memfd_create("sc-sessions", MFD_CLOEXEC);
    return sc->memory < 0 ? -errno : 0;
}

void sc__memory_close(sc_t *sc) {
    for (uint32_t i = 0; i < sc->chunk_count; i++)
        if (sc->chunks[i]) munmap(sc->chunks[i], CHUNK_BYTES);
    free(sc->chunks);
    if (sc->memory >= 0) close(sc->memory);
}

static unsigned char *map_chunk(sc_t *sc, uint32_t number) {
    if (number >= sc->chunk_count) {
        unsigned char **chunks = realloc(sc->chunks, (number + 1) * sizeof *chunks);
        if (chunks == NULL) return NULL;
        memset(chunks + sc->chunk_count, 0, (number + 1 - sc->chunk_count) * sizeof *chunks);
        sc->chunks = chunks;
        sc->chunk_count = number + 1;
    }
    if (sc->chunks[number]) return sc->chunks[number];
    off_t start = (off_t)number * (off_t)CHUNK_BYTES, size = lseek(sc->memory, 0, SEEK_END);
    if (size < start + (off_t)CHUNK_BYTES && ftruncate(sc->memory, start + (off_t)CHUNK_BYTES) < 0) return NULL;
    void *memory = mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, sc->memory, start);
    if (memory == MAP_FAILED) return NULL;
    // A child that goes on without exec would write into the sessions of its parent.
    madvise(memory, CHUNK_BYTES, MADV_DONTFORK);
    return sc->chunks[number] = memory;
}

void sc__memory_claim(sc_continuation_t *c) {
    if (c->sc->memory < 0) return;
    uint32_t index = (uint32_t)c->id;
    unsigned char *chunk = map_chunk(c->sc, index / CHUNK);
    // Without memory the session is served; it cannot outlive the process.
    if (chunk == NULL) return;
    c->slot = (void *)(chunk + (size_t)(index % CHUNK) * SC_MEMORY_STRIDE);
    memset((char *)c->slot + sizeof c->slot->continuation, 0, sizeof *c->slot - sizeof c->slot->continuation);
    c->slot->has_base = 1;
    __atomic_store_n(&c->slot->continuation, c->id, __ATOMIC_RELEASE);
}

void sc__memory_forget(sc_continuation_t *c) {
    if (c->slot == NULL) return;
    for (int i = 0; i < 2; i++) __atomic_store_n(&c->slot->records[i].sequence, 0, __ATOMIC_RELEASE);
    // Exports are numbered anew.
    for (unsigned i = 0; i < SC_MEMORY_LOGS; i++) c->slot->logs[i].gap = 0;
}

void sc__memory_leave(sc_continuation_t *c) {
    if (c->slot) __atomic_store_n(&c->slot->continuation, 0, __ATOMIC_RELEASE);
    c->slot = NULL;
}

/// What the kernel counts of data, without FINs (RFC 4898's counters, and the queues): the same sums as in the agent.
int sc__counters(int fd, uint64_t *in, uint64_t *out) {
    // Three reads of a living connection: they belong together when the first and the last agree.
    for (int tries = 0; tries < 1000; tries++) {
        struct tcp_info before = {0}, after = {0};
        socklen_t size = sizeof before;
        int unread = 0, unacknowledged = 0;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &before, &size) < 0) return -errno;
        if (ioctl(fd, SIOCINQ, &unread) < 0 || ioctl(fd, SIOCOUTQ, &unacknowledged) < 0) return -errno;
        size = sizeof after;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &after, &size) < 0) return -errno;
        if (before.tcpi_bytes_received != after.tcpi_bytes_received || before.tcpi_bytes_acked != after.tcpi_bytes_acked
            || before.tcpi_state != after.tcpi_state)
            continue;
        enum { FIN_WAIT1 = 4, FIN_WAIT2, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING }; // include/net/tcp_states.h
        unsigned state = after.tcpi_state;
        bool fin_received = state == CLOSE_WAIT || state == LAST_ACK || state == CLOSING;
        bool fin_sent = state == FIN_WAIT1 || state == FIN_WAIT2 || state == LAST_ACK || state == CLOSING;
        *in = after.tcpi_bytes_received - fin_received - (uint64_t)unread;
        *out = after.tcpi_bytes_acked + (uint64_t)unacknowledged - fin_sent;
        return 0;
    }
    return -EAGAIN;
}

const struct sc_memory_record *sc__newest(const struct sc_memory_slot *slot) {
    return &slot->records[slot->records[1].sequence > slot->records[0].sequence];
}

void sc__memory_publish(struct sc_memory_slot *slot, struct sc_memory_record record) {
    struct sc_memory_record *place = &slot->records[sc__newest(slot) == &slot->records[0]];
    record.sequence = sc__newest(slot)->sequence + 1;
    uint64_t head = sc_memory_hash(0, 0, &record, offsetof(struct sc_memory_record, checksum));
    record.checksum = sc_memory_hash(head, offsetof(struct sc_memory_record, checksum), record.positions, record.positions_count * sizeof record.positions[0]);
    __atomic_store_n(&place->sequence, 0, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    memcpy((char *)place + sizeof place->sequence, (char *)&record + sizeof record.sequence, sizeof record - sizeof record.sequence);
    __atomic_store_n(&place->sequence, record.sequence, __ATOMIC_RELEASE);
}

static int only_channel(const sc_continuation_t *c) {
    int fd = -1;
    for (int i = 0; i < SC_WIRE_CHANNELS; i++) {
        if (c->channels[i].fd < 0) continue;
        if (fd >= 0) return -1;
        fd = c->channels[i].fd;
    }
    return fd;
}

/// The one position of a session without a log.
static bool stands_at(int fd, struct sc_memory_record *record) {
    struct sc_memory_position *position = &record->positions[0];
    if (sc__counters(fd, &position->in, &position->out) < 0) return false;
    position->literal = position->out;
    record->positions_count = 1;
    return true;
}

bool sc__memory_export(sc_continuation_t *c, const void *bytes, size_t length, uint32_t version) {
    struct sc_memory_slot *slot = c->slot;
    if (slot == NULL || length > SC_WIRE_STATE) return false;
    const struct sc_memory_record *former = sc__newest(slot);
    struct sc_memory_record record = {
        .number = former->number + 1, .state_index = former->sequence ? !former->state_index : 0, .state_length = (uint32_t)length,
        .state_version = version};
    for (unsigned i = 0; i < SC_MEMORY_LOGS; i++) {
        if (c->logs[i].fd < 0) continue;
        record.positions[i] = (struct sc_memory_position){.in = slot->logs[i].in, .out = slot->logs[i].out, .literal = slot->logs[i].out};
        record.positions_count = i + 1;
    }
    if (record.positions_count == 0 && slot->has_base) {
        // Without a log only the kernel knows where the session stands.
        int fd = only_channel(c);
        if (fd < 0 || !stands_at(fd, &record)) return false;
    }
    unsigned char *state = (unsigned char *)slot + SC_MEMORY_STATES + record.state_index * SC_WIRE_STATE;
    if (length) memmove(state, bytes, length);
    record.state_checksum = sc_memory_hash(0, 0, state, length);
    sc__memory_publish(slot, record);
    for (unsigned i = 0; i < SC_MEMORY_LOGS; i++) c->logs[i].received = c->logs[i].sent = 0;
    c->exported = state;
    c->length = length;
    return true;
}

void sc__memory_resume(sc_continuation_t *c) {
    struct sc_memory_slot *slot = c->slot;
    if (slot == NULL) return;
    bool has_log = false;
    // A connection that has been rebuilt counts from 0 again.
    for (unsigned i = 0; i < SC_MEMORY_LOGS; i++) {
        struct sc_memory_log *log = &slot->logs[i];
        uint64_t in, out;
        if (c->logs[i].fd < 0) continue;
        has_log = true;
        if (log->kind != SC_MEMORY_TCP || sc__counters(c->logs[i].fd, &in, &out) < 0) continue;
        log->base_in = in - log->in;
        log->base_out = out - log->out;
    }
    struct sc_memory_record record = *sc__newest(slot);
    int fd = has_log || !record.sequence ? -1 : only_channel(c);
    if (fd >= 0 && stands_at(fd, &record)) sc__memory_publish(slot, record);
    __atomic_store_n(&slot->has_base, 1, __ATOMIC_RELEASE);
}
