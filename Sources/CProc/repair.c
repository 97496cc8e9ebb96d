// TCP_REPAIR: reading and writing the state of a TCP socket (net/ipv4/tcp.c).
#include "cproc_repair.h"

#include <linux/tcp.h> // not <netinet/tcp.h>, which declares an older struct tcp_info
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "result.h"

// Option kinds of RFC 9293 and RFC 7323, as TCP_REPAIR_OPTIONS takes them (include/net/tcp.h).
enum { OPTION_MSS = 2, OPTION_WINDOW_SCALE = 3, OPTION_SACK = 4, OPTION_TIMESTAMPS = 8 };

/// tcp_send_rcvq() allocates one linear skb for each call, so large chunks need contiguous memory.
enum { LARGEST_CHUNK = 64 * 1024, SMALLEST_CHUNK = 1024 };

static int set_tcp(int fd, int name, const void *value, socklen_t length) {
    return result(setsockopt(fd, IPPROTO_TCP, name, value, length));
}

static int get_tcp(int fd, int name, void *value, socklen_t length) {
    return result(getsockopt(fd, IPPROTO_TCP, name, value, &length));
}

int cproc_repair(int fd, int mode) {
    return set_tcp(fd, TCP_REPAIR, &mode, sizeof mode);
}

int cproc_repair_queue(int fd, int queue) {
    return set_tcp(fd, TCP_REPAIR_QUEUE, &queue, sizeof queue);
}

int cproc_queue_seq(int fd, uint32_t *seq) {
    return get_tcp(fd, TCP_QUEUE_SEQ, seq, sizeof *seq);
}

int cproc_set_queue_seq(int fd, uint32_t seq) {
    return set_tcp(fd, TCP_QUEUE_SEQ, &seq, sizeof seq);
}

ssize_t cproc_peek_queue(int fd, void *bytes, size_t capacity) {
    ssize_t length;
    do
        length = recv(fd, bytes, capacity, MSG_PEEK | MSG_DONTWAIT);
    while (length < 0 && errno == EINTR);
    if (length < 0)
        return errno == EAGAIN ? 0 : -errno;
    return (size_t)length > capacity ? -EMSGSIZE : length;
}

int cproc_fill_queue(int fd, const void *bytes, size_t length) {
    const char *next = bytes;
    size_t chunk = LARGEST_CHUNK;
    while (length) {
        ssize_t sent = send(fd, next, length < chunk ? length : chunk, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) {
            next += sent;
            length -= (size_t)sent;
        } else if (sent == 0) {
            return -EIO;
        } else if ((errno == ENOBUFS || errno == ENOMEM) && chunk > SMALLEST_CHUNK) {
            chunk /= 2;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

int cproc_window(int fd, struct cproc_window *window) {
    struct tcp_repair_window kernel = {0};
    int error = get_tcp(fd, TCP_REPAIR_WINDOW, &kernel, sizeof kernel);
    if (error < 0)
        return error;
    *window = (struct cproc_window){kernel.snd_wl1, kernel.snd_wnd, kernel.max_window, kernel.rcv_wnd, kernel.rcv_wup};
    return 0;
}

int cproc_set_window(int fd, const struct cproc_window *window) {
    struct tcp_repair_window kernel = {
        .snd_wl1 = window->snd_wl1,
        .snd_wnd = window->snd_wnd,
        .max_window = window->max_window,
        .rcv_wnd = window->rcv_wnd,
        .rcv_wup = window->rcv_wup,
    };
    return set_tcp(fd, TCP_REPAIR_WINDOW, &kernel, sizeof kernel);
}

int cproc_timestamp(int fd, uint32_t *value) {
    return get_tcp(fd, TCP_TIMESTAMP, value, sizeof *value);
}

int cproc_set_timestamp(int fd, uint32_t value) {
    return set_tcp(fd, TCP_TIMESTAMP, &value, sizeof value);
}

int cproc_set_negotiated(int fd, const struct cproc_negotiated *options) {
    struct tcp_repair_opt list[4];
    unsigned count = 0;
    list[count++] = (struct tcp_repair_opt){OPTION_MSS, options->mss_clamp};
    if (options->wscale)
        list[count++] = (struct tcp_repair_opt){OPTION_WINDOW_SCALE, options->snd_scale | (uint32_t)options->rcv_scale << 16};
    // Both are flags: a value other than 0 is EINVAL (tcp_repair_options_est).
    if (options->sack)
        list[count++] = (struct tcp_repair_opt){OPTION_SACK, 0};
    if (options->timestamps)
        list[count++] = (struct tcp_repair_opt){OPTION_TIMESTAMPS, 0};
    return set_tcp(fd, TCP_REPAIR_OPTIONS, list, count * sizeof *list);
}

int cproc_tcp_info(int fd, struct cproc_tcp_info *info) {
    // An older kernel fills less than the header's struct; what it does not know stays 0.
    struct tcp_info kernel;
    memset(&kernel, 0, sizeof kernel);
    int error = get_tcp(fd, TCP_INFO, &kernel, sizeof kernel);
    if (error < 0)
        return error;
    *info = (struct cproc_tcp_info){
        .state = kernel.tcpi_state,
        .timestamps = (kernel.tcpi_options & TCPI_OPT_TIMESTAMPS) != 0,
        .sack = (kernel.tcpi_options & TCPI_OPT_SACK) != 0,
        .wscale = (kernel.tcpi_options & TCPI_OPT_WSCALE) != 0,
        .ecn = (kernel.tcpi_options & TCPI_OPT_ECN) != 0,
        .snd_scale = kernel.tcpi_snd_wscale,
        .rcv_scale = kernel.tcpi_rcv_wscale,
        .rto_us = kernel.tcpi_rto,
        .snd_mss = kernel.tcpi_snd_mss,
        .unacked = kernel.tcpi_unacked,
        .snd_cwnd = kernel.tcpi_snd_cwnd,
        .snd_ssthresh = kernel.tcpi_snd_ssthresh,
        .rtt_us = kernel.tcpi_rtt,
        .notsent = kernel.tcpi_notsent_bytes,
        .last_data_sent_ms = kernel.tcpi_last_data_sent,
        .last_data_recv_ms = kernel.tcpi_last_data_recv,
        .bytes_acked = kernel.tcpi_bytes_acked,
        .bytes_received = kernel.tcpi_bytes_received,
    };
    return 0;
}

int cproc_resync_mss(int fd) {
    // Setting no options at all still ends in icsk_sync_mss() (net/ipv4/ip_sockglue.c, IP_OPTIONS).
    return result(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, NULL, 0));
}
