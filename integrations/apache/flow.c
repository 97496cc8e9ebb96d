// The output of a connection on its way into the core's filter, which must never wait: a thread that waits there could not be held at the gate.
//
// The core waits by itself for a FLUSH bucket, for more memory than FlushMaxThreshold and for more ended requests than FlushMaxPipelined. So those
// limits are taken from it, flushes are taken out, and this filter does the waiting, with the gate open; for all connections, those to backends
// included, since the limits belong to the server. The event MPM calls the last filter of a connection when the socket can be written; that is one
// of ours as well, and it goes through the gate too.

#include "tls.h"
#include <errno.h>
#include <http_core.h>
#include <http_request.h>
#include <poll.h>

/// What the core would wait for (FlushMaxThreshold, FlushMaxPipelined), as this server has it configured.
static apr_size_t most_bytes;
static int most_ends;

static ap_filter_rec_t *out_filter, *tail_filter;

void flow_take_over(server_rec *server) {
    for (server_rec *host = server; host; host = host->next) {
        core_server_config *conf = ap_get_core_module_config(host->module_config);
        if (host == server) {
            most_bytes = conf->flush_max_threshold;
            most_ends = conf->flush_max_pipelined;
        }
        conf->flush_max_threshold = APR_SIZE_MAX / 2;
        conf->flush_max_pipelined = -1;
    }
}

static apr_status_t wait_writable(struct connection *connection) {
    apr_interval_time_t timeout = -1;
    apr_socket_timeout_get(connection->socket, &timeout);
    if (timeout <= 0) timeout = connection->c->base_server->timeout;
    struct pollfd entry = {connection->fd, POLLOUT, 0};
    int result;
    if (connection->slot) note_lasting(connection);
    do {
        result = poll(&entry, 1, (int)((timeout + 999) / 1000));
    } while (result < 0 && errno == EINTR);
    return result > 0 ? APR_SUCCESS : result == 0 ? APR_TIMEUP : errno;
}

/// `bb` or NULL: what waits in the core already. Never waits.
static apr_status_t core(struct connection *connection, apr_bucket_brigade *bb) {
    apr_status_t result = connection->core->frec->filter_func.out_func(connection->core, bb);
    if (!connection->c->data_in_output_filters) connection->held_bytes = connection->held_ends = 0;
    return result;
}

/// Counts what the core may have to keep, and takes the flushes out. True: there was one.
static bool count(struct connection *connection, apr_bucket_brigade *bb) {
    bool has_flush = false;
    for (apr_bucket *b = APR_BRIGADE_FIRST(bb), *next; b != APR_BRIGADE_SENTINEL(bb); b = next) {
        next = APR_BUCKET_NEXT(b);
        if (APR_BUCKET_IS_FLUSH(b)) {
            apr_bucket_delete(b);
            has_flush = true;
        } else if (AP_BUCKET_IS_EOR(b)) {
            connection->held_ends++;
        } else if (!APR_BUCKET_IS_METADATA(b) && !APR_BUCKET_IS_FILE(b)) {
            connection->held_bytes += b->length;
        }
    }
    return has_flush;
}

/// Between enter() and leave(), and so at its end.
static apr_status_t hand_over(struct connection *connection, apr_bucket_brigade *bb) {
    conn_rec *c = connection->c;
    bool must_send = count(connection, bb);
    apr_status_t result = core(connection, bb);
    if (result != APR_SUCCESS || !c->data_in_output_filters) return result;
    must_send = must_send || connection->held_bytes > most_bytes || (most_ends >= 0 && (int)connection->held_ends > most_ends);
    // It collects what is less than a packet or two.
    if (must_send) result = core(connection, NULL);
    while (must_send && result == APR_SUCCESS && c->data_in_output_filters) {
        leave(connection);
        result = wait_writable(connection);
        if (!enter(connection)) return APR_ECONNABORTED;
        if (result == APR_SUCCESS) result = core(connection, NULL);
    }
    if (result != APR_SUCCESS) c->aborted = 1;
    return result;
}

/// Reading them may take as long as whoever produces them likes.
static apr_status_t read_unknown(apr_bucket_brigade *bb) {
    for (apr_bucket *b = APR_BRIGADE_FIRST(bb); b != APR_BRIGADE_SENTINEL(bb); b = APR_BUCKET_NEXT(b)) {
        const char *bytes;
        apr_size_t length;
        if (APR_BUCKET_IS_METADATA(b) || b->length != (apr_size_t)-1) continue;
        apr_status_t result = apr_bucket_read(b, &bytes, &length, APR_BLOCK_READ);
        if (result != APR_SUCCESS) return result;
    }
    return APR_SUCCESS;
}

/// A session that arrives is silent until what it sends is verified. APR_EAGAIN: nothing is to be sent yet.
static apr_status_t welcome(struct connection *connection, apr_bucket_brigade *bb, bool *is_noted) {
    struct arrival *arrival = connection->arrival;
    apr_status_t result = read_unknown(bb);
    if (result != APR_SUCCESS || arrival == NULL || arrival->is_live) return result;
    // Nobody can freeze it yet, so there is no gate. It becomes live in the middle of the replay.
    if (connection->replay == NULL) return arrival_accept(connection) ? APR_SUCCESS : APR_ECONNABORTED;
    *is_noted = true;
    result = replay_filter(connection, bb);
    if (arrival->is_live && !arrival_leave(connection)) result = APR_ECONNABORTED;
    if (result != APR_SUCCESS) connection->c->aborted = 1;
    return result == APR_SUCCESS && !arrival->is_live ? APR_EAGAIN : result;
}

static apr_status_t note(struct connection *connection, apr_bucket_brigade *bb) {
    return connection->replay ? replay_filter(connection, bb) : response_note(connection, bb);
}

apr_status_t flow_note(struct connection *connection, apr_bucket_brigade *bb) {
    bool is_noted = false;
    apr_status_t result = welcome(connection, bb, &is_noted);
    if (result != APR_SUCCESS || is_noted) return result;
    if (!enter(connection)) return APR_ECONNABORTED;
    result = note(connection, bb);
    leave(connection);
    return result;
}

static apr_status_t output(ap_filter_t *f, apr_bucket_brigade *bb) {
    struct connection *connection = f->ctx;
    conn_rec *c = connection->c;
    if (bb == NULL || c->aborted) return ap_pass_brigade(f->next, bb);
    connection->core = f->next;
    bool is_noted = connection->slot == NULL;
    apr_status_t result = connection->tls ? APR_SUCCESS : welcome(connection, bb, &is_noted);
    if (result != APR_SUCCESS) return result == APR_EAGAIN ? APR_SUCCESS : result;
    if (!enter(connection)) return APR_ECONNABORTED;
    if (connection->tls) result = tls_note_out(connection, bb);
    else if (!is_noted) result = note(connection, bb);
    if (result == APR_SUCCESS) result = hand_over(connection, bb);
    // What the core keeps to send it with more is no reason to tell the broker of the connection; a socket that is full shows in tail() or wait_writable().
    leave(connection);
    return result;
}

/// Behind the core's filter, which passes nothing on: only the event MPM calls it, with nothing.
static apr_status_t tail(ap_filter_t *f, apr_bucket_brigade *bb) {
    struct connection *connection = f->ctx;
    if (bb) apr_brigade_cleanup(bb);
    if (connection->c->aborted || !enter(connection)) return APR_ECONNABORTED;
    // A connection that came idle has sent nothing yet.
    apr_status_t result = connection->core ? core(connection, NULL) : APR_SUCCESS;
    leave(connection);
    // A broker that was started anew has to hear of it.
    if (connection->slot && connection->c->data_in_output_filters) note_lasting(connection);
    return result;
}

void flow_register(void) {
    out_filter = ap_register_output_filter("SC_OUT", output, NULL, AP_FTYPE_NETWORK - 1);
    tail_filter = ap_register_output_filter("SC_TAIL", tail, NULL, AP_FTYPE_NETWORK + 1);
}

void flow_install(struct connection *connection) {
    ap_add_output_filter_handle(out_filter, connection, NULL, connection->c);
    ap_add_output_filter_handle(tail_filter, connection, NULL, connection->c);
}
