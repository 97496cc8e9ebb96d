// Network namespaces, entered only on a thread of their own that ends afterwards.
#pragma once

/// Runs `body(context)` on a fresh thread that has entered the network namespace behind `netns_fd`, waits for it and returns its result;
/// -errno when the thread cannot be made or setns(2) is refused (EPERM: CAP_SYS_ADMIN in the namespace's owner). `netns_fd` -1 runs it in
/// the caller's namespace. All signals are blocked on that thread.
int cproc_in_netns(int netns_fd, int (*body)(void *context), void *context);

/// A descriptor of a new, empty network namespace whose loopback is up; it lives as long as descriptors, sockets or processes hold it.
int cproc_new_netns(void);
/// /proc/PID/ns/net as a descriptor; EACCES/EPERM: PTRACE_MODE_READ (CAP_SYS_PTRACE).
int cproc_pid_netns(int pid);
/// 1 when both descriptors are the same namespace (st_dev and st_ino), 0 when not.
int cproc_same_netns(int a, int b);
/// A socket made inside the namespace (only creation needs setns(2)); usable from any thread.
int cproc_socket_in(int netns_fd, int family, int type, int protocol);
