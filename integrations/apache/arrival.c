// Sessions that come: a listener of our own in the MPM's accept loop, whose connections turn into those of clients.
//
// The broker connects to it and passes the client's TCP descriptor and the continuation. The MPM accepts it like any connection, in whichever
// process and thread is free, and so everything that a connection needs is real: the scoreboard, the timeouts, the limits.

#include "tls.h"
#include <ap_listen.h>
#include <ap_mpm.h>
#include <apr_portable.h>
#include <apr_strings.h>
#include <errno.h>
#include <fcntl.h>
#include <http_core.h>
#include <http_log.h>
#include <netinet/in.h>
#include <scoreboard.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

APLOG_USE_MODULE(sc);

/// Seconds: for a session that was offered to come, for the broker to say what it has to say, and for a move to be decided.
#define APPROACH 20
#define PATIENCE 5
#define DECISION 60

static const char *const arrival_key = "mod_sc_arrival";

int arrival_listen(apr_pool_t *p, server_rec *server) {
    // Abstract, with a name that the kernel chooses: no file is left behind.
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t size = sizeof address;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)) < 0 || listen(fd, 1024) < 0
        || getsockname(fd, (struct sockaddr *)&address, &size) < 0) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, errno, server, "mod_sc: no socket for sessions that come");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    sc_region->import_length = (uint32_t)(size - offsetof(struct sockaddr_un, sun_path));
    memcpy(sc_region->import_name, address.sun_path, sc_region->import_length);
    // As long as the process: after a restart the core closes the listeners of the former configuration itself.
    apr_pool_t *process = server->process->pool;
    ap_listen_rec *listener = apr_pcalloc(process, sizeof *listener);
    apr_os_sock_info_t info = {.os_sock = &fd, .local = (struct sockaddr *)&address, .family = APR_UNIX, .type = SOCK_STREAM};
    apr_os_sock_make(&listener->sd, &info, process);
    apr_sockaddr_info_get(&listener->bind_addr, "127.0.0.1", APR_INET, 1, 0, process); // shown by mod_status and the like; never bound
    listener->active = 1;
    listener->protocol = "sc";
    ap_listen_rec **place = &ap_listeners;
    while (*place) place = &(*place)->next;
    *place = listener;
    (void)p;
    return OK;
}

static bool read_all(int fd, void *bytes, size_t length) {
    for (char *at = bytes; length > 0;) {
        ssize_t count = read(fd, at, length);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return false;
        at += count;
        length -= (size_t)count;
    }
    return true;
}

static void set_patience(int fd, int seconds) {
    struct timeval patience = {seconds, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

/// The head with the client's descriptor, and the file with its continuation. -1: none came, -2: it is not needed any longer.
static int receive_head(int fd, struct arrival_head *head, int *file) {
    int passed[2] = {-1, -1};
    struct iovec part = {head, sizeof *head};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof passed)];
    } control;
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t length = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | MSG_WAITALL);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    bool is_whole = header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(sizeof passed);
    if (is_whole) memcpy(passed, CMSG_DATA(header), sizeof passed);
    *file = passed[1];
    if (is_whole && length == sizeof *head && head->magic == REGION_MAGIC && head->length <= SC_REQUEST_MAX + SC_HEAD_MAX + SC_TLS_RECORD + 4096) return passed[0];
    for (int i = 0; i < 2; i++)
        if (passed[i] >= 0) close(passed[i]);
    return length == 0 ? -2 : -1;
}

static void set_address(apr_sockaddr_t *address, const struct sockaddr_storage *from, socklen_t size) {
    memset(&address->sa, 0, sizeof address->sa);
    memcpy(&address->sa, from, size);
    address->salen = size;
    address->family = from->ss_family;
    bool is_v6 = from->ss_family == AF_INET6;
    address->port = ntohs(is_v6 ? address->sa.sin6.sin6_port : address->sa.sin.sin_port);
    address->ipaddr_len = is_v6 ? sizeof address->sa.sin6.sin6_addr : sizeof address->sa.sin.sin_addr;
    address->ipaddr_ptr = is_v6 ? (void *)&address->sa.sin6.sin6_addr : (void *)&address->sa.sin.sin_addr;
    address->addr_str_len = is_v6 ? 46 : 16;
    address->hostname = NULL;
}

/// The event MPM closes the idle connections of a process whose threads are all at work. So a quarter of them is left to other work.
static bool is_crowded(void) {
    int is_async = 0, threads = 0, idle = 0;
    ap_mpm_query(AP_MPMQ_IS_ASYNC, &is_async);
    ap_mpm_query(AP_MPMQ_MAX_THREADS, &threads);
    apr_proc_t process = {.pid = getpid()};
    int child = is_async ? ap_find_child_by_pid(&process) : -1;
    if (child < 0) return false;
    for (int thread = 0; thread < threads; thread++) {
        const worker_score *worker = ap_get_scoreboard_worker_from_indexes(child, thread);
        idle += worker && worker->status == SERVER_READY;
    }
    return idle < threads / 4;
}

static const char *receive(apr_pool_t *p, apr_socket_t *socket, apr_sockaddr_t *local) {
    int fd = -1;
    apr_os_sock_get(&fd, socket);
    struct ucred who;
    socklen_t who_size = sizeof who;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &who_size) < 0 || who.pid != atomic_load(&sc_region->broker)) return "it is not from the broker";
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    set_patience(fd, PATIENCE);
    char call = 0;
    // Nothing: the broker only looked whether anybody is here.
    if (!read_all(fd, &call, sizeof call)) return "";
    // From now on this thread waits for the session. It was asked for at the offer, so that the client need not wait for a thread.
    struct arrival_answer here_i_am = {.slot = NO_SLOT, .error = call == CALL_IF_IDLE && is_crowded() ? EBUSY : 0};
    if (send(fd, &here_i_am, sizeof here_i_am, MSG_NOSIGNAL) < 0 || here_i_am.error) return "";
    set_patience(fd, APPROACH);
    struct arrival_head head;
    int file, client = receive_head(fd, &head, &file);
    set_patience(fd, PATIENCE);
    if (client < 0) return client == -2 ? "" : "it brings no connection";
    struct arrival *arrival = apr_pcalloc(p, sizeof *arrival);
    unsigned char *bytes = apr_palloc(p, head.length);
    bool is_read = pread(file, bytes, head.length, 0) == (ssize_t)head.length;
    close(file);
    struct sockaddr_storage here, there;
    socklen_t here_size = sizeof here, there_size = sizeof there;
    if (!is_read || !continuation_decode(bytes, head.length, &arrival->from)
        || getsockname(client, (struct sockaddr *)&here, &here_size) < 0 || getpeername(client, (struct sockaddr *)&there, &there_size) < 0) {
        close(client);
        return "its continuation cannot be read";
    }
    tls_wipe(bytes, head.length);
    // The MPM keeps its apr_socket_t: the client's connection takes the place behind it, the broker's gets another number.
    arrival->control = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (arrival->control < 0 || dup3(client, fd, O_CLOEXEC) < 0) {
        close(client);
        return "there are no descriptors left";
    }
    close(client);
    apr_sockaddr_t *remote = NULL;
    apr_socket_addr_get(&remote, APR_REMOTE, socket);
    set_address(local, &here, here_size);
    set_address(remote, &there, there_size);
    apr_pool_userdata_setn(arrival, arrival_key, NULL, p);
    return NULL;
}

conn_rec *arrival_create_connection(apr_pool_t *p, server_rec *server, apr_socket_t *socket, long id, void *sbh, apr_bucket_alloc_t *alloc) {
    (void)id, (void)alloc;
    apr_sockaddr_t *local = NULL;
    if (sc_region == NULL || apr_socket_addr_get(&local, APR_LOCAL, socket) != APR_SUCCESS || local->family != APR_UNIX) return NULL;
    // Or the MPM would take it for idle, and start no others.
    ap_update_child_status(sbh, SERVER_BUSY_READ, NULL);
    const char *why = receive(p, socket, local);
    if (why) {
        if (*why) ap_log_error(APLOG_MARK, APLOG_ERR, errno, server, "mod_sc: a session did not come: %s", why);
        apr_socket_shutdown(socket, APR_SHUTDOWN_READWRITE);
    }
    // NULL is "declined": the core makes the connection, of the client's socket.
    return NULL;
}

struct arrival *arrival_find(conn_rec *c) {
    struct arrival *arrival = NULL;
    apr_pool_userdata_get((void **)&arrival, arrival_key, c->pool);
    return arrival;
}

static void end_control(struct arrival *arrival) {
    if (arrival->control >= 0) close(arrival->control);
    arrival->control = -1;
}

void arrival_refuse(struct connection *connection, int error, const char *reason) {
    struct arrival *arrival = connection->arrival;
    connection->c->aborted = 1;
    if (arrival->control < 0) return;
    struct arrival_answer answer = {.error = error};
    apr_cpystrn(answer.reason, reason, sizeof answer.reason);
    if (write(arrival->control, &answer, sizeof answer) < 0) answer.error = errno;
    end_control(arrival);
}

bool arrival_enter(struct connection *connection) {
    struct arrival *arrival = connection->arrival;
    if (arrival->is_live) return true;
    if (arrival->control < 0) return false;
    struct arrival_answer answer = {.slot = slot_index(sc_region, connection->slot), .life = atomic_load(&connection->slot->life)};
    struct arrival_go go;
    set_patience(arrival->control, DECISION);
    // It can be frozen as soon as it is live, and not before what this thread is about to note.
    atomic_store(&connection->slot->busy, 1);
    bool is_live = write(arrival->control, &answer, sizeof answer) == sizeof answer && read_all(arrival->control, &go, sizeof go);
    end_control(arrival);
    if (!is_live) {
        leave(connection);
        connection->c->aborted = 1;
        return false;
    }
    connection->slot->out_base = go.out_base;
    connection->slot->is_noted = 1;
    atomic_store(&connection->slot->is_live, 1);
    arrival->is_live = true;
    return true;
}

bool arrival_leave(struct connection *connection) {
    leave(connection);
    return connection->tls == NULL || tls_bridge_go(connection) == APR_SUCCESS;
}

bool arrival_accept(struct connection *connection) {
    if (connection->arrival->is_live) return true;
    return arrival_enter(connection) && arrival_leave(connection);
}
