// The bridge from the client to mod_ssl: its records are opened with the connection's keys, and what is in them goes to the inner client.

#include "tls_bridge.h"
#include <http_log.h>
#include <string.h>

APLOG_USE_MODULE(sc);

/// A KeyUpdate; the session is served on, and moves no longer.
static bool update_keys(struct connection *connection, const uint8_t *message, long length) {
    struct tls_bridge *bridge = connection->tls->bridge;
    static const uint8_t answer[5] = {24, 0, 0, 1, 0};
    if (length != 5 || message[0] != 24 || message[4] > 1 || !tls_keys_update(&bridge->in)) return false;
    if (!enter(connection)) return false;
    tls_lose(connection, TLS_KEYS);
    leave(connection);
    if (message[4] == 0) return true;
    if (!tls_bridge_seal(connection, TLS_PROTOCOL, answer, sizeof answer) || !tls_keys_update(&bridge->out)) return false;
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
        bridge->is_ended = true;
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
    while (bridge->have >= 5 && (length = 5 + ((apr_size_t)bridge->raw[3] << 8 | bridge->raw[4])) <= bridge->have && !bridge->is_ended) {
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
        if (result == APR_SUCCESS && length > sizeof bridge->raw - bridge->have) result = APR_EGENERAL;
        if (result != APR_SUCCESS) continue;
        memcpy(bridge->raw + bridge->have, bytes, length);
        bridge->have += length;
        has_come = has_come || length > 0;
    }
    apr_brigade_cleanup(bridge->come);
    return result != APR_SUCCESS ? result : has_come ? APR_SUCCESS : has_ended || block == APR_BLOCK_READ ? APR_EOF : APR_EAGAIN;
}

apr_status_t tls_bridge_input(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode, apr_read_type_e block, apr_off_t wanted) {
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
        if (bridge->is_ended) return APR_EOF;
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
