// The three processes as members of a service (libsc): each says what it has of a session, and parks its own part when it is asked. Spare processes
// wait for the parts of sessions that come.

#include "fileserver.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sc.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

/// LEFT: what a log still takes when the next export is due; a loop takes some 20 KiB at most.
enum { STATE_VERSION = 1, LEFT = 65536 };

int is_member;
static sc_t *sc;
static sc_continuation_t *continuation;
static const char *part;
static struct session *served;
/// IDLE: a spare process; COMING: a part is here, and silent still.
static enum { SERVING, PARKED, IDLE, COMING } standing;

/// Who has which end of the session's channels, what it is called, and where it stands in a session.
static const struct {
    const char *part, *role;
    size_t place;
} channels[] = {
    {"front", "client", offsetof(struct session, tcp)},
    {"front", "to-worker", offsetof(struct session, to_worker)},
    {"worker", "to-front", offsetof(struct session, to_front)},
    {"worker", "log", offsetof(struct session, log)},
    {"logger", "lines", offsetof(struct session, lines)},
};
enum { CHANNELS = sizeof channels / sizeof *channels };

static int *place_of(int channel) { return (int *)((char *)served + channels[channel].place); }

/// What a part exports: its own half of the state. The open file is known by its name and position; only the worker can say what that means.
static struct {
    off_t position; // -1: no file is open
    char bytes[sizeof(struct state)];
} export;

static void *own_state(size_t *length) {
    struct state *state = served->state;
    *length = strcmp(part, "front") == 0 ? sizeof state->front : strcmp(part, "worker") == 0 ? sizeof state->worker : sizeof state->logger;
    return strcmp(part, "front") == 0 ? (void *)&state->front : strcmp(part, "worker") == 0 ? (void *)&state->worker : (void *)&state->logger;
}

static void export_state(sc_continuation_t *c) {
    size_t length;
    void *own = own_state(&length);
    export.position = served->file >= 0 ? lseek(served->file, 0, SEEK_CUR) : -1;
    memcpy(export.bytes, own, length);
    sc_export(c, &export, sizeof export.position + length);
}

static void park(sc_continuation_t *c, void *session) {
    (void)session;
    standing = PARKED;
    export_state(c);
    sc_parked(c);
}

static void resume(sc_continuation_t *c, void *session) {
    (void)c, (void)session;
    standing = SERVING;
}

static void drop(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/// A spare process waits for the next session.
static void become_idle(void) {
    continuation = NULL;
    for (int i = 0; i < CHANNELS; i++)
        drop(place_of(i));
    drop(&served->file);
    standing = IDLE;
    sc_accept_offers(sc, 1);
}

/// It is served elsewhere, or does not come.
static void gone(sc_continuation_t *c, void *session) {
    (void)session;
    sc_end(c);
    continuation = NULL;
    if (standing == PARKED)
        exit(0);
    become_idle();
}

static void offer(sc_t *sc, sc_offer_t *offer, void *user) {
    (void)user;
    if (sc_offer_state_version(offer) != 0 && sc_offer_state_version(offer) != STATE_VERSION)
        return sc_decline(offer, "its state has a form that this server does not know");
    if (continuation || strcmp(sc_offer_part(offer), part) != 0)
        return sc_decline(offer, "this process does another part");
    // One session for each process.
    if (sc_accept(offer, served, &continuation) == 0)
        sc_accept_offers(sc, 0);
}

static int take(sc_continuation_t *c, const sc_import_t *import) {
    size_t length;
    void *own = own_state(&length);
    if (import->state_version != STATE_VERSION)
        return -EPROTONOSUPPORT;
    if (import->length != sizeof export.position + length)
        return -EINVAL;
    memcpy(&export, import->state, import->length);
    memcpy(own, export.bytes, length);
    // The same file here, or the session is refused: its client has been told the size.
    if (export.position >= 0 && ((served->file = open(served->state->worker.name, O_RDONLY | O_CLOEXEC)) < 0 ||
                                 lseek(served->file, 0, SEEK_END) != (off_t)served->state->worker.size ||
                                 lseek(served->file, export.position, SEEK_SET) < 0))
        return -ESTALE;
    for (uint32_t i = 0; i < import->channels; i++)
        for (int channel = 0; channel < CHANNELS; channel++)
            if (strcmp(import->roles[i], channels[channel].role) == 0)
                *place_of(channel) = import->fds[i];
    for (uint32_t i = 0; i < import->channels; i++)
        sc_log(c, import->fds[i], 0);
    standing = COMING;
    return 0;
}

static int import(sc_continuation_t *c, void *session, const sc_import_t *import) {
    (void)session;
    int result = take(c, import);
    // What was refused has ended without `gone`.
    if (result < 0)
        become_idle();
    return result;
}

static void leave(void) { sc_end(continuation); }

static void open_service(void) {
    sc_callbacks_t callbacks = {sizeof callbacks, park, resume, gone, offer, import};
    if (sc_open("files", STATE_VERSION, &callbacks, NULL, getenv("NO_LOG") ? 0 : SC_SURVIVE, &sc) < 0)
        exit(1);
    // A session that nobody has ended is somebody else's from then on.
    atexit(leave);
}

ssize_t read_channel(int fd, void *bytes, size_t length, int flags) {
    ssize_t count = is_member ? sc_recv(continuation, fd, bytes, length, flags) : flags ? recv(fd, bytes, length, flags) : read(fd, bytes, length);
    if (is_member && count < 0)
        errno = (int)-count;
    return is_member && count < 0 ? -1 : count;
}

ssize_t write_channel(int fd, const void *bytes, size_t length, int flags) {
    ssize_t count = is_member ? sc_send(continuation, fd, bytes, length, flags) : flags ? send(fd, bytes, length, flags) : write(fd, bytes, length);
    if (is_member && count < 0)
        errno = (int)-count;
    return is_member && count < 0 ? -1 : count;
}

void is_whole(void) {
    if (is_member)
        export_state(continuation);
}

void join_session(const char *name, struct session *session) {
    part = name;
    // A spare process has joined already.
    if (sc)
        return;
    served = session;
    open_service();
    if (sc_create(sc, session, &continuation) < 0 || sc_join(continuation, session->group, name) < 0)
        exit(1);
    // Only its own are open in each process.
    for (int i = 0; i < CHANNELS; i++)
        if (strcmp(channels[i].part, name) == 0 && sc_associate(continuation, *place_of(i), channels[i].role) == 0)
            sc_log(continuation, *place_of(i), 0);
    export_state(continuation);
}

void wait_as_member(struct pollfd *fds, nfds_t count, int timeout_ms) {
    if (standing == SERVING && sc_log_left(continuation) < LEFT)
        export_state(continuation);
    fds[0] = (struct pollfd){sc_fd(sc), POLLIN, 0};
    poll(fds, count, timeout_ms);
    if (fds[0].revents)
        sc_dispatch(sc);
    while (standing != SERVING) {
        poll(fds, 1, -1);
        sc_dispatch(sc);
    }
}

void run_spare(const char *name, int taken) {
    static struct session session;
    session = no_session();
    prctl(PR_SET_NAME, name);
    part = name;
    served = &session;
    session.slow = slow_log();
    make_state(&session, -1);
    open_service();
    sc_accept_offers(sc, 1);
    standing = IDLE;
    struct pollfd fd;
    wait_as_member(&fd, 1, -1);
    tell_taken(taken, *name);
    if (strcmp(name, "front") == 0)
        run_front(&session);
    if (strcmp(name, "worker") == 0)
        run_worker(&session);
    session.log_file = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    run_logger(&session);
}
