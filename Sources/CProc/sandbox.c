// Confines a process: user, capabilities, limits, and a seccomp filter made by libseccomp.
#include "cproc_sandbox.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "result.h"

static int limit(int resource, uint64_t value) {
    return result(setrlimit((__rlimit_resource_t)resource, &(struct rlimit){.rlim_cur = value, .rlim_max = value}));
}

/// The bounding set needs CAP_SETPCAP, so it goes before the user does.
static int drop_bounding_set(void) {
    for (unsigned long capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
            return -errno;
    return 0;
}

static int drop_capabilities(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    return result((int)syscall(SYS_capset, &header, none));
}

static int become_nobody(void) {
    int error = drop_bounding_set();
    if (error < 0)
        return error;
    if (setgroups(0, NULL) < 0 || setresgid(CPROC_NOBODY, CPROC_NOBODY, CPROC_NOBODY) < 0 ||
        setresuid(CPROC_NOBODY, CPROC_NOBODY, CPROC_NOBODY) < 0)
        return -errno;
    // A kernel or a security module that let this pass would make the rest worthless.
    return setuid(0) == 0 ? -EPERM : 0;
}

/// What is allowed whatever its arguments: each works on descriptors that are open already, on the own memory, or on the clock.
static const int allowed[] = {
    SCMP_SYS(read), SCMP_SYS(readv), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(sendto),
    SCMP_SYS(sendmsg), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(shutdown), SCMP_SYS(close), SCMP_SYS(brk), SCMP_SYS(munmap),
    SCMP_SYS(madvise), SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(getrandom), SCMP_SYS(getpid),
    SCMP_SYS(restart_syscall), SCMP_SYS(rt_sigreturn), SCMP_SYS(exit), SCMP_SYS(exit_group),
};

static int add_rules(scmp_filter_ctx filter) {
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) {
        int error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
        if (error < 0)
            return error;
    }
    // Memory: private, without a file behind it (RLIMIT_DATA counts only that), and never executable.
    int anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
    int error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
                                 SCMP_A3(SCMP_CMP_MASKED_EQ, MAP_SHARED | anonymous, (unsigned)anonymous));
    if (error == 0)
        error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mremap), 0);
    if (error == 0)
        error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    // pthread_once wakes waiters that a process with one thread does not have; the rest of futex(2) has had its share of holes.
    if (error == 0)
        error = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(futex), 1, SCMP_A1(SCMP_CMP_EQ, FUTEX_WAKE_PRIVATE, 0));
    return error;
}

static int install_filter(void) {
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter)
        return -ENOMEM;
    int error = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (error == 0)
        error = add_rules(filter);
    if (error == 0)
        error = seccomp_load(filter);
    seccomp_release(filter);
    return error;
}

int cproc_confine(const char *name, int last_fd, uint64_t memory_bytes) {
    prctl(PR_SET_NAME, name, 0, 0, 0);
    if (chdir("/") < 0 || close_range((unsigned)last_fd + 1, ~0u, 0) < 0)
        return -errno;
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return -errno;
    int error = geteuid() == 0 ? become_nobody() : 0;
    if (error == 0)
        error = drop_capabilities();
    // 3, not 0: poll(2) refuses more entries than the limit. All numbers below it are taken.
    if (error == 0)
        error = limit(RLIMIT_NOFILE, 3);
    if (error == 0)
        error = limit(RLIMIT_NPROC, 0);
    if (error == 0)
        error = limit(RLIMIT_FSIZE, 0);
    if (error == 0)
        error = limit(RLIMIT_CORE, 0);
    if (error == 0)
        error = limit(RLIMIT_DATA, memory_bytes);
    if (error < 0)
        return error;
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    return install_filter();
}
