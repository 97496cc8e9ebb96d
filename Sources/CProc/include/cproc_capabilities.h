// What a privileged process may do at most.
#pragma once

#include <stdint.h>

/// Takes from the calling thread, and from all that it will execute, every capability whose bit is not in `keep` (bit CAP_NET_ADMIN, …; capabilities(7)):
/// out of the bounding, the inheritable, the ambient, the permitted and the effective set. Call it before other threads exist: they keep theirs.
int cproc_keep_capabilities(uint64_t keep);
