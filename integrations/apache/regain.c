// After the broker's death: the server fetches the descriptors of the connections that live from the processes that serve, for the next broker.
//
// It is the server's parent process that does this, which is root and reads nothing that comes from outside. pidfd_getfd(2) takes CAP_SYS_PTRACE in it,
// which a container may lack; then a connection is known to the new broker when something happens to it.

#include "mod_sc.h"
#include <errno.h>
#include <http_log.h>
#include <sys/syscall.h>
#include <unistd.h>

APLOG_USE_MODULE(sc);

/// A duplicate of a number in another process may be of something else: the connection may have ended in between. Its slot tells before it does.
static bool is_still(const struct slot *slot, uint32_t life, int32_t pid) {
    return atomic_load(&slot->state) == SLOT_USED && atomic_load(&slot->life) == life && slot->pid == pid && atomic_load(&slot->is_live);
}

/// 0, or an errno.
static int regain(struct slot *slot) {
    uint32_t life = atomic_load(&slot->life);
    int32_t pid = slot->pid;
    if (!is_still(slot, life, pid) || slot->is_noted) return 0;
    int process = (int)syscall(SYS_pidfd_open, pid, 0);
    if (process < 0) return errno;
    int fd = (int)syscall(SYS_pidfd_getfd, process, slot->fd, 0), error = errno;
    close(process);
    // Closed this moment.
    if (fd < 0) return error == EBADF || error == ESRCH ? 0 : error;
    if (is_still(slot, life, pid)) {
        slot->is_noted = 1;
        if (!note_send(NOTE_LASTS, slot, fd) || atomic_load(&slot->life) != life) slot->is_noted = 0;
    }
    close(fd);
    return 0;
}

void regain_all(server_rec *server) {
    for (uint32_t index = 0; index < sc_region->slot_count; index++) {
        int error = regain(&sc_region->slots[index]);
        if (error == 0 || error == ESRCH) continue;
        ap_log_error(APLOG_MARK, APLOG_WARNING, error, server,
                     "mod_sc: connections are known to the new broker when something happens to them: pidfd_getfd takes CAP_SYS_PTRACE");
        return;
    }
}
