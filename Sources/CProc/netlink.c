// Netlink requests and their answers.
#include "netlink.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "result.h"

/// The kernel fills at most 32 KiB per read of a dump, but only as much as the largest buffer it has seen (netlink_dump in af_netlink.c).
enum { RECEIVE_BUFFER = 64 * 1024 };

int netlink_open(int protocol) {
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    if (fd < 0)
        return -errno;
    // Errors come back without a copy of the request, which may be large.
    int one = 1;
    setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof one);
    return fd;
}

void *netlink_begin(struct netlink_request *request, uint16_t type, uint16_t flags, size_t length) {
    memset(request, 0, sizeof *request);
    int dump = (flags & NLM_F_DUMP) == NLM_F_DUMP;
    request->header.nlmsg_type = type;
    request->header.nlmsg_flags = flags | NLM_F_REQUEST | (dump ? 0 : NLM_F_ACK);
    request->header.nlmsg_len = NLMSG_SPACE(length);
    return NLMSG_DATA(&request->header);
}

void netlink_put(struct netlink_request *request, uint16_t type, const void *data, size_t length) {
    struct nlattr *attribute = (struct nlattr *)((uint8_t *)request + request->header.nlmsg_len);
    attribute->nla_type = type;
    attribute->nla_len = (uint16_t)(NLA_HDRLEN + length);
    memcpy((uint8_t *)attribute + NLA_HDRLEN, data, length);
    request->header.nlmsg_len += NLA_ALIGN(attribute->nla_len);
}

static const struct nlattr *find(const uint8_t *start, size_t length, uint16_t type) {
    while (length >= (size_t)NLA_HDRLEN) {
        const struct nlattr *attribute = (const struct nlattr *)start;
        if (attribute->nla_len < NLA_HDRLEN || attribute->nla_len > length)
            return NULL;
        if ((attribute->nla_type & NLA_TYPE_MASK) == type)
            return attribute;
        size_t step = NLA_ALIGN(attribute->nla_len);
        if (step > length)
            return NULL;
        start += step;
        length -= step;
    }
    return NULL;
}

const struct nlattr *netlink_attribute(const struct nlmsghdr *message, size_t length, uint16_t type) {
    size_t offset = NLMSG_SPACE(length);
    return message->nlmsg_len < offset ? NULL : find((const uint8_t *)message + offset, message->nlmsg_len - offset, type);
}

const struct nlattr *netlink_nested(const struct nlattr *nest, uint16_t type) {
    return find(netlink_data(nest), netlink_length(nest), type);
}

uint32_t netlink_u32(const struct nlattr *attribute) {
    uint32_t value = 0;
    if (attribute && netlink_length(attribute) >= sizeof value)
        memcpy(&value, netlink_data(attribute), sizeof value);
    return value;
}

void netlink_string(const struct nlattr *attribute, char *text, size_t capacity) {
    size_t length = strnlen(netlink_data(attribute), netlink_length(attribute));
    if (length >= capacity)
        length = capacity - 1;
    memcpy(text, netlink_data(attribute), length);
    text[length] = '\0';
}

static int send_request(int fd, struct netlink_request *request) {
    static atomic_uint sequence;
    request->header.nlmsg_seq = atomic_fetch_add(&sequence, 1) + 1;
    ssize_t sent;
    do
        sent = send(fd, request, request->header.nlmsg_len, 0);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

int netlink_talk(int fd, struct netlink_request *request, int (*each)(const struct nlmsghdr *message, void *context), void *context) {
    int answer = send_request(fd, request), interrupted = 0;
    if (answer < 0)
        return answer;
    _Alignas(struct nlmsghdr) uint8_t buffer[RECEIVE_BUFFER];
    for (;;) {
        ssize_t length = recv(fd, buffer, sizeof buffer, MSG_TRUNC);
        if (length < 0 && errno == EINTR)
            continue;
        if (length < 0)
            return -errno;
        if ((size_t)length > sizeof buffer)
            return -EMSGSIZE;
        size_t left = (size_t)length;
        for (struct nlmsghdr *message = (struct nlmsghdr *)buffer; NLMSG_OK(message, left); message = NLMSG_NEXT(message, left)) {
            // What an earlier caller on this socket did not wait for.
            if (message->nlmsg_seq != request->header.nlmsg_seq)
                continue;
            interrupted |= message->nlmsg_flags & NLM_F_DUMP_INTR;
            if (message->nlmsg_type == NLMSG_ERROR || message->nlmsg_type == NLMSG_DONE) {
                // Both start with an int: 0 or -errno, in NLMSG_DONE the result of the dump.
                int error = 0;
                if (message->nlmsg_len >= NLMSG_LENGTH(sizeof error))
                    memcpy(&error, NLMSG_DATA(message), sizeof error);
                return answer ? answer : error < 0 ? error : interrupted ? NETLINK_INTERRUPTED : 0;
            }
            if (each && answer == 0)
                answer = each(message, context);
        }
    }
}
