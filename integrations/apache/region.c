// The memory that all processes of this Apache share, its slots, and the gate at which the thread of a frozen session waits.

#include "mod_sc.h"
#include <errno.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct region *sc_region;
int sc_notes[2] = {-1, -1};

/// The slot that this process gave back last is warm in its cache.
static _Atomic int32_t recent = -1;

/// Kept in the process's pool, since a restart loads the module anew.
struct kept {
    struct region *region;
    int notes[2];
};

apr_status_t region_make(apr_pool_t *process, int sessions, int request_max) {
    static const char *const key = "mod_sc_region";
    struct kept *kept = NULL;
    apr_pool_userdata_get((void **)&kept, key, process);
    if (kept == NULL) {
        size_t size = sizeof(struct region) + 4096 + (size_t)sessions * (sizeof(struct slot) + (size_t)request_max + sizeof(struct tls_area));
        struct region *region = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (region == MAP_FAILED) return errno;
        // Requests and keys are nobody's business.
        madvise(region, size, MADV_DONTDUMP);
        kept = apr_pcalloc(process, sizeof *kept);
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, kept->notes) < 0) return errno;
        // Thousands of idle connections may become known in one moment.
        int room = 8 << 20;
        setsockopt(kept->notes[1], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
        region->magic = REGION_MAGIC;
        region->slot_count = (uint32_t)sessions;
        region->size = size;
        region->request_max = (uint32_t)request_max;
        region->slot_size = sizeof(struct slot);
        kept->region = region;
        apr_pool_userdata_setn(kept, key, NULL, process);
    } else if (kept->region->slot_size != sizeof(struct slot) || kept->region->magic != REGION_MAGIC) {
        // Another build of the module after a graceful restart: it cannot read what the former one's processes write.
        return APR_EMISMATCH;
    }
    sc_region = kept->region;
    memcpy(sc_notes, kept->notes, sizeof sc_notes);
    return APR_SUCCESS;
}

static bool claim(struct slot *slot, int pid) {
    uint32_t expected = SLOT_FREE;
    if (atomic_load_explicit(&slot->state, memory_order_relaxed) != SLOT_FREE) return false;
    if (!atomic_compare_exchange_strong(&slot->state, &expected, SLOT_USED)) return false;
    atomic_fetch_add(&slot->life, 1);
    slot->pid = pid;
    size_t begin = offsetof(struct slot, obstacles);
    memset((char *)slot + begin, 0, offsetof(struct slot, responses) - begin);
    atomic_store(&slot->busy, 0);
    atomic_store(&slot->changing, 0);
    atomic_store(&slot->freeze, SERVED);
    return true;
}

struct slot *slot_take(int pid) {
    int32_t index = atomic_exchange(&recent, -1);
    if (index >= 0 && claim(&sc_region->slots[index], pid)) return &sc_region->slots[index];
    uint32_t begin = atomic_fetch_add(&sc_region->hint, 1);
    for (uint32_t tried = 0; tried < sc_region->slot_count; tried++) {
        struct slot *slot = &sc_region->slots[(begin + tried) % sc_region->slot_count];
        if (claim(slot, pid)) return slot;
    }
    return NULL;
}

void slot_forget(struct slot *slot) {
    if (slot->tls_state != TLS_NONE) {
        if (slot->tls.out_cipher > SC_TLS_RECORD) madvise(slot_tls(sc_region, slot), sizeof(struct tls_area), MADV_REMOVE);
        explicit_bzero(&slot->tls, sizeof slot->tls);
        slot->tls_state = TLS_SEEN;
    }
    input_forget(slot, slot->in_total - slot->in_logged);
}

void slot_free(struct slot *slot) {
    // Whoever takes it next is not its owner in the moment between state and pid; nor is the former one.
    slot->pid = 0;
    atomic_store(&slot->state, SLOT_FREE);
}

void slot_release(struct slot *slot) {
    slot_forget(slot);
    if (slot->is_noted) {
        atomic_store(&slot->state, SLOT_ENDED);
        if (!note_send(NOTE_ENDED, slot, -1)) atomic_fetch_add(&sc_region->missed, 1);
        return;
    }
    slot_free(slot);
    atomic_store(&recent, (int32_t)slot_index(sc_region, slot));
}

bool note_send(int type, struct slot *slot, int fd) {
    struct note note = {.type = type, .pid = slot ? slot->pid : getpid()};
    if (slot) {
        note.slot = slot_index(sc_region, slot);
        note.life = atomic_load(&slot->life);
    }
    struct iovec part = {&note, sizeof note};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    }
    return sendmsg(sc_notes[1], &message, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof note;
}

void note_lasting(struct connection *connection) {
    struct slot *slot = connection->slot;
    if (slot->is_noted || connection->c->aborted || (connection->arrival && !connection->arrival->is_live)) return;
    // Set first: from then on the broker may free the slot.
    slot->is_noted = 1;
    if (!note_send(NOTE_LASTS, slot, connection->fd)) slot->is_noted = 0;
}

void gate_open(struct slot *slot, enum freeze freeze) {
    atomic_store(&slot->freeze, freeze);
    syscall(SYS_futex, &slot->freeze, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/// The broker has died while the session was frozen: the socket tells who owns it. A move holds it in repair mode.
static void look(struct connection *connection) {
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    int repair = 0;
    socklen_t repair_size = sizeof repair;
    if (getsockopt(connection->fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0 || info.tcpi_state == TCP_CLOSE) {
        gate_open(connection->slot, GONE);
    } else if (getsockopt(connection->fd, IPPROTO_TCP, TCP_REPAIR, &repair, &repair_size) == 0 && !repair) {
        gate_open(connection->slot, SERVED);
    }
}

void gate_wait(struct connection *connection) {
    struct slot *slot = connection->slot;
    for (int seconds = 0; atomic_load(&slot->freeze) == FROZEN; seconds++) {
        struct timespec second = {1, 0};
        syscall(SYS_futex, &slot->freeze, FUTEX_WAIT, FROZEN, &second, NULL, 0);
        int32_t broker = atomic_load(&sc_region->broker);
        bool is_alone = broker == 0 || (kill(broker, 0) < 0 && errno == ESRCH);
        // Two seconds cover the moment between parking and the repair mode.
        if (is_alone && seconds >= 2) look(connection);
    }
}
