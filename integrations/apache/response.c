// The responses of a connection, noted as they pass on their way to the socket: where each begins and ends, its head, and what its body consists of.

#include "mod_sc.h"
#include <apr_lib.h>
#include <http_request.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const char *head_field(const char *head, apr_size_t length, const char *name, apr_size_t *value_length) {
    apr_size_t name_length = strlen(name);
    const char *end = head + length;
    for (const char *line = head; (line = memchr(line, '\n', (size_t)(end - line))) != NULL;) {
        line++;
        // Most are told apart by their first letter.
        if ((apr_size_t)(end - line) <= name_length || (*line ^ *name) & ~0x20 || strncasecmp(line, name, name_length) != 0 || line[name_length] != ':') continue;
        const char *value = line + name_length + 1;
        while (value < end && *value == ' ') value++;
        const char *stop = memchr(value, '\r', (size_t)(end - value));
        *value_length = (apr_size_t)((stop ? stop : end) - value);
        return value;
    }
    return NULL;
}

struct response *response_open(struct connection *connection) {
    struct slot *slot = connection->slot;
    // Those that find a place come before those that do not.
    if (slot->count == SC_RESPONSES || connection->unnoted > 0) {
        slot->obstacles |= OBSTACLE_RESPONSES;
        connection->unnoted++;
        return NULL;
    }
    // The same place again while there is one response at a time: it is in the cache.
    if (slot->count == 0) slot->first = 0;
    slot->count++;
    struct response *response = last_response(slot);
    memset(response, 0, offsetof(struct response, head));
    response->in_start = slot->in_request;
    response->out_start = slot->out_position;
    response->out_end = OPEN_END;
    response->is_repeatable = !slot->is_unrepeatable;
    connection->block_begin = 0;
    connection->has_t = false;
    connection->has_digest = false;
    return response;
}

void response_end(struct connection *connection) {
    struct slot *slot = connection->slot;
    struct response *response = last_response(slot);
    if (response && response->out_end == OPEN_END) response->out_end = slot->out_position;
    slot->in_request = slot->in_consumed;
    slot->keepalives = (uint32_t)connection->c->keepalives;
    slot->is_unrepeatable = 0;
    connection->at = BEFORE_HEAD;
    connection->file_name = NULL;
}

void response_head_is_done(struct connection *connection, struct response *response) {
    apr_size_t length = 0;
    const char *block = response->head + connection->block_begin;
    response->head_done = 1;
    response->kind = connection->has_t && head_field(block, response->head_length - connection->block_begin, "Transfer-Encoding", &length) ? BODY_CHUNKED : BODY_RAW;
    response->body_start = response->out_start + response->head_length;
    connection->at = IN_BODY;
    connection->chunk_at = CHUNK_SIZE;
    connection->chunk_size = 0;
    connection->chunk_line = 0;
    // Those of the responses before it may still have to be found.
    if (connection->slot->count == 1) connection->slot->chunk_count = 0;
}

/// The CRLF CRLF that ends a block; NULL: it is not there yet. By lines, since memmem(3) looks at each byte. `has_t`: a field's name begins with that.
static const char *find_end(const char *begin, const char *end, bool *has_t) {
    for (const char *feed = begin; (feed = memchr(feed, '\n', (size_t)(end - feed))) != NULL; feed++) {
        if (end - feed < 3) break;
        if ((feed[1] | 0x20) == 't') *has_t = true;
        if (feed > begin && feed[-1] == '\r' && feed[1] == '\r' && feed[2] == '\n') return feed - 1;
    }
    return NULL;
}

/// Copies a bucket's part of the head; cuts the bucket where the body begins. False: it cannot be followed.
static bool note_head(struct connection *connection, struct response *response, apr_bucket *b, const char *bytes, apr_size_t length) {
    apr_size_t room = SC_HEAD_MAX - response->head_length, take = length < room ? length : room;
    uint32_t old = response->head_length;
    memcpy(response->head + old, bytes, take);
    uint32_t from = old > connection->block_begin + 3 ? old - 3 : connection->block_begin;
    const char *end = find_end(response->head + from, response->head + old + take, &connection->has_t);
    const char *block = response->head + connection->block_begin;
    apr_size_t known = old + take - connection->block_begin;
    if (known >= 5 && memcmp(block, "HTTP/", 5) != 0) {
        connection->slot->obstacles |= OBSTACLE_PROTOCOL;
        return false;
    }
    if (end == NULL) {
        response->head_length = old + (uint32_t)take;
        if (take == length) return true;
        connection->slot->obstacles |= OBSTACLE_HEAD;
        return false;
    }
    apr_size_t used = (apr_size_t)(end + 4 - response->head) - old;
    if (used < length) apr_bucket_split(b, used);
    response->head_length = old + (uint32_t)used;
    int status = atoi(block + 9);
    if (status == 101) connection->slot->obstacles |= OBSTACLE_PROTOCOL;
    if (status >= 200) response_head_is_done(connection, response);
    else connection->block_begin = response->head_length;
    return true;
}

/// The file's size and time: those that the request found, or for another file its own.
static void identify(struct connection *connection, apr_bucket *b, uint64_t *size, int64_t *time) {
    apr_file_t *file = ((apr_bucket_file *)b->data)->fd;
    const char *name = NULL;
    apr_finfo_t info;
    apr_file_name_get(&name, file);
    if (name && connection->file_name && strcmp(name, connection->file_name) == 0) {
        *size = connection->file_size;
        *time = connection->file_time;
    } else if (apr_file_info_get(&info, APR_FINFO_SIZE | APR_FINFO_MTIME, file) == APR_SUCCESS) {
        *size = (uint64_t)info.size;
        *time = (int64_t)apr_time_sec(info.mtime);
    }
}

static void digest(struct connection *connection, const void *bytes, size_t length) {
    if (connection->digest == NULL) {
        void *room = apr_palloc(connection->c->pool, sizeof *connection->digest + 64);
        connection->digest = (void *)(((uintptr_t)room + 63) & ~(uintptr_t)63);
    }
    if (!connection->has_digest) XXH3_128bits_reset(connection->digest);
    connection->has_digest = true;
    XXH3_128bits_update(connection->digest, bytes, length);
}

void body_add(struct connection *connection, struct response *response, apr_bucket *b, apr_size_t length) {
    if (APR_BUCKET_IS_FILE(b)) {
        // A file is not read for this: it is the same file when size, time and the head's validators are the same.
        struct { uint64_t size; int64_t time; uint64_t offset, length; } file = {0, 0, (uint64_t)b->start, length};
        identify(connection, b, &file.size, &file.time);
        if (response->body.length == 0) {
            response->body.file_size = file.size;
            response->body.file_time = file.time;
        } else {
            digest(connection, &file, sizeof file);
        }
    } else {
        const char *bytes;
        apr_size_t got;
        if (apr_bucket_read(b, &bytes, &got, APR_BLOCK_READ) == APR_SUCCESS) digest(connection, bytes, length < got ? length : got);
    }
    response->body.length += length;
}

void body_seal(struct connection *connection, struct response *response) {
    if (!connection->has_digest) return;
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(connection->digest));
    memcpy(response->body.digest, canonical.digest, sizeof response->body.digest);
}

void chunk_note(struct slot *slot, int64_t position, int64_t payload, int64_t length) {
    slot->chunks[slot->chunk_count % SC_CHUNKS] = (struct chunk){position, payload, length};
    slot->chunk_count++;
}

apr_size_t chunk_token(struct connection *connection, const char *bytes, apr_size_t length, enum token *token) {
    if (connection->chunk_at == CHUNK_PAYLOAD) {
        apr_size_t piece = length < connection->chunk_left ? length : (apr_size_t)connection->chunk_left;
        connection->chunk_left -= piece;
        if (connection->chunk_left == 0) connection->chunk_at = CHUNK_END;
        *token = TOKEN_PAYLOAD;
        return piece;
    }
    *token = TOKEN_FRAME;
    for (apr_size_t i = 0; i < length; i++) {
        char byte = bytes[i];
        if (connection->chunk_at == CHUNK_END) {
            if (byte != '\n') continue;
            connection->chunk_at = CHUNK_SIZE;
            connection->chunk_size = 0;
            return i + 1;
        }
        if (connection->chunk_at == CHUNK_TRAILER) {
            if (byte != '\n') connection->chunk_line += byte != '\r';
            else if (connection->chunk_line > 0) connection->chunk_line = 0;
            else {
                connection->chunk_at = CHUNK_DONE;
                *token = TOKEN_END;
                return i + 1;
            }
            continue;
        }
        if (byte == '\n') {
            connection->chunk_left = connection->chunk_size;
            connection->chunk_line = 0;
            connection->chunk_at = connection->chunk_size ? CHUNK_PAYLOAD : CHUNK_TRAILER;
            if (connection->chunk_size) return i + 1;
        } else if (apr_isxdigit(byte)) {
            connection->chunk_size = connection->chunk_size * 16 + (uint64_t)(apr_isdigit(byte) ? byte - '0' : (byte | 32) - 'a' + 10);
        }
    }
    return length;
}

/// A bucket of a chunked body, or its first piece; the rest follows it in the brigade.
static void note_chunked(struct connection *connection, struct response *response, apr_bucket *b) {
    struct slot *slot = connection->slot;
    if (connection->chunk_at == CHUNK_PAYLOAD && b->length <= connection->chunk_left) {
        connection->chunk_left -= b->length;
        if (connection->chunk_left == 0) connection->chunk_at = CHUNK_END;
        return body_add(connection, response, b, b->length);
    }
    const char *bytes;
    apr_size_t length;
    enum token token;
    if (apr_bucket_read(b, &bytes, &length, APR_BLOCK_READ) != APR_SUCCESS) return;
    bool was_size = connection->chunk_at == CHUNK_SIZE;
    apr_size_t piece = chunk_token(connection, bytes, length, &token);
    if (piece < length) apr_bucket_split(b, piece);
    // The size line is always written as a whole by the core's chunk filter.
    if (was_size && connection->chunk_at != CHUNK_SIZE)
        chunk_note(slot, slot->out_position, (int64_t)response->body.length, (int64_t)connection->chunk_size);
    if (token == TOKEN_PAYLOAD) body_add(connection, response, b, piece);
}

static apr_status_t note_bucket(struct connection *connection, apr_bucket *b) {
    struct slot *slot = connection->slot;
    if (connection->at == BEFORE_HEAD) connection->at = response_open(connection) ? IN_HEAD : UNNOTED;
    struct response *response = last_response(slot);
    if (connection->at == IN_HEAD) {
        const char *bytes;
        apr_size_t length;
        apr_status_t result = apr_bucket_read(b, &bytes, &length, APR_BLOCK_READ);
        if (result != APR_SUCCESS) return result;
        if (!note_head(connection, response, b, bytes, length)) connection->at = UNNOTED;
    } else if (connection->at == IN_BODY && response->kind == BODY_RAW) {
        body_add(connection, response, b, b->length);
    } else if (connection->at == IN_BODY) {
        note_chunked(connection, response, b);
    }
    slot->out_position += (int64_t)b->length;
    return APR_SUCCESS;
}

apr_status_t response_note(struct connection *connection, apr_bucket_brigade *bb) {
    struct slot *slot = connection->slot;
    apr_status_t result = APR_SUCCESS;
    begin_change(slot);
    for (apr_bucket *b = APR_BRIGADE_FIRST(bb); b != APR_BRIGADE_SENTINEL(bb) && result == APR_SUCCESS; b = APR_BUCKET_NEXT(b)) {
        if (AP_BUCKET_IS_EOR(b)) {
            if (last_response(slot)) body_seal(connection, last_response(slot));
            response_end(connection);
        } else if (!APR_BUCKET_IS_METADATA(b) && b->length > 0) {
            result = note_bucket(connection, b);
        }
    }
    if (connection->at == IN_BODY) body_seal(connection, last_response(slot));
    end_change(slot);
    return result;
}
