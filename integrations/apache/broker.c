// The broker's process: started with the server, ended with it, and its loop.
//
// It runs as the server's user and has no rights. It stays through graceful restarts, as the processes of the former configuration do that still
// serve. When it dies the server starts another, and tells it of the connections that live.

#include "broker.h"
#include <ap_listen.h>
#include <errno.h>
#include <http_log.h>
#include <mpm_common.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <unixd.h>

APLOG_USE_MODULE(sc);

struct broker broker;

/// A process that serves; its pidfd tells its end. -1: it has ended before it was known, and there may be more notes of it.
struct process {
    int pid, pidfd;
    bool is_stopping; // it was told to: nothing of it is taken over
    struct process *next;
};

void broker_watch(int fd, void *what) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = what};
    epoll_ctl(broker.epoll, EPOLL_CTL_ADD, fd, &event);
}

void broker_tick(int milliseconds) {
    struct itimerspec time = {.it_value.tv_nsec = milliseconds * 1000000L}, pending = {0};
    timerfd_gettime(broker.timer, &pending);
    bool is_sooner = pending.it_value.tv_nsec > 0 && pending.it_value.tv_nsec <= time.it_value.tv_nsec;
    if (!is_sooner) timerfd_settime(broker.timer, 0, &time, NULL);
}

static void look_after(int pid) {
    for (struct process *process = broker.processes; process; process = process->next)
        if (process->pid == pid) return;
    struct process *process = calloc(1, sizeof *process);
    if (process == NULL) return;
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0 && errno != ESRCH) return free(process);
    *process = (struct process){pid, fd, false, broker.processes};
    broker.processes = process;
    // Processes are told from sessions by the lowest bit.
    if (fd >= 0) broker_watch(fd, (void *)((uintptr_t)process | 1));
}

/// What it served goes to another one, unless it was told to stop.
static void bury(struct process *process) {
    for (uint32_t index = 0; index < sc_region->slot_count; index++) {
        struct slot *slot = &sc_region->slots[index];
        if (atomic_load(&slot->state) == SLOT_FREE || slot->pid != process->pid) continue;
        struct session *session = broker.by_slot[index];
        if (atomic_load(&slot->state) == SLOT_ENDED) session_ended(index);
        else if (session && session->life == atomic_load(&slot->life) && !process->is_stopping) session_orphaned(session);
        else {
            atomic_store(&slot->state, SLOT_ENDED);
            session_ended(index);
        }
    }
    for (struct process **place = &broker.processes; *place; place = &(*place)->next)
        if (*place == process) {
            *place = process->next;
            break;
        }
    if (process->pidfd >= 0) close(process->pidfd);
    free(process);
    broker.probes = 3;
}

static void bury_unknown(void) {
    for (struct process *process = broker.processes, *next; process; process = next) {
        next = process->next;
        if (process->pidfd < 0) bury(process);
    }
}

static void stopping(int pid) {
    for (struct process *process = broker.processes; process; process = process->next)
        if (process->pid == pid) process->is_stopping = true;
    broker.probes = 3;
}

static void read_notes(void) {
    for (int count = 0; count < 256; count++) {
        struct note note;
        int fd = -1;
        struct iovec part = {&note, sizeof note};
        union {
            struct cmsghdr header;
            char bytes[CMSG_SPACE(sizeof(int))];
        } control;
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t length = recvmsg(sc_notes[0], &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (length < 0) return bury_unknown();
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) memcpy(&fd, CMSG_DATA(header), sizeof fd);
        bool is_known = length == sizeof note && note.slot < sc_region->slot_count;
        if (is_known && note.type == NOTE_LASTS && fd >= 0) {
            look_after(note.pid);
            session_begin(note.slot, note.life, fd);
        } else {
            if (fd >= 0) close(fd);
            if (is_known && note.type == NOTE_ENDED && atomic_load(&sc_region->slots[note.slot].life) == note.life) session_ended(note.slot);
            struct session *session = is_known && note.type == NOTE_PASSED ? broker.by_slot[note.slot] : NULL;
            if (session && session->life == note.life) session_look(session);
            if (is_known && note.type == NOTE_STARTED) look_after(note.pid);
            if (is_known && note.type == NOTE_STOPPING) stopping(note.pid);
        }
    }
}

/// Once a second, and after messages were lost.
static void sweep(void) {
    atomic_store(&sc_region->missed, 0);
    for (uint32_t index = 0; index < sc_region->slot_count; index++) {
        struct slot *slot = &sc_region->slots[index];
        if (atomic_load(&slot->state) == SLOT_ENDED) session_ended(index);
        else if (atomic_load(&slot->state) != SLOT_FREE) look_after(slot->pid);
    }
    bury_unknown();
}

static void second_passed(void) {
    if (atomic_load(&sc_region->missed)) sweep();
    for (uint32_t index = 0; index < sc_region->slot_count; index++)
        if (broker.by_slot[index]) session_look(broker.by_slot[index]);
    session_wait_less();
    if (broker.probes == 0) return;
    broker.probes--;
    bool takes = session_probe();
    if (takes != broker.takes_sessions) sc_accept_offers(broker.sc, broker.takes_sessions = takes);
}

static void run(void) {
    struct itimerspec second = {{1, 0}, {0, 100000000}};
    int clock = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    timerfd_settime(clock, 0, &second, NULL);
    int sources[] = {sc_fd(broker.sc), sc_notes[0], broker.timer, clock};
    for (int i = 0; i < 4; i++) broker_watch(sources[i], &sources[i]);
    for (;;) {
        // One at a time: it may end the session that the next one would be of.
        struct epoll_event event;
        int count = epoll_wait(broker.epoll, &event, 1, -1);
        if (count < 0 && errno != EINTR) return;
        if (count < 1) continue;
        void *what = event.data.ptr;
        uint64_t ticks;
        if (what == &sources[0]) sc_dispatch(broker.sc);
        else if (what == &sources[1]) read_notes();
        else if (what == &sources[2]) {
            if (read(broker.timer, &ticks, sizeof ticks) > 0) session_park_again(), session_hire_again();
        } else if (what == &sources[3]) {
            if (read(clock, &ticks, sizeof ticks) > 0) second_passed();
        } else if ((uintptr_t)what & 1) bury((struct process *)((uintptr_t)what & ~(uintptr_t)1));
        else session_answered(what);
    }
}

static void serve(server_rec *server, const char *service, int parent) {
    prctl(PR_SET_NAME, "apache2-sc");
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(0);
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    ap_close_listeners();
    if (ap_run_drop_privileges(server->process->pool, server) != OK) _exit(1);
    // The parent's handlers concern the parent.
    for (int number = 1; number < 32; number++) signal(number, number == SIGPIPE || number == SIGHUP || number == SIGUSR1 || number == SIGWINCH ? SIG_IGN : SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    broker.server = server;
    broker.takes_sessions = true;
    broker.by_slot = calloc(sc_region->slot_count, sizeof *broker.by_slot);
    broker.bytes = malloc(BROKER_BYTES);
    broker.epoll = epoll_create1(EPOLL_CLOEXEC);
    broker.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    int result = broker.by_slot && broker.bytes ? sc_open(service, CONTINUATION_VERSION, &session_callbacks, NULL, 0, &broker.sc) : -ENOMEM;
    if (result < 0 || broker.epoll < 0 || broker.timer < 0) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, -result, server, "mod_sc: the broker for service %s cannot start", service);
        _exit(1);
    }
    sc_accept_offers(broker.sc, 1);
    run();
    _exit(1);
}

static struct { server_rec *server; const char *service; apr_pool_t *process, *configuration; } started;

static void maintain(int reason, void *data, apr_wait_t status) {
    (void)status;
    if (reason != APR_OC_REASON_DEATH && reason != APR_OC_REASON_LOST) return;
    apr_proc_other_child_unregister(data);
    atomic_store(&sc_region->broker, 0);
    int state = 0;
    if (ap_mpm_query(AP_MPMQ_MPM_STATE, &state) == APR_SUCCESS && state == AP_MPMQ_STOPPING) return;
    for (uint32_t index = 0; index < sc_region->slot_count; index++) sc_region->slots[index].is_noted = 0;
    atomic_store(&sc_region->missed, 1);
    ap_log_error(APLOG_MARK, APLOG_ERR, 0, started.server, "mod_sc: the broker has ended; another one is started");
    if (broker_start(started.process, started.configuration, started.server, started.service) == OK) regain_all(started.server);
}

int broker_start(apr_pool_t *process, apr_pool_t *configuration, server_rec *server, const char *service) {
    started.server = server;
    started.service = service;
    started.process = process;
    started.configuration = configuration;
    int parent = getpid();
    int32_t running = atomic_load(&sc_region->broker);
    pid_t pid = running && kill(running, 0) == 0 ? running : fork();
    if (pid < 0) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, errno, server, "mod_sc: no process for the broker");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    if (pid == 0) serve(server, service, parent);
    apr_proc_t *child = apr_pcalloc(process, sizeof *child);
    child->pid = pid;
    if (pid != running) apr_pool_note_subprocess(process, child, APR_KILL_ALWAYS);
    atomic_store(&sc_region->broker, pid);
    // Until the configuration ends, and with it this copy of the module's code.
    apr_proc_other_child_register(child, maintain, child, NULL, configuration);
    return OK;
}
