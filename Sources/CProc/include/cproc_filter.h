// Socket filters as locks: one shared eBPF program that drops every incoming segment of the sockets it is attached to.
#pragma once

#include <stdint.h>

/// A descriptor of the program "return 0" (BPF_PROG_TYPE_SOCKET_FILTER), loaded with bpf(2). EPERM without CAP_BPF/CAP_SYS_ADMIN.
int cproc_drop_program(void);
/// SO_ATTACH_BPF: from now on arriving segments vanish before TCP sees them (no ACK, no RST). Replaces any filter the socket had. EPERM: SO_LOCK_FILTER.
int cproc_attach_program(int fd, int program);
/// SO_DETACH_FILTER; a socket without filter is not an error.
int cproc_detach_filter(int fd);

/// The socket's own classic filter: number of instructions (0: none), copied into `out` as 8-byte sock_filter values up to `capacity` instructions.
/// EACCES: it has an eBPF filter, which the kernel does not hand out.
int cproc_get_filter(int fd, uint64_t *out, uint32_t capacity);
int cproc_set_filter(int fd, const uint64_t *program, uint32_t count);
/// SO_LOCK_FILTER: 1 when the filter can no longer be changed.
int cproc_filter_locked(int fd);

/// Attaches a sock_ops program to the cgroup2 directory `cgroup_dir` that gives sockets with SO_MARK... see cproc_initial_window.c: every active connect of
/// this network namespace whose remote port and local port match gets TCP_BPF_IW `segments` (the initial congestion window). Returns a bpf_link descriptor; closing
/// it detaches. Only for the instant of a repair connect.
int cproc_initial_window(int cgroup_dir, uint16_t local_port, uint16_t remote_port, uint32_t segments);
