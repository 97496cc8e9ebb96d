// What replay.c and replay_head.c have in common.
#pragma once

#include "mod_sc.h"

/// Refuses the session for this reason; it then stays where it is. APR_ECONNABORTED.
apr_status_t replay_differ(struct connection *connection, const char *what);
/// As much has been produced here as there: is it the same? Then the session can come.
apr_status_t replay_verify(struct connection *connection);
/// Bytes for the client, behind what `out` has.
void replay_put(struct connection *connection, apr_bucket_brigade *out, const char *bytes, apr_size_t length);
/// A bucket of the head, or its first piece; what is behind that stays in the brigade. `out` gets what the client has not.
apr_status_t replay_head(struct connection *connection, apr_bucket *b, apr_bucket_brigade *out);
