// Giving up everything that a process does not need before it reads a stranger's bytes.
#pragma once

#include <stdint.h>

/// The user and group that a confined process of root becomes ("nobody" and "nogroup" of Debian).
#define CPROC_NOBODY 65534

/// Confines the calling process, which must have one thread, for good. Afterwards it has the descriptors 0...`last_fd` and no way to others,
/// no capability and no way to one, no more than `memory_bytes` of private writable memory, no file, no child, no core dump; as root it is
/// nobody. Every system call that `read`, `write` and `poll` on open descriptors do not need ends it with SIGSYS. `name` is its name in ps(1).
/// A failure (EPERM, ENOSYS: a kernel without seccomp) leaves it half confined: the caller has to end.
int cproc_confine(const char *name, int last_fd, uint64_t memory_bytes);
