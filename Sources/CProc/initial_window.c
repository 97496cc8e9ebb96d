// The initial congestion window of one connection, set by a sock_ops program while it connects.
#include <arpa/inet.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>

#include "bpf.h"
#include "cproc_filter.h"
#include "result.h"

/// "If it is the connect we mean, set TCP_BPF_IW, and in any case say 1." A connect in repair mode runs the program like any other
/// (tcp_connect calls tcp_finish_connect, which ends in tcp_init_transfer).
static int load(uint16_t local_port, uint16_t remote_port, uint32_t segments) {
    enum { VALUE = -4 }; // the option's value on the program's stack
    const struct bpf_insn program[] = {
        BPF_COPY(BPF_REG_6, BPF_REG_1),
        BPF_LOAD32(BPF_REG_2, BPF_REG_6, offsetof(struct bpf_sock_ops, op)),
        BPF_SKIP_UNLESS(BPF_REG_2, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, 12),
        BPF_LOAD32(BPF_REG_2, BPF_REG_6, offsetof(struct bpf_sock_ops, local_port)),
        BPF_SKIP_UNLESS(BPF_REG_2, local_port, 10), // in host order
        BPF_LOAD32(BPF_REG_2, BPF_REG_6, offsetof(struct bpf_sock_ops, remote_port)),
        BPF_SKIP_UNLESS(BPF_REG_2, htonl(remote_port), 8), // in network order, as 32 bits
        BPF_STORE32(BPF_REG_10, VALUE, segments),
        BPF_COPY(BPF_REG_1, BPF_REG_6),
        BPF_MOVE(BPF_REG_2, IPPROTO_TCP),
        BPF_MOVE(BPF_REG_3, TCP_BPF_IW),
        BPF_COPY(BPF_REG_4, BPF_REG_10),
        BPF_ADD_TO(BPF_REG_4, VALUE),
        BPF_MOVE(BPF_REG_5, 4),
        BPF_CALL_HELPER(BPF_FUNC_setsockopt),
        BPF_MOVE(BPF_REG_0, 1),
        BPF_RETURN,
    };
    return bpf_load(BPF_PROG_TYPE_SOCK_OPS, program, sizeof program / sizeof *program);
}

int cproc_initial_window(int cgroup_dir, uint16_t local_port, uint16_t remote_port, uint32_t segments) {
    if (segments == 0 || segments > INT32_MAX)
        return -EINVAL;
    int program = load(local_port, remote_port, segments);
    if (program < 0)
        return program;
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.link_create.prog_fd = (uint32_t)program;
    attributes.link_create.target_fd = (uint32_t)cgroup_dir;
    attributes.link_create.attach_type = BPF_CGROUP_SOCK_OPS;
    int link = bpf_call(BPF_LINK_CREATE, &attributes);
    close(program); // the link holds it
    return link;
}
