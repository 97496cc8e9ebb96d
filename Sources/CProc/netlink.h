// What all netlink protocols share: opening, building requests, and collecting the answers to one (RFC 3549, netlink(7)).
#pragma once

#include <limits.h>
#include <linux/netlink.h>
#include <stddef.h>
#include <stdint.h>

/// A request small enough for the stack.
struct netlink_request {
    struct nlmsghdr header;
    uint8_t body[256];
};

/// The result of netlink_talk for a dump that the kernel marked as inconsistent (NLM_F_DUMP_INTR): out of the range of errno.
#define NETLINK_INTERRUPTED INT_MIN

/// A netlink socket of the calling thread's namespace.
int netlink_open(int protocol);

/// Starts a request and returns its protocol header of `length` zeroed bytes. NLM_F_REQUEST is implied, and NLM_F_ACK unless it is a dump.
void *netlink_begin(struct netlink_request *request, uint16_t type, uint16_t flags, size_t length);
/// Appends one attribute.
void netlink_put(struct netlink_request *request, uint16_t type, const void *data, size_t length);

/// Sends the request and gives every message of the answer to `each` (may be NULL) until the acknowledgement or the end of the dump.
/// When `each` returns something else than 0 the rest is read and thrown away, as an unread dump would make the next one fail with EBUSY.
int netlink_talk(int fd, struct netlink_request *request, int (*each)(const struct nlmsghdr *message, void *context), void *context);

/// An attribute after the message's protocol header of `length` bytes, or inside a nest; NULL when it is missing.
const struct nlattr *netlink_attribute(const struct nlmsghdr *message, size_t length, uint16_t type);
const struct nlattr *netlink_nested(const struct nlattr *nest, uint16_t type);

static inline const void *netlink_data(const struct nlattr *attribute) {
    return (const uint8_t *)attribute + NLA_HDRLEN;
}
static inline size_t netlink_length(const struct nlattr *attribute) {
    return attribute->nla_len - (size_t)NLA_HDRLEN;
}
uint32_t netlink_u32(const struct nlattr *attribute);
/// Copies a string that may lack its terminator; `capacity` counts the one that is always written.
void netlink_string(const struct nlattr *attribute, char *text, size_t capacity);
