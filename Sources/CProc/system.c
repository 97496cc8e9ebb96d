// Small things of libc that Swift's Glibc module does not offer.

#include "cproc_system.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "result.h"

const char *cproc_errno_name(int number) { return strerrorname_np(number); }

const char *cproc_errno_text(int number) { return strerrordesc_np(number); }

int cproc_memfd(const char *name) {
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    return fd < 0 ? -errno : fd;
}

bool cproc_is_sealed(int fd) {
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & (F_SEAL_WRITE | F_SEAL_SHRINK)) == (F_SEAL_WRITE | F_SEAL_SHRINK);
}

int cproc_seal(int memfd) {
    return fcntl(memfd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0 ? -errno : 0;
}

int64_t cproc_find(const void *haystack, size_t length, const void *needle, size_t needle_length) {
    const char *hit = memmem(haystack, length, needle, needle_length);
    return hit ? hit - (const char *)haystack : -1;
}

void cproc_sleep_us(uint32_t microseconds) {
    struct timespec time = {.tv_sec = microseconds / 1000000, .tv_nsec = (long)(microseconds % 1000000) * 1000};
    nanosleep(&time, NULL);
}

const char *const *cproc_environment(void) { return (const char *const *)environ; }

int cproc_accept(int listener) {
    return result(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
}

int cproc_pipe(int ends[2]) {
    return result(pipe2(ends, O_CLOEXEC | O_NONBLOCK));
}
