// Network namespaces from outside: settings, sockets and the XDP program, each made on a throw-away thread inside the namespace.
#include "csupport.h"
#include "netns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

struct call {
    int netns_fd;
    int (*body)(void *);
    void *context;
    int result;
};

static void *enter(void *argument) {
    struct call *call = argument;
    call->result = setns(call->netns_fd, CLONE_NEWNET) == 0 ? call->body(call->context) : -errno;
    return NULL;
}

int csupport_in_netns(int netns_fd, int (*body)(void *context), void *context) {
    struct call call = {netns_fd, body, context, 0};
    pthread_t thread;
    int error = pthread_create(&thread, NULL, enter, &call);
    if (error)
        return -error;
    pthread_join(thread, NULL);
    return call.result;
}

/// Writes `length` bytes to one file below /proc/sys/net, which shows the namespace of the thread that opens it.
static int write_setting(const char *path, const char *value, size_t length) {
    char file[256];
    snprintf(file, sizeof file, "/proc/sys/net/%s", path);
    int fd = open(file, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int result = write(fd, value, length) < 0 ? -errno : 0;
    close(fd);
    return result;
}

static int write_settings(void *context) {
    const char *line = context;
    int written = 0;
    while (*line) {
        size_t length = strcspn(line, "\n");
        const char *equals = memchr(line, '=', length);
        if (equals) {
            char path[200];
            snprintf(path, sizeof path, "%.*s", (int)(equals - line), line);
            int result = write_setting(path, equals + 1, length - (size_t)(equals + 1 - line));
            if (result < 0 && result != -ENOENT)
                return result;
            written += result == 0;
        }
        line += length + (line[length] == '\n');
    }
    return written;
}

int csupport_write_sysctls(int netns_fd, const char *settings) {
    return csupport_in_netns(netns_fd, write_settings, (void *)settings);
}

struct reading {
    const char *path;
    char *out;
    size_t capacity;
};

static int read_setting(void *context) {
    struct reading *reading = context;
    char file[256];
    snprintf(file, sizeof file, "/proc/sys/net/%s", reading->path);
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t length = read(fd, reading->out, reading->capacity - 1);
    int error = errno;
    close(fd);
    if (length < 0)
        return -error;
    while (length > 0 && reading->out[length - 1] == '\n')
        length--;
    reading->out[length] = 0;
    return (int)length;
}

int csupport_read_sysctl(int netns_fd, const char *path, char *out, size_t capacity) {
    struct reading reading = {path, out, capacity};
    return csupport_in_netns(netns_fd, read_setting, &reading);
}

struct socket_call {
    int family, type, protocol;
};

static int make_socket(void *context) {
    struct socket_call *call = context;
    int fd = socket(call->family, call->type | SOCK_CLOEXEC, call->protocol);
    return fd < 0 ? -errno : fd;
}

int csupport_socket_in(int netns_fd, int family, int type, int protocol) {
    struct socket_call call = {family, type, protocol};
    return csupport_in_netns(netns_fd, make_socket, &call);
}

/// Loads "r0 = XDP_PASS; exit".
static int load_pass(void) {
    struct bpf_insn code[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = BPF_PROG_TYPE_XDP;
    attributes.insns = (uint64_t)(uintptr_t)code;
    attributes.insn_cnt = 2;
    attributes.license = (uint64_t)(uintptr_t) "GPL";
    int fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes);
    return fd < 0 ? -errno : fd;
}

/// Appends one netlink attribute to the request.
static struct rtattr *append(struct nlmsghdr *header, unsigned short type, const void *data, size_t length) {
    struct rtattr *attribute = (struct rtattr *)((char *)header + NLMSG_ALIGN(header->nlmsg_len));
    attribute->rta_type = type;
    attribute->rta_len = (unsigned short)RTA_LENGTH(length);
    if (length)
        memcpy(RTA_DATA(attribute), data, length);
    header->nlmsg_len = NLMSG_ALIGN(header->nlmsg_len) + (unsigned)RTA_ALIGN(attribute->rta_len);
    return attribute;
}

static int attach_pass(void *context) {
    unsigned index = if_nametoindex(context);
    if (!index)
        return -errno;
    int program = load_pass();
    if (program < 0)
        return program;
    struct {
        struct nlmsghdr header;
        struct ifinfomsg info;
        char attributes[64];
    } request = {
        .header = {NLMSG_LENGTH(sizeof(struct ifinfomsg)), RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, 0, 0},
        .info = {.ifi_family = AF_UNSPEC, .ifi_index = (int)index},
    };
    struct rtattr *nest = append(&request.header, IFLA_XDP | NLA_F_NESTED, NULL, 0);
    uint32_t flags = XDP_FLAGS_DRV_MODE;
    append(&request.header, IFLA_XDP_FD, &program, sizeof program);
    append(&request.header, IFLA_XDP_FLAGS, &flags, sizeof flags);
    nest->rta_len = (unsigned short)((char *)&request + request.header.nlmsg_len - (char *)nest);

    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
        char rest[512];
    } answer;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    int result = 0;
    if (fd < 0 || send(fd, &request, request.header.nlmsg_len, 0) < 0 || recv(fd, &answer, sizeof answer, 0) < 0)
        result = -errno;
    else if (answer.header.nlmsg_type == NLMSG_ERROR)
        result = answer.error.error;
    if (fd >= 0)
        close(fd);
    close(program);
    return result;
}

int csupport_attach_xdp_pass(int netns_fd, const char *link) {
    return csupport_in_netns(netns_fd, attach_pass, (void *)link);
}
