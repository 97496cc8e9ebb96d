// A response that began on another server, produced here again: compared with what was produced there, and cut to what the client has not got.
//
// Nothing is said to the client before this server has produced at least as much as the source had, and the same: the head's validators, the file's
// size and time, and the digest of everything else. Until then what the client will have to get is kept; a difference refuses the session, which
// then stays where it is.

#include "mod_sc.h"
#include <errno.h>
#include <http_log.h>
#include <http_request.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

APLOG_USE_MODULE(sc);

void replay_begin(struct connection *connection) {
    const struct continuation *from = &connection->arrival->from;
    struct response *response = response_open(connection);
    response->in_start = 0;
    response->out_start = -(int64_t)from->sent;
    if (!from->head_done) {
        // It is live before this server has produced it again, and may move on.
        memcpy(response->head, from->head, from->head_length);
        response->known_length = from->head_length;
    }
    connection->at = IN_HEAD;
    struct replay *replay = apr_pcalloc(connection->c->pool, sizeof *replay);
    replay->kept = apr_brigade_create(connection->c->pool, connection->c->bucket_alloc);
    apr_pool_create(&replay->kept_pool, connection->c->pool);
    replay->is_whole = from->chunked.is_terminal;
    if (from->chunked.is_terminal) replay->skip = from->body.length;
    else if (from->kind == BODY_CHUNKED) replay->skip = from->chunked.skip;
    else replay->skip = from->sent > from->head_length ? from->sent - from->head_length : 0;
    replay->rest = from->chunked.rest;
    // Without a head there was nothing yet to compare.
    replay->is_verified = !from->head_done;
    connection->replay = replay;
}

apr_status_t replay_differ(struct connection *connection, const char *what) {
    ap_log_cerror(APLOG_MARK, APLOG_WARNING, 0, connection->c, "mod_sc: a session is refused: %s", what);
    arrival_refuse(connection, ESTALE, what);
    return APR_ECONNABORTED;
}

void replay_put(struct connection *connection, apr_bucket_brigade *out, const char *bytes, apr_size_t length) {
    if (length == 0) return;
    APR_BRIGADE_INSERT_TAIL(out, apr_bucket_heap_create(bytes, length, NULL, connection->c->bucket_alloc));
    connection->slot->out_position += (int64_t)length;
}

static void put(struct connection *connection, apr_bucket_brigade *out, apr_bucket *b) {
    APR_BUCKET_REMOVE(b);
    APR_BRIGADE_INSERT_TAIL(out, b);
    connection->slot->out_position += (int64_t)b->length;
}

apr_status_t replay_verify(struct connection *connection) {
    struct response *response = last_response(connection->slot);
    const struct body *there = &connection->arrival->from.body;
    body_seal(connection, response);
    if (response->body.file_size != there->file_size || response->body.file_time != there->file_time)
        return replay_differ(connection, "the file has another size or time here");
    if (memcmp(response->body.digest, there->digest, sizeof there->digest) != 0) return replay_differ(connection, "the content of the response differs here");
    connection->replay->is_verified = true;
    // Whole as it is: what waits here may be ended, and from the answer on the session is this process's.
    end_change(connection->slot);
    bool is_live = arrival_enter(connection);
    begin_change(connection->slot);
    return is_live ? APR_SUCCESS : APR_ECONNABORTED;
}

apr_status_t replay_payload(struct connection *connection, apr_bucket *b, apr_bucket_brigade *out) {
    struct replay *replay = connection->replay;
    struct response *response = last_response(connection->slot);
    const struct continuation *from = &connection->arrival->from;
    uint64_t there = from->body.length;
    if (replay->is_whole && b->length > there - response->body.length) return replay_differ(connection, "the response is longer here");
    if (!replay->is_verified && b->length > there - response->body.length) {
        if (APR_BUCKET_IS_FILE(b)) return replay_differ(connection, "the response consists of other parts here");
        apr_bucket_split(b, (apr_size_t)(there - response->body.length));
    }
    apr_size_t length = b->length;
    body_add(connection, response, b, length);
    if (!replay->is_verified && response->body.length == there && !replay->is_whole) {
        apr_status_t result = replay_verify(connection);
        if (result != APR_SUCCESS) return result;
    }
    uint64_t payload = response->body.length - length;
    if (replay->skip > 0) {
        apr_size_t had = length < replay->skip ? length : (apr_size_t)replay->skip;
        replay->skip -= had;
        payload += had;
        length -= had;
        if (length > 0) {
            apr_bucket_split(b, had);
            b = APR_BUCKET_NEXT(b);
            apr_bucket_delete(APR_BUCKET_PREV(b));
        } else {
            apr_bucket_delete(b);
            return APR_SUCCESS;
        }
    }
    if (response->kind == BODY_RAW) {
        put(connection, out, b);
        return APR_SUCCESS;
    }
    if (replay->rest > 0) {
        // The interrupted chunk goes on to its announced end.
        apr_size_t piece = length < replay->rest ? length : (apr_size_t)replay->rest;
        apr_bucket *own = NULL;
        if (piece < length) {
            apr_bucket_split(b, piece);
            own = APR_BUCKET_NEXT(b);
        }
        put(connection, out, b);
        replay->rest -= piece;
        if (replay->rest == 0) replay_put(connection, out, "\r\n", 2);
        if (own == NULL) return APR_SUCCESS;
        b = own;
        payload += piece;
        length -= piece;
    }
    replay_chunk(connection, out, payload, length);
    put(connection, out, b);
    replay_put(connection, out, "\r\n", 2);
    return APR_SUCCESS;
}

/// One bucket of `in`; true when the replay is over.
static bool replay_bucket(struct connection *connection, apr_bucket *b, apr_bucket_brigade *out, apr_status_t *result) {
    struct replay *replay = connection->replay;
    if (AP_BUCKET_IS_EOR(b)) {
        if (!replay->is_verified) {
            *result = replay_differ(connection, "the response is shorter here");
            return false;
        }
        if (replay->announced) *result = APR_ECONNABORTED; // its chunks cannot be ended
        return true;
    }
    if (APR_BUCKET_IS_METADATA(b)) {
        // What is kept cannot be flushed.
        if (!replay->is_verified && APR_BUCKET_IS_FLUSH(b)) apr_bucket_delete(b);
        else {
            APR_BUCKET_REMOVE(b);
            APR_BRIGADE_INSERT_TAIL(out, b);
        }
        return false;
    }
    if (b->length == 0) apr_bucket_delete(b);
    else if (connection->at == IN_HEAD) *result = replay_head(connection, b, out);
    else if (replay->is_chunked_here) *result = replay_chunked(connection, b, out);
    else {
        *result = replay_payload(connection, b, out);
        if (*result == APR_SUCCESS && replay->announced && last_response(connection->slot)->body.length >= replay->announced) *result = replay_end(connection, out);
        return last_response(connection->slot)->kind == BODY_RAW && replay->is_verified && replay->skip == 0;
    }
    return false;
}

apr_status_t replay_filter(struct connection *connection, apr_bucket_brigade *bb) {
    struct replay *replay = connection->replay;
    apr_bucket_brigade *in = apr_brigade_create(connection->c->pool, connection->c->bucket_alloc);
    apr_status_t result = APR_SUCCESS;
    APR_BRIGADE_CONCAT(in, bb);
    begin_change(connection->slot);
    while (result == APR_SUCCESS && !APR_BRIGADE_EMPTY(in)) {
        if (!replay_bucket(connection, APR_BRIGADE_FIRST(in), bb, &result)) continue;
        connection->replay = NULL;
        end_change(connection->slot);
        if (result == APR_SUCCESS) result = response_note(connection, in);
        begin_change(connection->slot);
        APR_BRIGADE_CONCAT(bb, in);
    }
    apr_brigade_destroy(in);
    if (result == APR_SUCCESS && connection->at == IN_BODY) body_seal(connection, last_response(connection->slot));
    end_change(connection->slot);
    if (result != APR_SUCCESS) return result;
    if (replay->is_verified) {
        APR_BRIGADE_PREPEND(bb, replay->kept);
        return APR_SUCCESS;
    }
    return ap_save_brigade(NULL, &replay->kept, &bb, replay->kept_pool);
}
