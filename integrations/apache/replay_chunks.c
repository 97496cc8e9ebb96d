// The chunks of a response that began on another server: the source's is finished with its announced length, and this server's own come after it.

#include "mod_sc.h"
#include <stdio.h>

void replay_continue_chunks(struct connection *connection, apr_bucket_brigade *out) {
    const struct chunked *chunked = &connection->arrival->from.chunked;
    struct slot *slot = connection->slot;
    replay_put(connection, out, chunked->before, chunked->before_length);
    replay_put(connection, out, chunked->after, chunked->after_length);
    if (chunked->is_terminal) {
        chunk_note(slot, slot->out_position - 5, 0, 0);
    } else if (chunked->rest) {
        char line[24];
        int length = snprintf(line, sizeof line, "%llx\r\n", (unsigned long long)chunked->rest);
        chunk_note(slot, slot->out_position - length, (int64_t)chunked->skip, (int64_t)chunked->rest);
    } else if (chunked->skip) {
        chunk_note(slot, slot->out_position - 6, (int64_t)chunked->skip - 1, 1);
    }
}

void replay_chunk(struct connection *connection, apr_bucket_brigade *out, uint64_t payload, apr_size_t length) {
    char line[24];
    int size = snprintf(line, sizeof line, "%llx\r\n", (unsigned long long)length);
    chunk_note(connection->slot, connection->slot->out_position, (int64_t)payload, (int64_t)length);
    replay_put(connection, out, line, (apr_size_t)size);
}

apr_status_t replay_end(struct connection *connection, apr_bucket_brigade *out) {
    struct replay *replay = connection->replay;
    struct response *response = last_response(connection->slot);
    replay->announced = 0;
    if (replay->is_whole && response->body.length >= connection->arrival->from.body.length) return replay_verify(connection);
    // The second: of a chunk that was announced to the client.
    if (!replay->is_verified || replay->rest > 0) return replay_differ(connection, "the response is shorter here");
    chunk_note(connection->slot, connection->slot->out_position, (int64_t)response->body.length, 0);
    replay_put(connection, out, "0\r\n\r\n", 5);
    return APR_SUCCESS;
}

apr_status_t replay_chunked(struct connection *connection, apr_bucket *b, apr_bucket_brigade *out) {
    struct replay *replay = connection->replay;
    if (connection->chunk_at == CHUNK_PAYLOAD) {
        const struct continuation *from = &connection->arrival->from;
        uint64_t there = from->body.length - last_response(connection->slot)->body.length;
        apr_size_t piece = b->length < connection->chunk_left ? b->length : (apr_size_t)connection->chunk_left;
        // What is behind the point of comparison is looked at again.
        if (!replay->is_verified && !replay->is_whole && piece > there && !APR_BUCKET_IS_FILE(b)) piece = (apr_size_t)there;
        if (piece < b->length) apr_bucket_split(b, piece);
        connection->chunk_left -= piece;
        if (connection->chunk_left == 0) connection->chunk_at = CHUNK_END;
        return replay_payload(connection, b, out);
    }
    const char *bytes;
    apr_size_t length;
    enum token token;
    apr_status_t result = apr_bucket_read(b, &bytes, &length, APR_BLOCK_READ);
    if (result != APR_SUCCESS) return result;
    apr_size_t piece = chunk_token(connection, bytes, length, &token);
    if (piece < length) apr_bucket_split(b, piece);
    apr_bucket_delete(b);
    return token == TOKEN_END ? replay_end(connection, out) : APR_SUCCESS;
}
