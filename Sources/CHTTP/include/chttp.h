// HTTP POST over one kept connection, by libcurl: curl_easy_setopt(3) is variadic, which Swift cannot call.
// libcurl is loaded at the first use: with all that it depends on it would add 3 ms to every start of the tool (4 ms without).
#pragma once

#include <stddef.h>

struct chttp;

/// A handle with its own connection; used by one thread at a time. 0, or -ENOMEM, or -ELIBACC when libcurl.so.4 is not installed.
int chttp_open(struct chttp **handle);
void chttp_close(struct chttp *handle);

/// Posts `length` bytes of JSON to `url` and waits for the whole answer, `timeout_ms` at most. Returns the HTTP status, or -errno: ETIMEDOUT,
/// ECONNREFUSED, EHOSTUNREACH (no such name), ECONNRESET (the connection ended in the middle), EMSGSIZE (an answer beyond 4 MiB), EIO.
/// Proxies of the environment and redirections are not followed.
int chttp_post(struct chttp *handle, const char *url, const void *body, size_t length, int timeout_ms);

/// The last answer's body; valid until the next call.
const void *chttp_answer(const struct chttp *handle, size_t *length);
