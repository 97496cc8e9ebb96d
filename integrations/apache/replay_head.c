// The head of a response that began on another server: the source's goes out, byte by byte, in the place of the one that this server produces.

#include "mod_sc.h"
#include <http_request.h>
#include <stdlib.h>
#include <string.h>

static bool is_same(const char *a, apr_size_t a_length, const char *b, apr_size_t b_length, const char *name) {
    apr_size_t x_length = 0, y_length = 0;
    const char *x = head_field(a, a_length, name, &x_length), *y = head_field(b, b_length, name, &y_length);
    if (x == NULL || y == NULL) return x == y;
    // httpd calls an ETag weak while the file is younger than a second.
    if (x_length > 2 && memcmp(x, "W/", 2) == 0) x += 2, x_length -= 2;
    if (y_length > 2 && memcmp(y, "W/", 2) == 0) y += 2, y_length -= 2;
    return x_length == y_length && memcmp(x, y, x_length) == 0;
}

/// NULL, or what differs.
static const char *compare_heads(const char *theirs, apr_size_t their_length, const char *ours, apr_size_t our_length) {
    static const char *const fields[] = {"ETag", "Last-Modified", "Content-Range", "Content-Type", "Content-Encoding", NULL};
    if (their_length < 12 || our_length < 12 || memcmp(theirs + 8, ours + 8, 4) != 0) return "the status of the response differs here";
    for (int i = 0; fields[i]; i++)
        if (!is_same(theirs, their_length, ours, our_length, fields[i])) {
            static const char *const texts[] = {
                "the file is another one here (ETag)", "the file is another one here (Last-Modified)", "the response has another range here",
                "the response has another type here", "the response is encoded differently here"};
            return texts[i];
        }
    return NULL;
}

/// httpd announces the length of a response that it has as a whole at once, which depends on the moment; others come in chunks. So one may have to go on
/// as the other, where its length is known. NULL, or what differs.
static const char *compare_framing(struct connection *connection, const char *theirs, apr_size_t their_length, const char *ours, apr_size_t our_length) {
    struct replay *replay = connection->replay;
    uint64_t produced = connection->arrival->from.body.length;
    apr_size_t size;
    bool is_chunked_there = head_field(theirs, their_length, "Transfer-Encoding", &size) != NULL;
    if (is_chunked_there == replay->is_chunked_here)
        return is_same(theirs, their_length, ours, our_length, "Content-Length") ? NULL : "the response has another length here";
    const char *text = is_chunked_there ? head_field(ours, our_length, "Content-Length", &size) : head_field(theirs, their_length, "Content-Length", &size);
    uint64_t length = text ? strtoull(text, NULL, 10) : 0;
    // One that was announced there had been produced as a whole, unless something else announced it.
    bool can_go_on = is_chunked_there ? length > 0 && length >= produced : text && length == produced;
    if (!can_go_on) return "the response is transferred differently here";
    if (is_chunked_there) replay->announced = length;
    else replay->is_whole = true;
    return NULL;
}

static bool is_final(const char *block) { return atoi(block + 9) >= 200; }

/// The source's block at hand. NULL: it had come no further.
static const char *their_block(const struct connection *connection, apr_size_t *length) {
    const struct continuation *from = &connection->arrival->from;
    if (connection->block_begin >= from->head_length) return NULL;
    const char *block = from->head + connection->block_begin;
    const char *end = memmem(block, from->head_length - connection->block_begin, "\r\n\r\n", 4);
    *length = end ? (apr_size_t)(end + 4 - block) : 0;
    return end ? block : NULL;
}

/// False: the head is too long.
static bool put_block(struct connection *connection, apr_bucket_brigade *out, const char *block, apr_size_t length) {
    struct response *response = last_response(connection->slot);
    if (response->head_length + length > SC_HEAD_MAX) return false;
    int64_t begin = response->out_start + response->head_length, had = begin < 0 ? -begin : 0;
    if (had < (int64_t)length) replay_put(connection, out, block + had, length - (apr_size_t)had);
    memcpy(response->head + response->head_length, block, length);
    response->head_length += (uint32_t)length;
    if (!is_final(block)) connection->block_begin = response->head_length;
    return true;
}

static const char too_long[] = "the response's head is longer than 4 KiB here";

/// A block of the head is complete in replay->head. The source's block, of which the client may have a part, goes out in its place.
static apr_status_t end_block(struct connection *connection, apr_bucket_brigade *out) {
    struct replay *replay = connection->replay;
    const struct continuation *from = &connection->arrival->from;
    struct response *response = last_response(connection->slot);
    const char *block = replay->head;
    apr_size_t length = replay->head_length, their_length;
    bool is_last = is_final(block);
    const char *theirs = their_block(connection, &their_length);
    // Interim responses (100, 103) depend on the moment: either server may have sent one that the other has not.
    for (; theirs && is_last && !is_final(theirs); theirs = their_block(connection, &their_length))
        if (!put_block(connection, out, theirs, their_length)) return replay_differ(connection, too_long);
    replay->head_length = 0;
    replay->is_chunked_here = head_field(block, length, "Transfer-Encoding", &(apr_size_t){0}) != NULL;
    if (theirs && !is_last && is_final(theirs)) return APR_SUCCESS;
    if (theirs) {
        const char *why = is_last ? compare_heads(theirs, their_length, block, length) : NULL;
        if (why == NULL && is_last) why = compare_framing(connection, theirs, their_length, block, length);
        if (why) return replay_differ(connection, why);
        block = theirs;
        length = their_length;
    }
    if (!put_block(connection, out, block, length)) return replay_differ(connection, too_long);
    if (!is_last) return APR_SUCCESS;
    connection->has_t = true;
    response_head_is_done(connection, response);
    if (from->chunked.is_active) replay_continue_chunks(connection, out);
    bool is_enough = !replay->is_verified && from->body.length == 0 && !replay->is_whole;
    return is_enough ? replay_verify(connection) : APR_SUCCESS;
}

apr_status_t replay_head(struct connection *connection, apr_bucket *b, apr_bucket_brigade *out) {
    struct replay *replay = connection->replay;
    const char *bytes;
    apr_size_t length;
    apr_status_t result = apr_bucket_read(b, &bytes, &length, APR_BLOCK_READ);
    if (result != APR_SUCCESS) return result;
    apr_size_t room = SC_HEAD_MAX - replay->head_length, take = length < room ? length : room, old = replay->head_length;
    memcpy(replay->head + old, bytes, take);
    apr_size_t from = old > 3 ? old - 3 : 0;
    const char *end = memmem(replay->head + from, old + take - from, "\r\n\r\n", 4);
    if (end == NULL && take < length) return replay_differ(connection, too_long);
    apr_size_t used = end ? (apr_size_t)(end + 4 - replay->head) - old : take;
    replay->head_length = (uint32_t)(old + used);
    if (used < length) apr_bucket_split(b, used);
    apr_bucket_delete(b);
    return end ? end_block(connection, out) : APR_SUCCESS;
}
