// Socket filters as locks: one shared eBPF program that drops every incoming segment of the sockets it is attached to.
#pragma once

#include <stdint.h>

/// A descriptor of the program "return 0" (BPF_PROG_TYPE_SOCKET_FILTER), loaded with bpf(2). EPERM without CAP_BPF/CAP_SYS_ADMIN.
int cproc_drop_program(void);
/// SO_ATTACH_BPF: from now on arriving segments vanish before TCP sees them (no ACK, no RST). Replaces any filter the socket had.
/// EPERM: SO_LOCK_FILTER.
int cproc_attach_program(int fd, int program);
/// SO_DETACH_FILTER; a socket without filter is not an error.
int cproc_detach_filter(int fd);

/// The socket's own classic filter: its number of instructions (0: none), which are copied into `out` as 8-byte sock_filter values when
/// `capacity` holds them all, and not at all when it does not (BPF_MAXINSNS, 4096, always does).
/// EACCES: it has an eBPF filter, which the kernel does not hand out.
int cproc_get_filter(int fd, uint64_t *out, uint32_t capacity);
int cproc_set_filter(int fd, const uint64_t *program, uint32_t count);
/// SO_LOCK_FILTER: 1 when the filter can no longer be changed.
int cproc_filter_locked(int fd);

/// For the instant of a repair connect: a sock_ops program on the cgroup2 directory `cgroup_dir` (that of the process which made the
/// socket) gives the connection from `local_port` to `remote_port` an initial congestion window of `segments` (TCP_BPF_IW). Otherwise a
/// restored connection starts with 10, which stalls it when more was in flight. Returns a bpf_link; closing it detaches the program.
/// EINVAL: `segments` is 0.
int cproc_initial_window(int cgroup_dir, uint16_t local_port, uint16_t remote_port, uint32_t segments);
