// mod_sc: the client sessions of an Apache httpd 2.4 move to another one, or to another process of the same, while they are served.
//
// This file: the life of a connection, and what concerns requests. The order of the filters, from the network up: core, SC_OUT and SC_IN, with TLS that has
// arrived SC_BRIDGE_OUT and SC_BRIDGE_IN, mod_ssl, with TLS SC_PLAIN_OUT and SC_PLAIN_IN, everything else.

#include "tls.h"
#include <ap_listen.h>
#include <ap_mpm.h>
#include <apr_portable.h>
#include <apr_strings.h>
#include <http_connection.h>
#include <http_core.h>
#include <http_log.h>
#include <http_protocol.h>
#include <http_request.h>
#include <http_ssl.h>
#include <mpm_common.h>
#include <string.h>
#include <unistd.h>

APLOG_USE_MODULE(sc);

/// Requests after which a connection is one that lasts.
#define QUICK_REQUESTS 4

// MARK: Connections

static apr_status_t end_connection(void *data) {
    struct connection *connection = data;
    struct slot *slot = connection->slot;
    connection->slot = NULL;
    if (connection->arrival && connection->arrival->control >= 0) {
        close(connection->arrival->control);
        connection->arrival->control = -1;
    }
    slot_release(slot);
    return APR_SUCCESS;
}

/// No slot: the connection is served, cannot move, and has the same flow control as the others.
static int install_flow(conn_rec *c, void *socket) {
    struct connection *connection = apr_pcalloc(c->pool, sizeof *connection);
    connection->c = c;
    connection->socket = socket;
    apr_os_sock_get(&connection->fd, connection->socket);
    flow_install(connection);
    return OK;
}

static int pre_connection(conn_rec *c, void *socket) {
    if (sc_region == NULL || c->master) return DECLINED;
    if (c->outgoing || c->sbh == NULL) return install_flow(c, socket);
    struct arrival *arrival = arrival_find(c);
    struct slot *slot = slot_take(getpid());
    if (slot == NULL) {
        struct connection none = {.c = c, .arrival = arrival};
        if (arrival) arrival_refuse(&none, ENOSPC, "the server follows as many connections as SCSessions allows");
        return install_flow(c, socket);
    }
    struct connection *connection = apr_pcalloc(c->pool, sizeof *connection);
    connection->slot = slot;
    connection->c = c;
    connection->socket = socket;
    apr_os_sock_get(&connection->fd, connection->socket);
    slot->fd = connection->fd;
    if (arrival == NULL) atomic_store_explicit(&slot->is_live, 1, memory_order_release);
    if (arrival) {
        connection->arrival = arrival;
        if (arrival->from.request_length) input_append(slot, arrival->from.request, arrival->from.request_length);
        slot->keepalives = arrival->from.keepalives;
        c->keepalives = (int)arrival->from.keepalives;
    }
    ap_set_module_config(c->conn_config, &sc_module, connection);
    apr_pool_cleanup_register(c->pool, connection, end_connection, apr_pool_cleanup_null);
    input_install(connection);
    flow_install(connection);
    if (arrival && arrival->from.has_response) replay_begin(connection);
    return OK;
}

/// A session that came: what does not have to be compared is accepted now.
static int process_connection(conn_rec *c) {
    struct connection *connection = connection_of(c);
    if (connection == NULL) return DECLINED;
    if (connection->slot->tls_state == TLS_NONE && ap_ssl_conn_is_ssl(c)) connection->slot->obstacles |= OBSTACLE_TLS;
    struct arrival *arrival = connection->arrival;
    if (arrival == NULL || arrival->is_live) return DECLINED;
    const char *why = arrival->from.tls.is_active ? tls_bridge_shake(connection) : NULL;
    if (why) {
        arrival_refuse(connection, EPROTO, why);
        return OK;
    }
    if (arrival->from.has_response && arrival->from.head_done) return DECLINED;
    if (!arrival_accept(connection)) return OK;
    if (arrival->from.request_length > 0) return DECLINED;
    // Idle between two requests: it waits as it would have.
    int is_async = 0;
    ap_mpm_query(AP_MPMQ_IS_ASYNC, &is_async);
    c->keepalive = AP_CONN_KEEPALIVE;
    if (is_async && c->cs) {
        c->cs->state = CONN_STATE_WRITE_COMPLETION;
        return OK;
    }
    apr_socket_timeout_set(connection->socket, c->base_server->keep_alive_timeout);
    return DECLINED;
}

/// Before any shutdown(2). This may be the MPM's listener thread, so nobody waits here: a frozen session is closed without a word, and the broker,
/// which has the descriptor too, ends the connection if it has not moved.
static int pre_close(conn_rec *c) {
    struct connection *connection = connection_of(c);
    if (connection == NULL) return OK;
    struct slot *slot = connection->slot;
    atomic_store(&slot->is_live, 0);
    atomic_store(&slot->busy, 1);
    if (atomic_load(&slot->freeze) == SERVED) slot->obstacles |= OBSTACLE_CLOSING;
    else c->aborted = 1;
    atomic_store(&slot->busy, 0);
    return OK;
}

// MARK: Requests

static bool may_repeat(request_rec *r) {
    const struct dir_conf *conf = ap_get_module_config(r->per_dir_config, &sc_module);
    if (conf->repeat == REPEAT_ALL) return true;
    if (conf->repeat == REPEAT_NONE) return false;
    // Methods that RFC 9110 calls safe.
    return r->method_number == M_GET || r->method_number == M_OPTIONS || r->method_number == M_TRACE || r->method_number == M_PROPFIND;
}

/// The last moment before a request is carried out.
static int fixups(request_rec *r) {
    struct connection *connection = connection_of(r->connection);
    if (connection == NULL || r->main) return DECLINED;
    if (r->finfo.filetype == APR_REG) {
        connection->file_name = r->filename;
        connection->file_size = (uint64_t)r->finfo.size;
        connection->file_time = (int64_t)apr_time_sec(r->finfo.mtime);
    }
    // One that answers when others are ready may be silent for long.
    if (r->handler && (strncmp(r->handler, "cgi", 3) == 0 || strncmp(r->handler, "proxy", 5) == 0)) note_lasting(connection);
    // The one that had begun when the session came.
    const struct arrival *arrival = connection->arrival;
    bool is_first = arrival && arrival->from.request_length > 0 && (uint32_t)r->connection->keepalives == arrival->from.keepalives;
    if (is_first || (arrival && !arrival->is_live)) apr_table_setn(r->subprocess_env, "SC_ARRIVED", "1");
    if (may_repeat(r)) return DECLINED;
    if (!enter(connection)) return HTTP_INTERNAL_SERVER_ERROR;
    connection->slot->is_unrepeatable = 1;
    struct response *response = last_response(connection->slot);
    if (response && response->out_end == OPEN_END) response->is_repeatable = 0;
    leave(connection);
    return DECLINED;
}

/// The end of a request: its response has gone into the socket, or the connection is dead.
static int log_transaction(request_rec *r) {
    conn_rec *c = r->connection;
    struct connection *connection = connection_of(c);
    if (connection == NULL || connection->slot == NULL) return DECLINED;
    struct slot *slot = connection->slot;
    if (atomic_load(&slot->freeze) == GONE) apr_table_setn(r->subprocess_env, "SC_MOVED", "1");
    if (c->aborted) return DECLINED;
    begin_change(slot);
    if (slot->count > 0) {
        if (response_at(slot, 0)->out_end != OPEN_END) {
            slot->first = (slot->first + 1) % SC_RESPONSES;
            slot->count--;
        }
    } else if (connection->unnoted > 0 && --connection->unnoted == 0) {
        slot->obstacles &= ~(uint32_t)OBSTACLE_RESPONSES;
    }
    end_change(slot);
    uint64_t needed = slot->count ? response_at(slot, 0)->in_start : slot->in_request;
    if (connection->tls) tls_trim(connection, needed);
    else input_trim(slot, needed);
    // A client that never lets the server wait would not become known otherwise.
    if (c->keepalives >= QUICK_REQUESTS) note_lasting(connection);
    if (slot->is_pinned) {
        slot->is_pinned = 0;
        note_send(NOTE_PASSED, slot, -1);
    }
    return DECLINED;
}

// MARK: The server

static int open_logs(apr_pool_t *p, apr_pool_t *log, apr_pool_t *temp, server_rec *server) {
    (void)log, (void)temp;
    const struct server_conf *conf = ap_get_module_config(server->module_config, &sc_module);
    if (conf->service == NULL || ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG) return OK;
    apr_status_t result = region_make(server->process->pool, conf->sessions, conf->request_max);
    if (result != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, result, server, "mod_sc: no memory to follow %d connections; after an upgrade of the module stop and start", conf->sessions);
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    return arrival_listen(p, server);
}

static int post_config(apr_pool_t *p, apr_pool_t *log, apr_pool_t *temp, server_rec *server) {
    (void)log, (void)temp;
    const struct server_conf *conf = ap_get_module_config(server->module_config, &sc_module);
    if (sc_region == NULL || conf->service == NULL || ap_state_query(AP_SQ_MAIN_STATE) == AP_SQ_MS_CREATE_PRE_CONFIG) return OK;
    if (ap_num_listen_buckets > 1) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, 0, server, "mod_sc: ListenCoresBucketsRatio makes %d listeners of each, and sessions come to one: choose "
                     "more than half the number of processors, or none", ap_num_listen_buckets);
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    flow_take_over(server);
    return broker_start(server->process->pool, p, server, conf->service);
}

static void child_init(apr_pool_t *p, server_rec *server) {
    (void)server;
    if (sc_region == NULL) return;
    tls_child_init(p);
    note_send(NOTE_STARTED, NULL, -1);
}

static void child_stopping(apr_pool_t *p, int is_graceful) {
    (void)p, (void)is_graceful;
    if (sc_region) note_send(NOTE_STOPPING, NULL, -1);
}

static void register_hooks(apr_pool_t *p) {
    (void)p;
    static const char *const mpms[] = {"event.c", "worker.c", "prefork.c", NULL};
    ap_hook_open_logs(open_logs, NULL, mpms, APR_HOOK_REALLY_FIRST); // before the MPM counts its listeners
    ap_hook_post_config(post_config, NULL, NULL, APR_HOOK_LAST);
    ap_hook_create_connection(arrival_create_connection, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_pre_connection(pre_connection, NULL, NULL, APR_HOOK_FIRST);
    ap_hook_process_connection(process_connection, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_pre_close_connection(pre_close, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_fixups(fixups, NULL, NULL, APR_HOOK_REALLY_LAST);
    ap_hook_log_transaction(log_transaction, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_child_init(child_init, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_stopping(child_stopping, NULL, NULL, APR_HOOK_MIDDLE);
    input_register();
    tls_register();
    tls_bridge_register();
    flow_register();
}

module AP_MODULE_DECLARE_DATA sc_module = {
    STANDARD20_MODULE_STUFF, make_dir_conf, merge_dir_conf, make_server_conf, merge_server_conf, directives, register_hooks, 0};
