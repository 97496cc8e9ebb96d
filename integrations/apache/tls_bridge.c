// A TLS session that arrives. OpenSSL's state cannot be set, so mod_ssl shakes hands with a client of our own in the same process, and serves that; this
// file opens the records of the real client for it, and seals its output as the former host would have gone on:
//
//   client ══records══> core, SC_IN ──> SC_BRIDGE_IN: open, inner client ══other records══> mod_ssl ──> handlers
//   client <══records══ core, SC_OUT <── SC_BRIDGE_OUT: seal, inner client <══other records══ mod_ssl <──
//
// So handlers, logs and SSLRequire find the TLS connection that they expect, of the same suite and the same server name.

#include "tls_bridge.h"
#include <http_log.h>
#include <string.h>

APLOG_USE_MODULE(sc);

static SSL_CTX *inner_context;
static ap_filter_rec_t *bridge_in, *bridge_out;

static apr_status_t end_bridge(void *data) {
    struct tls_bridge *bridge = data;
    SSL_free(bridge->inner);
    tls_keys_end(&bridge->in);
    tls_keys_end(&bridge->out);
    return APR_SUCCESS;
}

bool tls_bridge_make(struct connection *connection) {
    conn_rec *c = connection->c;
    struct slot *slot = connection->slot;
    struct tls_following *tls = connection->tls;
    struct continuation_tls *from = &connection->arrival->from.tls;
    struct tls_bridge *bridge = apr_pcalloc(c->pool, sizeof *bridge);
    apr_pool_cleanup_register(c->pool, bridge, end_bridge, apr_pool_cleanup_null);
    bridge->skip = from->in_skip;
    bridge->come = apr_brigade_create(c->pool, c->bucket_alloc);
    bridge->sealed = apr_brigade_create(c->pool, c->bucket_alloc);
    bridge->inner = inner_context ? SSL_new(inner_context) : NULL;
    bridge->to_inner = BIO_new(BIO_s_mem());
    bridge->from_inner = BIO_new(BIO_s_mem());
    if (bridge->inner == NULL || bridge->to_inner == NULL || bridge->from_inner == NULL) return false;
    SSL_set_bio(bridge->inner, bridge->to_inner, bridge->from_inner);
    SSL_set_connect_state(bridge->inner);
    if (!tls_keys_init(&bridge->in, from->suite, from->client, from->in_number, false)) return false;
    if (!tls_keys_init(&bridge->out, from->suite, from->server, from->out_number, true)) return false;
    if (SSL_set_ciphersuites(bridge->inner, tls_suite_name(from->suite)) != 1) return false;
    if (from->name[0] && SSL_set_tlsext_host_name(bridge->inner, from->name) != 1) return false;
    // mod_ssl's records are then no longer than the client's may be.
    if (from->fragment && SSL_set_tlsext_max_fragment_length(bridge->inner, from->fragment) != 1) return false;

    memset(&slot->tls, 0, sizeof slot->tls);
    slot->tls.suite = from->suite;
    slot->tls.fragment = from->fragment;
    memcpy(slot->tls.client, from->client, sizeof slot->tls.client);
    memcpy(slot->tls.server, from->server, sizeof slot->tls.server);
    memcpy(slot->tls.name, from->name, sizeof slot->tls.name);
    explicit_bzero(from->client, sizeof from->client);
    explicit_bzero(from->server, sizeof from->server);
    slot->tls.in_first = slot->tls.in_next = from->in_number;
    slot->tls.in_first_plain = slot->tls.in_plain = -(int64_t)from->in_skip;
    tls->out_sealed = tls->typed = from->out_number;
    if (from->pending_length > 0) {
        tls->out.rest = from->pending_length;
        tls->out_is_old = true;
    } else {
        slot_tls(sc_region, slot)->records[slot->tls.record_count++] = (struct tls_record){.number = from->out_number};
    }
    slot->tls_state = TLS_FOLLOWED;
    tls->bridge = bridge;
    ap_add_input_filter_handle(bridge_in, connection, NULL, c);
    bridge->output = ap_add_output_filter_handle(bridge_out, connection, NULL, c);
    return true;
}

// MARK: From mod_ssl to the client

bool tls_bridge_seal(struct connection *connection, uint8_t type, const void *bytes, apr_size_t length) {
    struct tls_following *tls = connection->tls;
    struct tls_bridge *bridge = tls->bridge;
    apr_bucket_alloc_t *list = connection->c->bucket_alloc;
    uint8_t *record = apr_bucket_alloc(SC_TLS_RECORD, list);
    tls->types[tls->typed++ % sizeof tls->types] = type;
    apr_size_t whole = tls_seal(&bridge->out, type, bytes, length, record);
    if (whole == 0) {
        apr_bucket_free(record);
        return false;
    }
    APR_BRIGADE_INSERT_TAIL(bridge->sealed, apr_bucket_heap_create((char *)record, whole, apr_bucket_free, list));
    return true;
}

/// What mod_ssl has written, as records for the client.
static bool drain(struct connection *connection) {
    struct tls_bridge *bridge = connection->tls->bridge;
    uint8_t fragment = connection->slot->tls.fragment, content[16384];
    int length, most = fragment ? 256 << fragment : (int)sizeof content;
    while ((length = SSL_read(bridge->inner, content, most)) > 0)
        if (!tls_bridge_seal(connection, TLS_DATA, content, (apr_size_t)length)) return false;
    int error = SSL_get_error(bridge->inner, length);
    static const uint8_t close_notify[2] = {1, 0};
    if (error == SSL_ERROR_ZERO_RETURN && !bridge->has_ended) {
        bridge->has_ended = true;
        return tls_bridge_seal(connection, TLS_ALERT, close_notify, sizeof close_notify);
    }
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_ZERO_RETURN;
}

static void finish_begun(struct connection *connection) {
    struct tls_bridge *bridge = connection->tls->bridge;
    const struct continuation_tls *from = &connection->arrival->from.tls;
    if (bridge->is_begun) return;
    bridge->is_begun = true;
    if (from->pending_length == 0) return;
    APR_BRIGADE_INSERT_TAIL(bridge->sealed, apr_bucket_pool_create((const char *)from->pending, from->pending_length, connection->c->pool,
                                                                  connection->c->bucket_alloc));
}

apr_status_t tls_bridge_go(struct connection *connection) {
    struct tls_bridge *bridge = connection->tls->bridge;
    finish_begun(connection);
    if (APR_BRIGADE_EMPTY(bridge->sealed)) return APR_SUCCESS;
    return ap_pass_brigade(bridge->output->next, bridge->sealed);
}

static apr_status_t output(ap_filter_t *f, apr_bucket_brigade *bb) {
    struct connection *connection = f->ctx;
    struct tls_bridge *bridge = connection->tls->bridge;
    bool is_silent = !connection->arrival->is_live;
    if (bb == NULL) return ap_pass_brigade(f->next, bb);
    while (!APR_BRIGADE_EMPTY(bb)) {
        apr_bucket *b = APR_BRIGADE_FIRST(bb);
        const char *bytes;
        apr_size_t length;
        if (APR_BUCKET_IS_METADATA(b)) {
            APR_BUCKET_REMOVE(b);
            // Of the handshake, which the client does not see.
            if (is_silent) apr_bucket_destroy(b);
            else APR_BRIGADE_INSERT_TAIL(bridge->sealed, b);
            continue;
        }
        apr_status_t result = apr_bucket_read(b, &bytes, &length, APR_BLOCK_READ);
        if (result != APR_SUCCESS) return result;
        if (BIO_write(bridge->to_inner, bytes, (int)length) != (int)length) return APR_ENOMEM;
        apr_bucket_delete(b);
        if (SSL_is_init_finished(bridge->inner) && !is_silent && !drain(connection)) {
            ap_log_cerror(APLOG_MARK, APLOG_ERR, 0, connection->c, "mod_sc: the inner TLS connection of a session that came has failed");
            connection->c->aborted = 1;
            return APR_ECONNABORTED;
        }
    }
    if (is_silent || APR_BRIGADE_EMPTY(bridge->sealed)) return APR_SUCCESS;
    return ap_pass_brigade(f->next, bridge->sealed);
}

const char *tls_bridge_shake(struct connection *connection) {
    conn_rec *c = connection->c;
    if (connection->tls == NULL) return "this Apache speaks no TLS on the connection's address, or SCTLS is off";
    apr_bucket_brigade *none = apr_brigade_create(c->pool, c->bucket_alloc);
    apr_status_t result = ap_get_brigade(c->input_filters, none, AP_MODE_INIT, APR_BLOCK_READ, 0);
    apr_brigade_destroy(none);
    if (result == APR_SUCCESS && SSL_is_init_finished(connection->tls->bridge->inner)) return NULL;
    return "this Apache does not take its TLS parameters: the cipher suite, the server name, or it wants a client's certificate";
}

static apr_status_t end_context(void *data) {
    SSL_CTX_free(data);
    inner_context = NULL;
    return APR_SUCCESS;
}

void tls_child_init(apr_pool_t *p) {
    inner_context = SSL_CTX_new(TLS_client_method());
    if (inner_context == NULL) return;
    apr_pool_cleanup_register(p, inner_context, end_context, apr_pool_cleanup_null);
    SSL_CTX_set_min_proto_version(inner_context, TLS1_3_VERSION);
    SSL_CTX_set_session_cache_mode(inner_context, SSL_SESS_CACHE_OFF);
    // Both ends are this process, and which keys and curves are good enough was between the client and the former host.
    SSL_CTX_set_security_level(inner_context, 0);
    SSL_CTX_set_verify(inner_context, SSL_VERIFY_NONE, NULL);
}

void tls_bridge_register(void) {
    // Right above SC_IN and SC_OUT.
    bridge_in = ap_register_input_filter("SC_BRIDGE_IN", tls_bridge_input, NULL, AP_FTYPE_NETWORK - 2);
    bridge_out = ap_register_output_filter("SC_BRIDGE_OUT", output, NULL, AP_FTYPE_NETWORK - 2);
}
