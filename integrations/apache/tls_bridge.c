// A TLS session that arrives. OpenSSL's state cannot be set, so mod_ssl shakes hands with a client of our own in the same process, and serves that; this
// file opens the records of the real client for it, and seals its output as the former host would have gone on:
//
//   client ══records══> core, SC_IN ──> SC_BRIDGE_IN: open, inner client ══other records══> mod_ssl ──> handlers
//   client <══records══ core, SC_OUT <── SC_BRIDGE_OUT: seal, inner client <══other records══ mod_ssl <──
//
// So handlers, logs and SSLRequire find the TLS connection that they expect, of the same suite and the same server name.

#include "tls.h"
#include <http_log.h>
#include <string.h>

APLOG_USE_MODULE(sc);

struct tls_bridge {
    SSL *inner;
    BIO *to_inner, *from_inner; // the inner client's
    struct tls_keys in, out;
    uint64_t skip;     // plaintext that was answered on the former host
    uint64_t position; // of the first byte of `raw`
    ap_filter_t *output;
    apr_bucket_brigade *come, *sealed;
    bool is_closed;     // the client has ended the TLS session
    bool is_begun;      // what the former host had begun is finished
    apr_size_t have;
    uint8_t raw[SC_TLS_RECORD];
};

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
    const struct continuation_tls *from = &connection->arrival->from.tls;
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

    memset(&slot->tls, 0, sizeof slot->tls);
    slot->tls.suite = from->suite;
    memcpy(slot->tls.client, from->client, sizeof slot->tls.client);
    memcpy(slot->tls.server, from->server, sizeof slot->tls.server);
    memcpy(slot->tls.name, from->name, sizeof slot->tls.name);
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

static bool seal(struct connection *connection, uint8_t type, const void *bytes, apr_size_t length) {
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
    uint8_t content[16384];
    int length;
    while ((length = SSL_read(bridge->inner, content, sizeof content)) > 0)
        if (!seal(connection, TLS_DATA, content, (apr_size_t)length)) return false;
    int error = SSL_get_error(bridge->inner, length);
    static const uint8_t close_notify[2] = {1, 0};
    if (error == SSL_ERROR_ZERO_RETURN && !bridge->is_closed) {
        bridge->is_closed = true;
        return seal(connection, TLS_ALERT, close_notify, sizeof close_notify);
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

// MARK: From the client to mod_ssl

/// A KeyUpdate; the session is served on, and moves no longer.
static bool update_keys(struct connection *connection, const uint8_t *message, long length) {
    struct tls_bridge *bridge = connection->tls->bridge;
    static const uint8_t answer[5] = {24, 0, 0, 1, 0};
    if (length != 5 || message[0] != 24 || message[4] > 1 || !tls_keys_update(&bridge->in)) return false;
    if (!enter(connection)) return false;
    tls_lose(connection, TLS_KEYS);
    leave(connection);
    if (message[4] == 0) return true;
    if (!seal(connection, TLS_PROTOCOL, answer, sizeof answer) || !tls_keys_update(&bridge->out)) return false;
    return ap_pass_brigade(bridge->output->next, bridge->sealed) == APR_SUCCESS;
}

/// One whole record of the client.
static bool open_record(struct connection *connection, uint8_t *record, apr_size_t length) {
    struct tls_bridge *bridge = connection->tls->bridge;
    struct slot *slot = connection->slot;
    uint8_t type;
    long plain = record[0] == TLS_DATA ? tls_open(&bridge->in, record, length, &type) : -1;
    const uint8_t *content = record + 5;
    if (plain < 0) return false;
    if (type == TLS_ALERT) {
        bridge->is_closed = true;
        return plain == 2 && content[1] == 0 && SSL_shutdown(bridge->inner) >= 0;
    }
    if (type == TLS_PROTOCOL) return update_keys(connection, content, plain);
    if (type != TLS_DATA || !enter(connection)) return false;
    begin_change(slot);
    slot->tls.in_next++;
    slot->tls.in_whole = bridge->position + length;
    slot->tls.in_plain += plain;
    end_change(slot);
    leave(connection);
    apr_size_t known = bridge->skip < (uint64_t)plain ? (apr_size_t)bridge->skip : (apr_size_t)plain;
    bridge->skip -= known;
    return known == (apr_size_t)plain || SSL_write(bridge->inner, content + known, (int)((apr_size_t)plain - known)) > 0;
}

static bool open_records(struct connection *connection) {
    struct tls_bridge *bridge = connection->tls->bridge;
    apr_size_t length;
    while (bridge->have >= 5 && (length = 5 + ((apr_size_t)bridge->raw[3] << 8 | bridge->raw[4])) <= bridge->have && !bridge->is_closed) {
        if (length > SC_TLS_RECORD || !open_record(connection, bridge->raw, length)) return false;
        bridge->position += length;
        bridge->have -= length;
        memmove(bridge->raw, bridge->raw + length, bridge->have);
    }
    return bridge->have < 5 || 5 + ((apr_size_t)bridge->raw[3] << 8 | bridge->raw[4]) <= SC_TLS_RECORD;
}

static apr_status_t fill(struct connection *connection, ap_filter_t *next, apr_read_type_e block) {
    struct tls_bridge *bridge = connection->tls->bridge;
    apr_status_t result = ap_get_brigade(next, bridge->come, AP_MODE_READBYTES, block, (apr_off_t)(sizeof bridge->raw - bridge->have));
    if (result != APR_SUCCESS) return result;
    if (APR_BRIGADE_EMPTY(bridge->come)) return block == APR_NONBLOCK_READ ? APR_EAGAIN : APR_EOF;
    bool has_come = false, has_ended = false;
    for (apr_bucket *b = APR_BRIGADE_FIRST(bridge->come); b != APR_BRIGADE_SENTINEL(bridge->come) && result == APR_SUCCESS; b = APR_BUCKET_NEXT(b)) {
        const char *bytes;
        apr_size_t length;
        has_ended = has_ended || APR_BUCKET_IS_EOS(b);
        if (APR_BUCKET_IS_METADATA(b)) continue;
        result = apr_bucket_read(b, &bytes, &length, APR_BLOCK_READ);
        if (result != APR_SUCCESS || length > sizeof bridge->raw - bridge->have) continue;
        memcpy(bridge->raw + bridge->have, bytes, length);
        bridge->have += length;
        has_come = has_come || length > 0;
    }
    apr_brigade_cleanup(bridge->come);
    return result != APR_SUCCESS ? result : has_come ? APR_SUCCESS : has_ended || block == APR_BLOCK_READ ? APR_EOF : APR_EAGAIN;
}

static apr_status_t input(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode, apr_read_type_e block, apr_off_t wanted) {
    struct connection *connection = f->ctx;
    struct tls_bridge *bridge = connection->tls->bridge;
    if (mode != AP_MODE_READBYTES) return mode == AP_MODE_INIT ? APR_SUCCESS : APR_ENOTIMPL;
    while (BIO_ctrl_pending(bridge->from_inner) == 0) {
        if (!SSL_is_init_finished(bridge->inner)) {
            SSL_do_handshake(bridge->inner);
            // mod_ssl has no answer, and no question.
            if (BIO_ctrl_pending(bridge->from_inner) == 0) return APR_EGENERAL;
            continue;
        }
        if (bridge->is_closed) return APR_EOF;
        apr_status_t result = fill(connection, f->next, block);
        if (result != APR_SUCCESS) return result;
        if (open_records(connection)) continue;
        ap_log_cerror(APLOG_MARK, APLOG_INFO, 0, connection->c, "mod_sc: a TLS record of a session that came cannot be opened");
        connection->c->aborted = 1;
        return APR_ECONNABORTED;
    }
    apr_size_t length = BIO_ctrl_pending(bridge->from_inner);
    if (wanted > 0 && (apr_size_t)wanted < length) length = (apr_size_t)wanted;
    char *bytes = apr_bucket_alloc(length, f->c->bucket_alloc);
    BIO_read(bridge->from_inner, bytes, (int)length);
    APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_heap_create(bytes, length, apr_bucket_free, f->c->bucket_alloc));
    return APR_SUCCESS;
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
    // Both ends are this process.
    SSL_CTX_set_verify(inner_context, SSL_VERIFY_NONE, NULL);
}

void tls_bridge_register(void) {
    // Right above SC_IN and SC_OUT.
    bridge_in = ap_register_input_filter("SC_BRIDGE_IN", input, NULL, AP_FTYPE_NETWORK - 2);
    bridge_out = ap_register_output_filter("SC_BRIDGE_OUT", output, NULL, AP_FTYPE_NETWORK - 2);
}
