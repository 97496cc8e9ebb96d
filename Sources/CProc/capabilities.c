// Giving up capabilities for good.
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "cproc_capabilities.h"
#include "result.h"

int cproc_keep_capabilities(uint64_t keep) {
    for (unsigned long capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
        if (!(keep >> capability & 1) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
            return -errno;
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) < 0)
        return -errno;
    for (int half = 0; half < 2; half++) {
        uint32_t kept = (uint32_t)(keep >> (32 * half));
        data[half].permitted &= kept;
        data[half].effective = data[half].permitted;
        data[half].inheritable = 0;
    }
    return result((int)syscall(SYS_capset, &header, data));
}
