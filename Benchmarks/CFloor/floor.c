// The floor of the benchmark: the same system calls as the engine's, in bare C, with nothing around them.
#include "cfloor.h"

#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TCP = 6, TCP_NODELAY_ = 1, TCP_MAXSEG_ = 2, TCP_CONGESTION_ = 13, BUF_LOCK = 72, PEEK_OFF = 42 };

#define TRY(call)                                                                                                                          \
    do {                                                                                                                                   \
        int result_ = (int)(call);                                                                                                         \
        if (result_ < 0)                                                                                                                   \
            return result_;                                                                                                                \
    } while (0)

int cfloor_dump(int fd, int program, const struct cfloor_option options[], int count, struct cfloor_state *state) {
    uint8_t value[16];
    int peek_offset;
    cproc_get_filter(fd, NULL, 0);
    TRY(cproc_attach_program(fd, program));
    TRY(cproc_getsockopt_int(fd, SOL_SOCKET, SO_REUSEADDR, &state->reuse));
    state->differing = 0;
    for (int i = 0; i < count; i++) {
        int length = cproc_getsockopt(fd, options[i].level, options[i].name, value, options[i].length);
        state->differing += length < 0 || length != options[i].fresh_length || memcmp(value, options[i].fresh, (size_t)length) != 0;
    }
    cproc_getsockopt_int(fd, SOL_SOCKET, PEEK_OFF, &peek_offset);
    TRY(cproc_repair(fd, CPROC_REPAIR_ON));
    TRY(cproc_getsockname(fd, &state->local));
    TRY(cproc_getpeername(fd, &state->peer));
    TRY(cproc_tcp_info(fd, &state->info));
    TRY(cproc_getsockopt_int(fd, TCP, TCP_MAXSEG_, &state->mss_clamp));
    TRY(cproc_getsockopt(fd, TCP, TCP_CONGESTION_, state->congestion, sizeof state->congestion));
    TRY(cproc_timestamp(fd, &state->timestamp));
    TRY(cproc_repair_queue(fd, CPROC_QUEUE_RECV));
    TRY(cproc_queue_seq(fd, &state->rcv_nxt));
    TRY(state->receive_length = cproc_siocinq(fd));
    if (state->receive_length > 0)
        TRY(cproc_peek_queue(fd, state->receive_queue, state->capacity));
    TRY(cproc_repair_queue(fd, CPROC_QUEUE_SEND));
    TRY(cproc_queue_seq(fd, &state->write_seq));
    TRY(state->send_length = cproc_siocoutq(fd));
    if (state->send_length > 0)
        TRY(cproc_peek_queue(fd, state->send_queue, state->capacity));
    TRY(state->unsent = cproc_siocoutqnsd(fd));
    TRY(cproc_window(fd, &state->window));
    TRY(cproc_getsockopt_int(fd, SOL_SOCKET, SO_SNDBUF, &state->send_buffer));
    TRY(cproc_getsockopt_int(fd, SOL_SOCKET, SO_RCVBUF, &state->receive_buffer));
    TRY(cproc_getsockopt_int(fd, SOL_SOCKET, BUF_LOCK, &state->buffer_lock));
    TRY(cproc_tcp_info(fd, &state->info));
    return 0;
}

int cfloor_let_go(int fd, const struct cfloor_state *state) {
    TRY(cproc_disconnect(fd));
    TRY(cproc_repair(fd, CPROC_REPAIR_OFF_NO_PROBE));
    TRY(cproc_setsockopt_int(fd, SOL_SOCKET, SO_REUSEADDR, state->reuse));
    TRY(cproc_detach_filter(fd));
    return 0;
}

static int prepare(int fd, const struct cfloor_state *state) {
    struct cproc_negotiated negotiated = {.mss_clamp = (uint16_t)state->mss_clamp,
                                          .timestamps = state->info.timestamps,
                                          .sack = state->info.sack,
                                          .wscale = state->info.wscale,
                                          .snd_scale = state->info.snd_scale,
                                          .rcv_scale = state->info.rcv_scale};
    TRY(cproc_repair(fd, CPROC_REPAIR_ON));
    TRY(cproc_bind(fd, &state->local));
    TRY(cproc_repair_queue(fd, CPROC_QUEUE_RECV));
    TRY(cproc_set_queue_seq(fd, state->rcv_nxt - (uint32_t)state->receive_length));
    TRY(cproc_repair_queue(fd, CPROC_QUEUE_SEND));
    TRY(cproc_set_queue_seq(fd, state->write_seq - (uint32_t)state->send_length));
    TRY(cproc_set_timestamp(fd, state->timestamp));
    int receive = state->receive_buffer / 2, send_size = state->send_buffer / 2;
    if (receive < state->receive_length + 65536)
        receive = state->receive_length + 65536;
    if (send_size < state->send_length * 2 + 65536)
        send_size = state->send_length * 2 + 65536;
    TRY(cproc_setsockopt_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, receive));
    TRY(cproc_setsockopt_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, send_size));
    TRY(cproc_setsockopt(fd, TCP, TCP_CONGESTION_, state->congestion, (uint32_t)strlen(state->congestion)));
    TRY(cproc_connect(fd, &state->peer));
    TRY(cproc_set_negotiated(fd, &negotiated));
    if (state->receive_length > 0) {
        TRY(cproc_repair_queue(fd, CPROC_QUEUE_RECV));
        TRY(cproc_fill_queue(fd, state->receive_queue, (size_t)state->receive_length));
    }
    TRY(cproc_set_window(fd, &state->window));
    TRY(cproc_resync_mss(fd));
    TRY(cproc_repair_queue(fd, CPROC_QUEUE_SEND));
    return 0;
}

/// Transmits the last of the sent segments again as an original, when the congestion window has room: see Activation.swift.
static int activate(int fd, const struct cfloor_state *state) {
    int sent = state->send_length - state->unsent, tail = 0;
    if (sent > 0) {
        struct cproc_tcp_info now;
        TRY(cproc_tcp_info(fd, &now));
        int mss = (int)(now.snd_mss < state->info.snd_mss ? now.snd_mss : state->info.snd_mss);
        if ((sent + mss - 1) / mss < (int)now.snd_cwnd)
            tail = sent < mss ? sent : mss;
    }
    if (sent > tail)
        TRY(cproc_fill_queue(fd, state->send_queue, (size_t)(sent - tail)));
    TRY(cproc_repair(fd, tail ? CPROC_REPAIR_OFF_NO_PROBE : CPROC_REPAIR_OFF));
    if (tail) {
        TRY(cproc_setsockopt_int(fd, TCP, TCP_NODELAY_, 1));
        TRY(send(fd, state->send_queue + sent - tail, (size_t)tail, MSG_DONTWAIT | MSG_NOSIGNAL));
        TRY(cproc_setsockopt_int(fd, TCP, TCP_NODELAY_, 0));
    }
    if (state->unsent > 0)
        TRY(send(fd, state->send_queue + sent, (size_t)state->unsent, MSG_DONTWAIT | MSG_NOSIGNAL));
    TRY(cproc_setsockopt_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, state->send_buffer / 2));
    TRY(cproc_setsockopt_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, state->receive_buffer / 2));
    TRY(cproc_setsockopt_int(fd, SOL_SOCKET, BUF_LOCK, state->buffer_lock));
    TRY(cproc_setsockopt_int(fd, SOL_SOCKET, SO_REUSEADDR, 1));
    return 0;
}

int cfloor_restore(const struct cfloor_state *state) {
    int fd = socket(state->local.family, SOCK_STREAM | SOCK_CLOEXEC, TCP);
    int result = prepare(fd, state);
    if (result >= 0)
        result = activate(fd, state);
    if (result < 0) {
        close(fd);
        return result;
    }
    return fd;
}
