// The TCP_REPAIR family (net/ipv4/tcp.c). Needs CAP_NET_ADMIN in the user namespace that owns the socket's network namespace.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { CPROC_REPAIR_ON = 1, CPROC_REPAIR_OFF = 0, CPROC_REPAIR_OFF_NO_PROBE = -1 };
enum { CPROC_QUEUE_NONE = 0, CPROC_QUEUE_RECV = 1, CPROC_QUEUE_SEND = 2 };

/// TCP_REPAIR. OFF sends one window probe in ESTABLISHED; OFF_NO_PROBE sends nothing. Leaving clears SO_REUSEADDR: read it before, set it
/// after.
int cproc_repair(int fd, int mode);
/// TCP_REPAIR_QUEUE. While SEND is selected tcp_write_xmit() transmits no new data.
int cproc_repair_queue(int fd, int queue);
/// TCP_QUEUE_SEQ of the selected queue: get gives its END; set (in CLOSE only) its start.
int cproc_queue_seq(int fd, uint32_t *seq);
int cproc_set_queue_seq(int fd, uint32_t seq);
/// recv(MSG_PEEK | MSG_DONTWAIT) of the selected queue: its bytes, at most `capacity`; 0 for an empty queue. On the send queue the kernel
/// returns the full length even when `capacity` is smaller: a result above `capacity` is reported as EMSGSIZE.
/// An application's SO_PEEK_OFF (Linux 6.9) would shift the receive queue and move on: set it to -1 before.
ssize_t cproc_peek_queue(int fd, void *bytes, size_t capacity);
/// send() of all `length` bytes into the selected queue of a socket in repair mode, in chunks of at most 64 KiB that are halved on
/// ENOBUFS/ENOMEM down to 1 KiB (the kernel allocates one linear skb a call). EAGAIN (send queue), ENOBUFS (receive queue): the buffer is
/// too small, and a part is in it. Never blocks.
int cproc_fill_queue(int fd, const void *bytes, size_t length);

struct cproc_window { uint32_t snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup; };
int cproc_window(int fd, struct cproc_window *window);
/// TCP_REPAIR_WINDOW; EINVAL when max_window < snd_wnd, rcv_wup is after rcv_nxt or snd_wl1 lies beyond the receive window.
int cproc_set_window(int fd, const struct cproc_window *window);

int cproc_timestamp(int fd, uint32_t *value);
int cproc_set_timestamp(int fd, uint32_t value);

/// TCP_REPAIR_OPTIONS: what the SYNs negotiated. `*_scale` are used with `wscale`; only in ESTABLISHED, before any data was sent.
struct cproc_negotiated {
    uint16_t mss_clamp;
    uint8_t timestamps, sack, wscale, snd_scale, rcv_scale;
};
int cproc_set_negotiated(int fd, const struct cproc_negotiated *options);

/// The part of struct tcp_info that a dump needs.
struct cproc_tcp_info {
    uint8_t state, timestamps, sack, wscale, ecn, snd_scale, rcv_scale;
    uint32_t rto_us, snd_mss, unacked, snd_cwnd, snd_ssthresh, rtt_us, notsent, last_data_sent_ms, last_data_recv_ms;
    uint64_t bytes_acked, bytes_received;
};
int cproc_tcp_info(int fd, struct cproc_tcp_info *info);

/// setsockopt(IP_OPTIONS, NULL, 0): makes the kernel recompute mss_cache after TCP_REPAIR_OPTIONS (IPv4 and v4-mapped only; tcp_sync_mss).
int cproc_resync_mss(int fd);
