// Small things of libc that Swift's Glibc module does not offer.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// "ESRCH" for ESRCH (strerrorname_np(3)); NULL for an unknown number.
const char *cproc_errno_name(int number);
/// strerrordesc_np(3): the untranslated text, safe from any thread; NULL for an unknown number.
const char *cproc_errno_text(int number);

/// memfd_create(2), close-on-exec, sealable.
int cproc_memfd(const char *name);
/// accept4(2) with SOCK_CLOEXEC, without the peer's address.
int cproc_accept(int listener);
/// pipe2(2) with O_CLOEXEC | O_NONBLOCK.
int cproc_pipe(int ends[2]);
/// Adds F_SEAL_WRITE, F_SEAL_GROW, F_SEAL_SHRINK and F_SEAL_SEAL.
int cproc_seal(int memfd);

/// A memory file whose bytes and size stay as they are. False of every other kind of file.
bool cproc_is_sealed(int fd);

/// memmem(3): the offset of the first occurrence of `needle` in `haystack`, or -1.
int64_t cproc_find(const void *haystack, size_t length, const void *needle, size_t needle_length);

/// nanosleep(2), not restarted after a signal.
void cproc_sleep_us(uint32_t microseconds);

/// environ(7).
const char *const *cproc_environment(void);
