// The TLS connections whose handshake is here: mod_ssl and OpenSSL serve them, and this file writes down their keys and counts their records.
//
// OpenSSL tells the traffic secrets (its key log) and the type inside each record that it opens or writes (its message callback); where records begin and
// end is seen in their heads as they pass. Both count encrypted records, so a record's number is its place after the last one of the handshake.

#include "tls.h"
#include <apr_lib.h>
#include <apr_optional_hooks.h>
#include <http_log.h>
#include <string.h>

APLOG_USE_MODULE(sc);

static ap_filter_rec_t *plain_in, *plain_out;
/// Of the servers that have SCTLS.
static bool is_on;
static void (*former_keylog)(const SSL *, const char *);

// MARK: Keys

static bool read_secret(const char *line, uint8_t *out, size_t length) {
    const char *text = strrchr(line, ' ');
    if (text == NULL || strlen(text + 1) != 2 * length) return false;
    for (size_t i = 0; i < 2 * length; i++) {
        char byte = text[1 + i];
        if (!apr_isxdigit(byte)) return false;
        out[i / 2] = (uint8_t)(out[i / 2] << 4 | (apr_isdigit(byte) ? byte - '0' : (byte | 32) - 'a' + 10));
    }
    return true;
}

/// The handshake is over: from here on the records count. -1, or why they do not (enum tls_why).
static int begin_following(struct connection *connection, const SSL *ssl) {
    struct slot *slot = connection->slot;
    struct tls_following *tls = connection->tls;
    struct tls *journal = &slot->tls;
    if (SSL_get_early_data_status(ssl) != SSL_EARLY_DATA_NOT_SENT) return TLS_EARLY;
    if (SSL_get0_peer_certificate(ssl)) return TLS_CERTIFICATE;
    uint64_t come = tls->in_sealed - tls->in_opened;
    if (tls->in_opened == 0 || tls->in_opened > tls->in_sealed || come >= sizeof tls->early / sizeof *tls->early) return TLS_COUNT;
    uint64_t end = tls->early[(tls->in_opened - 1) % 16].end;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    if (name && strlen(name) >= sizeof journal->name) return TLS_COUNT;
    strcpy(journal->name, name ? name : "");
    journal->fragment = SSL_SESSION_get_max_fragment_length(SSL_get0_session(ssl));
    journal->in_first = 0;
    journal->in_first_plain = journal->in_plain = 0;
    journal->in_next = come;
    journal->in_whole = end;
    for (uint64_t i = tls->in_opened; i < tls->in_sealed; i++) {
        journal->in_whole = tls->early[i % 16].end;
        journal->in_plain += (int64_t)tls->early[i % 16].length - 17;
    }
    char *input = slot_input(sc_region, slot);
    memmove(input, input + (end - slot->in_logged), slot->in_total - end);
    slot->in_logged = end;
    slot->tls_state = TLS_FOLLOWED;
    slot->obstacles &= ~(uint32_t)OBSTACLE_TLS;
    return -1;
}

static void on_key(const SSL *ssl, const char *line) {
    if (former_keylog) former_keylog(ssl, line);
    conn_rec *c = SSL_get_app_data(ssl);
    struct connection *connection = c ? connection_of(c) : NULL;
    struct tls_following *tls = connection ? connection->tls : NULL;
    if (tls == NULL || tls->bridge || connection->slot->tls.why != TLS_HANDSHAKE || !enter(connection)) return;
    struct tls *journal = &connection->slot->tls;
    int why = -1;
    if (strncmp(line, "CLIENT_RANDOM ", 14) == 0) why = TLS_VERSION;
    bool is_server = strncmp(line, "SERVER_TRAFFIC_SECRET_0 ", 24) == 0, is_client = strncmp(line, "CLIENT_TRAFFIC_SECRET_0 ", 24) == 0;
    if (is_server || is_client) {
        uint16_t suite = SSL_get_current_cipher(ssl) ? SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(ssl)) : 0;
        size_t length = tls_secret_length(suite);
        begin_change(connection->slot);
        journal->suite = suite;
        if (is_server) journal->out_handshake = tls->typed;
        if (length == 0 || !read_secret(line, is_server ? journal->server : journal->client, length)) why = TLS_SUITE;
        else if (is_client) why = begin_following(connection, ssl);
        end_change(connection->slot);
    }
    if (why >= 0) tls_lose(connection, (enum tls_why)why);
    leave(connection);
}

static void on_message(int is_written, int version, int type, const void *bytes, size_t length, SSL *ssl, void *arg) {
    (void)version, (void)ssl;
    struct connection *connection = arg;
    struct tls_following *tls = connection->tls;
    if (type != SSL3_RT_INNER_CONTENT_TYPE || length == 0) return;
    uint8_t inner = *(const uint8_t *)bytes;
    if (is_written) tls->types[tls->typed++ % sizeof tls->types] = inner;
    else tls->in_opened++;
    // Tickets belong to the handshake. What mod_ssl says later, before it has left, is a question for the client's certificate.
    bool is_lost = is_written ? inner == TLS_PROTOCOL && tls->is_shaken : inner != TLS_DATA;
    if (connection->slot->tls_state != TLS_FOLLOWED || !is_lost || !enter(connection)) return;
    tls_lose(connection, is_written ? TLS_ASKED : TLS_KEYS);
    leave(connection);
}

// MARK: Filters above mod_ssl, and its hooks

/// The first time that it returns the handshake is over. Its keys were not told if the server that the client asked for has no SCTLS.
static apr_status_t count_plain_in(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode, apr_read_type_e block, apr_off_t bytes) {
    struct connection *connection = f->ctx;
    struct tls_following *tls = connection->tls;
    apr_status_t result = input_count(f, bb, mode, block, bytes);
    if (tls->is_shaken || tls->bridge || !SSL_is_init_finished(tls->ssl)) return result;
    tls->is_shaken = true;
    if (connection->slot->tls_state == TLS_FOLLOWED || connection->slot->tls.why != TLS_HANDSHAKE || !enter(connection)) return result;
    tls_lose(connection, TLS_OFF);
    leave(connection);
    return result;
}

static apr_status_t note_plain_out(ap_filter_t *f, apr_bucket_brigade *bb) {
    apr_status_t result = bb && !f->c->aborted ? flow_note(f->ctx, bb) : APR_SUCCESS;
    return result == APR_SUCCESS ? ap_pass_brigade(f->next, bb) : result == APR_EAGAIN ? APR_SUCCESS : result;
}

static int init_server(server_rec *server, apr_pool_t *p, int is_proxy, SSL_CTX *context) {
    (void)p;
    const struct server_conf *conf = ap_get_module_config(server->module_config, &sc_module);
    if (is_proxy || sc_region == NULL || conf->follows_tls <= 0) return OK;
    is_on = true;
    if (SSL_CTX_get_keylog_callback(context) != on_key) former_keylog = SSL_CTX_get_keylog_callback(context);
    SSL_CTX_set_keylog_callback(context, on_key);
    return OK;
}

static int pre_handshake(conn_rec *c, SSL *ssl, int is_proxy) {
    struct connection *connection = is_proxy ? NULL : connection_of(c);
    if (connection == NULL || connection->slot == NULL) return DECLINED;
    struct slot *slot = connection->slot;
    bool has_arrived = connection->arrival && connection->arrival->from.tls.is_active;
    if (connection->arrival && !has_arrived) return DECLINED;
    if (!has_arrived) {
        slot->tls_state = TLS_SEEN;
        slot->obstacles |= OBSTACLE_TLS;
        memset(&slot->tls, 0, sizeof slot->tls);
        slot->tls.why = is_on ? TLS_HANDSHAKE : TLS_OFF;
        if (!is_on) return DECLINED;
    }
    connection->tls = apr_pcalloc(c->pool, sizeof *connection->tls);
    connection->tls->ssl = ssl;
    if (has_arrived && !tls_bridge_make(connection)) return HTTP_INTERNAL_SERVER_ERROR;
    if (!has_arrived) {
        SSL_set_msg_callback(ssl, on_message);
        SSL_set_msg_callback_arg(ssl, connection);
        // The length of the content is then that of the record.
        SSL_set_record_padding_callback(ssl, NULL);
        SSL_set_block_padding(ssl, 0);
    }
    ap_add_input_filter_handle(plain_in, connection, NULL, c);
    ap_add_output_filter_handle(plain_out, connection, NULL, c);
    return OK;
}

void tls_register(void) {
    // Hooks of mod_ssl_openssl.h, by their names: mod_ssl need not be there.
    apr_optional_hook_add("init_server", (void (*)(void))init_server, NULL, NULL, APR_HOOK_MIDDLE);
    apr_optional_hook_add("pre_handshake", (void (*)(void))pre_handshake, NULL, NULL, APR_HOOK_MIDDLE);
    // mod_ssl's are at AP_FTYPE_CONNECTION + 5, and its collector of small pieces one above.
    plain_in = ap_register_input_filter("SC_PLAIN_IN", count_plain_in, NULL, AP_FTYPE_CONNECTION + 3);
    plain_out = ap_register_output_filter("SC_PLAIN_OUT", note_plain_out, NULL, AP_FTYPE_CONNECTION + 3);
}
