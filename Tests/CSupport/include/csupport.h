// csupport: what the test support needs from the kernel and Swift cannot call. Every function returns >= 0 or -errno.
//
// It is kept apart from CProc on purpose: the tests look at sockets and packets with code of their own, not with the code under test.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// Writes settings below /proc/sys/net as they are seen inside the network namespace. `settings` holds lines `path=value`, e.g.
/// `ipv4/ip_forward=1`. Returns how many were written; a path this kernel does not have is skipped.
int csupport_write_sysctls(int netns_fd, const char *settings);

/// Reads one setting below /proc/sys/net inside the namespace into `out` (terminated, without the newline). Returns its length.
int csupport_read_sysctl(int netns_fd, const char *path, char *out, size_t capacity);

/// Attaches the XDP program "return XDP_PASS" in driver mode to a link of the namespace. On a veth pair this makes the receiving end copy
/// every packet, so that the sending TCP no longer sees its own buffers waiting inside the receiver's queues.
int csupport_attach_xdp_pass(int netns_fd, const char *link);

/// Starts `argv[0]` (found by PATH) in the namespace, or in the caller's for -1, with copies of `fds[0..nfds)` as descriptors 0, 1, …
/// (-1: /dev/null) and no others; signal mask empty, SIGPIPE at its default. Returns the pid.
pid_t csupport_spawn(const char *const argv[], const char *const envp[], int netns_fd, const int fds[], int nfds, int own_session);
#define CSUPPORT_MAX_SPAWN_FDS 260

/// Waits for a child without taking the CPU: 1 and its wait status when it ended (it is then reaped), 0 after `timeout_ms` (-1: no limit).
int csupport_wait(pid_t pid, int timeout_ms, int *status);

/// A pipe whose ends are both O_CLOEXEC.
int csupport_pipe(int ends[2]);

/// A stream, datagram or packet socket made inside the namespace, usable from any thread.
int csupport_socket_in(int netns_fd, int family, int type, int protocol);

/// What marks descriptor `fd` of process `pid` carries: the sum of the flags below, or 0. -ENOTSOCK: it is not a socket.
int csupport_socket_marks(pid_t pid, int fd);
#define CSUPPORT_MARK_FILTER 1 // a socket filter of either kind
#define CSUPPORT_MARK_LOCKED 2 // ... that can no longer be removed
#define CSUPPORT_MARK_REPAIR 4 // TCP_REPAIR is on

/// One captured TCP segment; addresses are IPv6 or v4-mapped, ports and numbers in host order.
struct csupport_packet {
    uint64_t time_ns;      // CLOCK_REALTIME
    uint8_t source[16];
    uint8_t destination[16];
    uint16_t source_port;
    uint16_t destination_port;
    uint32_t sequence;
    uint32_t acknowledgement;
    uint32_t payload;      // bytes of data
    uint16_t window;       // as on the wire, not scaled
    uint8_t flags;         // FIN 1, SYN 2, RST 4, PSH 8, ACK 16
    uint8_t outgoing;      // 1 when the link's own host sent it
};

/// Starts a thread that records every TCP segment of `link` in the namespace. Returns NULL with -errno in `*error` when it cannot.
struct csupport_capture *csupport_capture_start(int netns_fd, const char *link, int *error);
/// Reads what is in the ring to its end, stops the thread and returns how many packets were recorded.
size_t csupport_capture_stop(struct csupport_capture *capture);
/// After the stop: the recorded packets, and how many the ring had no room for.
const struct csupport_packet *csupport_capture_packets(const struct csupport_capture *capture);
uint32_t csupport_capture_dropped(const struct csupport_capture *capture);
void csupport_capture_free(struct csupport_capture *capture);

/// Fills `out` with the bytes at `offset` of the endless random content that `seed` names.
void csupport_content(uint64_t seed, uint64_t offset, void *out, size_t length);
/// The offset of the first byte that differs from that content, or -1.
int64_t csupport_content_mismatch(uint64_t seed, uint64_t offset, const void *bytes, size_t length);

/// The bytes that the application on this end of an accepted, never moved, established connection has written and read since it began.
int csupport_tcp_position(int fd, uint64_t *written, uint64_t *read);
