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

void tls_lose(struct connection *connection, enum tls_why why) {
    struct slot *slot = connection->slot;
    begin_change(slot);
    slot->tls.why = (uint8_t)why;
    slot->tls_state = TLS_SEEN;
    // Of its input nothing is kept from now on.
    slot->obstacles |= OBSTACLE_TLS | OBSTACLE_INPUT;
    end_change(slot);
}

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

/// The handshake is over: from here on the records count. NULL, or why they do not.
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
    tls->in_handshake = tls->in_opened;
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
    else if (tls->in_opened++, connection->slot->tls_state == TLS_FOLLOWED && inner != TLS_DATA && enter(connection)) {
        tls_lose(connection, TLS_KEYS);
        leave(connection);
    }
}

// MARK: Records

/// The next piece of `bytes`, up to the end of a record's head or of a record; `is_whole`: that of a record.
static apr_size_t parse(struct tls_parser *parser, const uint8_t *bytes, apr_size_t length, bool *is_whole) {
    *is_whole = false;
    if (parser->rest > 0) {
        apr_size_t piece = length < parser->rest ? length : parser->rest;
        parser->rest -= (uint32_t)piece;
        *is_whole = parser->rest == 0;
        return piece;
    }
    apr_size_t piece = 0;
    while (piece < length && parser->have < 5) parser->head[parser->have++] = bytes[piece++];
    if (parser->have < 5) return piece;
    parser->have = 0;
    parser->length = parser->rest = (uint32_t)parser->head[3] << 8 | parser->head[4];
    *is_whole = parser->rest == 0;
    return piece;
}

void tls_note_in(struct connection *connection, const char *bytes, apr_size_t length) {
    struct tls_following *tls = connection->tls;
    struct slot *slot = connection->slot;
    if (tls->bridge || (slot->tls_state != TLS_FOLLOWED && slot->tls.why != TLS_HANDSHAKE)) return;
    uint64_t position = slot->in_total - length;
    bool is_whole, is_odd = false;
    begin_change(slot);
    for (apr_size_t used = 0; used < length;) {
        apr_size_t piece = parse(&tls->in, (const uint8_t *)bytes + used, length - used, &is_whole);
        used += piece;
        position += piece;
        if (!is_whole) continue;
        bool is_followed = slot->tls_state == TLS_FOLLOWED;
        if (tls->in.head[0] != TLS_DATA) {
            is_odd = is_followed;
            continue;
        }
        tls->early[tls->in_sealed % 16].end = position;
        tls->early[tls->in_sealed++ % 16].length = tls->in.length;
        if (!is_followed) continue;
        slot->tls.in_next++;
        slot->tls.in_whole = position;
        slot->tls.in_plain += (int64_t)tls->in.length - 17;
    }
    end_change(slot);
    if (is_odd) tls_lose(connection, TLS_COUNT);
}

static void note_record(struct connection *connection) {
    struct tls_following *tls = connection->tls;
    struct slot *slot = connection->slot;
    bool is_sealed = tls->out.head[0] == TLS_DATA && !tls->out_is_old;
    if (is_sealed) {
        uint64_t number = tls->out_sealed++;
        if (tls->typed - number > sizeof tls->types || tls->typed <= number) slot->obstacles |= OBSTACLE_TLS, slot->tls.why = TLS_COUNT;
        if (tls->types[number % sizeof tls->types] == TLS_DATA) tls->plain += (int64_t)tls->out.length - 17;
    }
    tls->out_is_old = false;
    struct tls_record *record = &slot_tls(sc_region, slot)->records[slot->tls.record_count % SC_TLS_RECORDS];
    *record = (struct tls_record){slot->tls.out_cipher, tls->plain, tls->out_sealed};
    slot->tls.record_count++;
}

apr_status_t tls_note_out(struct connection *connection, apr_bucket_brigade *bb) {
    struct tls_following *tls = connection->tls;
    struct slot *slot = connection->slot;
    if (slot->tls_state != TLS_FOLLOWED && slot->tls.why != TLS_HANDSHAKE) return APR_SUCCESS;
    uint8_t *ring = slot_tls(sc_region, slot)->cipher;
    apr_status_t result = APR_SUCCESS;
    begin_change(slot);
    for (apr_bucket *b = APR_BRIGADE_FIRST(bb); b != APR_BRIGADE_SENTINEL(bb) && result == APR_SUCCESS; b = APR_BUCKET_NEXT(b)) {
        const char *bytes;
        apr_size_t length = 0;
        if (APR_BUCKET_IS_METADATA(b) || b->length == 0) continue;
        result = apr_bucket_read(b, &bytes, &length, APR_BLOCK_READ);
        for (apr_size_t used = 0; result == APR_SUCCESS && used < length;) {
            bool is_whole;
            apr_size_t piece = parse(&tls->out, (const uint8_t *)bytes + used, length - used, &is_whole);
            for (apr_size_t done = 0; done < piece;) {
                apr_size_t place = (apr_size_t)slot->tls.out_cipher % SC_TLS_CIPHER, room = SC_TLS_CIPHER - place;
                apr_size_t part = piece - done < room ? piece - done : room;
                memcpy(ring + place, bytes + used + done, part);
                slot->tls.out_cipher += (int64_t)part;
                done += part;
            }
            used += piece;
            if (is_whole) note_record(connection);
        }
    }
    end_change(slot);
    return result;
}

void tls_trim(struct connection *connection, uint64_t to) {
    struct slot *slot = connection->slot;
    struct tls *journal = &slot->tls;
    // A part of a record is needed still, or content that mod_ssl has not given out; or what came was padded, and it stays as it is.
    if (slot->tls_state != TLS_FOLLOWED || to != slot->in_consumed || journal->in_plain != (int64_t)to || journal->in_whole != slot->in_total) return;
    uint64_t kept = slot->in_total - slot->in_logged;
    begin_change(slot);
    journal->in_first = journal->in_next;
    journal->in_first_plain = journal->in_plain;
    slot->in_logged = slot->in_total;
    slot->obstacles &= ~(uint32_t)OBSTACLE_INPUT;
    end_change(slot);
    input_forget(slot, kept);
}

// MARK: Filters above mod_ssl, and its hooks

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
    plain_in = ap_register_input_filter("SC_PLAIN_IN", input_count, NULL, AP_FTYPE_CONNECTION + 3);
    plain_out = ap_register_output_filter("SC_PLAIN_OUT", note_plain_out, NULL, AP_FTYPE_CONNECTION + 3);
}
