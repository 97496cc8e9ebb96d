// The cgroup v2 freezer (Documentation/admin-guide/cgroup-v2.rst, "cgroup.freeze").
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "cproc_process.h"
#include "cproc_socket.h"
#include "result.h"

/// Reads a small kernfs file from its start; the read also re-arms poll(2) on it.
static ssize_t read_all(int fd, char *text, size_t capacity) {
    ssize_t length = pread(fd, text, capacity - 1, 0);
    if (length < 0)
        return -errno;
    text[length] = '\0';
    return length;
}

static int set_frozen(int freeze, int frozen) {
    return pwrite(freeze, frozen ? "1" : "0", 1, 0) < 0 ? -errno : 0;
}

/// Waits until cgroup.events, which the kernel updates when the last task has arrived in the freezer, says `frozen`.
static int wait_frozen(int events, int frozen, int timeout_ms) {
    uint64_t deadline = cproc_monotonic_ns() + (uint64_t)(timeout_ms < 0 ? 0 : timeout_ms) * 1000000u;
    for (;;) {
        char text[256];
        ssize_t length = read_all(events, text, sizeof text);
        if (length < 0)
            return (int)length;
        const char *key = strstr(text, "frozen ");
        if (!key)
            return -EOPNOTSUPP;
        if (atoi(key + strlen("frozen ")) == frozen)
            return 0;
        uint64_t now = cproc_monotonic_ns();
        if (now >= deadline)
            return -ETIMEDOUT;
        int ready = cproc_poll(events, POLLPRI, (int)((deadline - now) / 1000000u) + 1);
        if (ready < 0)
            return ready;
    }
}

int cproc_cgroup_freeze(int cgroup_dir, int frozen, int timeout_ms) {
    int error, before;
    int events = openat(cgroup_dir, "cgroup.events", O_RDONLY | O_CLOEXEC);
    int freeze = openat(cgroup_dir, "cgroup.freeze", O_RDWR | O_CLOEXEC);
    if (events < 0 || freeze < 0) {
        error = -errno;
        goto out;
    }
    char text[16];
    ssize_t length = read_all(freeze, text, sizeof text);
    if (length < 0) {
        error = (int)length;
        goto out;
    }
    before = atoi(text);
    error = set_frozen(freeze, frozen);
    if (error == 0 && (error = wait_frozen(events, !!frozen, timeout_ms)) < 0)
        set_frozen(freeze, before);
out:
    close_quietly(events);
    close_quietly(freeze);
    return error;
}
