// The input of a connection: read from the socket by a bucket of our own, logged until its request is answered, and counted as it is taken.

#include "tls.h"
#include <errno.h>
#include <http_core.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

static ap_filter_rec_t *count_filter;

void input_append(struct slot *slot, const char *bytes, apr_size_t length) {
    uint64_t offset = slot->in_total - slot->in_logged;
    // What is not carried out again is not needed; the rest is for what follows it.
    uint64_t most = slot->is_unrepeatable ? SC_REQUEST_SHORT : sc_region->request_max;
    begin_change(slot);
    if (offset + length <= most && !(slot->obstacles & OBSTACLE_INPUT)) memcpy(slot_input(sc_region, slot) + offset, bytes, length);
    else slot->obstacles |= OBSTACLE_INPUT;
    slot->in_total += length;
    end_change(slot);
}

void input_forget(struct slot *slot, uint64_t kept) {
    if (kept <= SC_REQUEST_SHORT) return;
    char *input = slot_input(sc_region, slot);
    if (kept > sc_region->request_max) kept = sc_region->request_max;
    madvise(input + SC_REQUEST_SHORT, kept - SC_REQUEST_SHORT, MADV_REMOVE);
}

void input_trim(struct slot *slot, uint64_t to) {
    if (to <= slot->in_logged) return;
    uint64_t kept = slot->in_total - slot->in_logged;
    begin_change(slot);
    if (slot->obstacles & OBSTACLE_INPUT) {
        // What came too much is lost, unless all of it is done.
        if (to >= slot->in_total) slot->obstacles &= ~(uint32_t)OBSTACLE_INPUT;
    } else if (to < slot->in_total) {
        char *input = slot_input(sc_region, slot);
        memmove(input, input + (to - slot->in_logged), slot->in_total - to);
    }
    slot->in_logged = to;
    end_change(slot);
    if (slot->in_total - to <= SC_REQUEST_SHORT) input_forget(slot, kept);
}

/// Waits without holding anything: a session may be frozen and may leave meanwhile.
static apr_status_t wait_readable(struct connection *connection) {
    apr_interval_time_t timeout = -1;
    apr_socket_timeout_get(connection->socket, &timeout);
    struct pollfd entry = {connection->fd, POLLIN, 0};
    int result;
    note_lasting(connection);
    do {
        result = poll(&entry, 1, timeout < 0 ? -1 : (int)((timeout + 999) / 1000));
    } while (result < 0 && errno == EINTR);
    return result > 0 ? APR_SUCCESS : result == 0 ? APR_TIMEUP : errno;
}

static const apr_bucket_type_t socket_type;

static apr_bucket *socket_bucket(struct connection *connection, apr_bucket_alloc_t *list) {
    apr_bucket *b = apr_bucket_alloc(sizeof *b, list);
    APR_BUCKET_INIT(b);
    b->free = apr_bucket_free;
    b->list = list;
    b->type = &socket_type;
    b->length = (apr_size_t)-1;
    b->start = -1;
    b->data = connection;
    return b;
}

/// Reads and logs as one step. APR_EAGAIN: nothing has come.
static apr_status_t receive(struct connection *connection, char *bytes, apr_size_t *length) {
    if (!enter(connection)) return APR_ECONNABORTED;
    ssize_t count = recv(connection->fd, bytes, *length, MSG_DONTWAIT);
    apr_status_t result = count > 0 ? APR_SUCCESS : count == 0 ? APR_EOF : errno;
    if (count > 0) input_append(connection->slot, bytes, (apr_size_t)count);
    if (count > 0 && connection->tls) tls_note_in(connection, bytes, (apr_size_t)count);
    leave(connection);
    *length = count > 0 ? (apr_size_t)count : 0;
    return result == EWOULDBLOCK ? APR_EAGAIN : result;
}

static apr_status_t socket_read(apr_bucket *b, const char **bytes, apr_size_t *length, apr_read_type_e block) {
    struct connection *connection = b->data;
    if (connection->arrival && !connection->arrival->is_live) {
        // Silent until it is live; what is known of it has to do.
        if (block == APR_NONBLOCK_READ) return APR_EAGAIN;
        if (connection->replay) {
            arrival_refuse(connection, EBUSY, "its response here needs more of the request than has come");
            return APR_ECONNABORTED;
        }
        if (!arrival_accept(connection)) return APR_ECONNABORTED;
    }
    *bytes = NULL;
    char *buffer = apr_bucket_alloc(APR_BUCKET_BUFF_SIZE, b->list);
    apr_status_t result;
    do {
        *length = APR_BUCKET_BUFF_SIZE;
        result = receive(connection, buffer, length);
        if (result != APR_EAGAIN) break;
        if (block == APR_NONBLOCK_READ) note_lasting(connection);
        else if ((result = wait_readable(connection)) == APR_SUCCESS) result = APR_EAGAIN;
    } while (block == APR_BLOCK_READ && result == APR_EAGAIN);
    if (result != APR_SUCCESS) apr_bucket_free(buffer);
    if (result == APR_EOF) {
        apr_bucket_immortal_make(b, "", 0);
        *bytes = b->data;
        *length = 0;
        return APR_SUCCESS;
    }
    if (result != APR_SUCCESS) return result;
    b = apr_bucket_heap_make(b, buffer, *length, apr_bucket_free);
    ((apr_bucket_heap *)b->data)->alloc_len = APR_BUCKET_BUFF_SIZE;
    *bytes = buffer;
    APR_BUCKET_INSERT_AFTER(b, socket_bucket(connection, b->list));
    return APR_SUCCESS;
}

static const apr_bucket_type_t socket_type = {
    "SC_SOCKET", 5, APR_BUCKET_DATA, apr_bucket_destroy_noop, socket_read, apr_bucket_setaside_notimpl, apr_bucket_split_notimpl,
    apr_bucket_copy_notimpl};

static apr_status_t insert_network_bucket(conn_rec *c, apr_bucket_brigade *bb, apr_socket_t *socket) {
    (void)socket;
    struct connection *connection = connection_of(c);
    if (connection == NULL) return AP_DECLINED;
    if (connection->arrival && connection->arrival->from.request_length > 0) {
        const struct continuation *from = &connection->arrival->from;
        APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_heap_create(from->request, from->request_length, NULL, c->bucket_alloc));
    }
    APR_BRIGADE_INSERT_TAIL(bb, socket_bucket(connection, c->bucket_alloc));
    return APR_SUCCESS;
}

apr_status_t input_count(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode, apr_read_type_e block, apr_off_t bytes) {
    struct connection *connection = f->ctx;
    apr_status_t result = ap_get_brigade(f->next, bb, mode, block, bytes);
    if (mode == AP_MODE_EATCRLF || mode == AP_MODE_EXHAUSTIVE) connection->slot->obstacles |= OBSTACLE_COUNT;
    if (result != APR_SUCCESS || (mode != AP_MODE_GETLINE && mode != AP_MODE_READBYTES)) return result;
    uint64_t taken = 0;
    for (apr_bucket *b = APR_BRIGADE_FIRST(bb); b != APR_BRIGADE_SENTINEL(bb); b = APR_BUCKET_NEXT(b))
        if (!APR_BUCKET_IS_METADATA(b) && b->length != (apr_size_t)-1) taken += b->length;
    // Not at the gate: what must not be carried out twice stops there before it is (mod_sc.c).
    connection->slot->in_consumed += taken;
    return result;
}

/// Right above the core's input filter. Of TLS connections the plaintext counts.
static apr_status_t count(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode, apr_read_type_e block, apr_off_t bytes) {
    struct connection *connection = f->ctx;
    return connection->tls ? ap_get_brigade(f->next, bb, mode, block, bytes) : input_count(f, bb, mode, block, bytes);
}

void input_register(void) {
    ap_hook_insert_network_bucket(insert_network_bucket, NULL, NULL, APR_HOOK_MIDDLE);
    count_filter = ap_register_input_filter("SC_IN", count, NULL, AP_FTYPE_NETWORK - 1);
}

void input_install(struct connection *connection) { ap_add_input_filter_handle(count_filter, connection, NULL, connection->c); }
