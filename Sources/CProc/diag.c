// All sockets of a network namespace, by SOCK_DIAG (sock_diag(7)).
#include "cproc_diag.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <string.h>

#include "netlink.h"
#include "result.h"

enum { DUMP_REPETITIONS = 3 };

int cproc_diag_open(void) {
    return netlink_open(NETLINK_SOCK_DIAG);
}

/// A dump, repeated while sockets came and went under it. One that is never consistent ends with EAGAIN.
static int dump(int netlink, struct netlink_request *request, int (*each)(const struct nlmsghdr *message, void *context),
                void (*restart)(void *context), void *callers_context, void *context) {
    int answer = netlink_talk(netlink, request, each, context);
    for (int i = 0; answer == NETLINK_INTERRUPTED && i < DUMP_REPETITIONS; i++) {
        if (restart)
            restart(callers_context);
        answer = netlink_talk(netlink, request, each, context);
    }
    return answer == NETLINK_INTERRUPTED ? -EAGAIN : answer;
}

struct inet_dump {
    uint8_t protocol;
    int (*each)(const struct cproc_inet_diag *socket, void *context);
    void *context;
};

static void read_endpoint(uint16_t family, const uint32_t address[4], uint16_t port, uint32_t interface, struct cproc_endpoint *out) {
    out->family = family;
    out->port = ntohs(port);
    memcpy(out->address, address, family == AF_INET ? 4 : 16);
    if (family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL((const struct in6_addr *)out->address))
        out->scope = interface;
}

static void read_extensions(const struct nlmsghdr *message, struct cproc_inet_diag *socket) {
    const size_t fixed = sizeof(struct inet_diag_msg);
    const struct nlattr *attribute = netlink_attribute(message, fixed, INET_DIAG_CONG);
    if (attribute)
        netlink_string(attribute, socket->congestion, sizeof socket->congestion);
    socket->has_md5 = netlink_attribute(message, fixed, INET_DIAG_MD5SIG) != NULL; // left out without keys (tcp_diag_put_md5sig)
    attribute = netlink_attribute(message, fixed, INET_DIAG_ULP_INFO);
    if (!attribute)
        return;
    socket->has_ulp = 1;
    attribute = netlink_nested(attribute, INET_ULP_INFO_NAME);
    if (attribute)
        netlink_string(attribute, socket->ulp, sizeof socket->ulp);
}

static int each_inet(const struct nlmsghdr *message, void *context) {
    struct inet_dump *dump = context;
    const struct inet_diag_msg *found = NLMSG_DATA(message);
    if (message->nlmsg_type != SOCK_DIAG_BY_FAMILY || message->nlmsg_len < NLMSG_LENGTH(sizeof *found))
        return 0;
    struct cproc_inet_diag socket = {
        .family = found->idiag_family,
        .protocol = dump->protocol,
        .state = found->idiag_state,
        .receive_queue = found->idiag_rqueue,
        .send_queue = found->idiag_wqueue,
        .uid = found->idiag_uid,
        .inode = found->idiag_inode,
        .cookie = (uint64_t)found->id.idiag_cookie[1] << 32 | found->id.idiag_cookie[0],
    };
    read_endpoint(found->idiag_family, found->id.idiag_src, found->id.idiag_sport, found->id.idiag_if, &socket.local);
    read_endpoint(found->idiag_family, found->id.idiag_dst, found->id.idiag_dport, found->id.idiag_if, &socket.peer);
    read_extensions(message, &socket);
    return dump->each(&socket, dump->context);
}

int cproc_diag_inet(int netlink, uint8_t family, uint8_t protocol, uint32_t states, int extensions,
                    int (*each)(const struct cproc_inet_diag *socket, void *context), void (*restart)(void *context), void *context) {
    struct netlink_request request;
    struct inet_diag_req_v2 *query = netlink_begin(&request, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, sizeof *query);
    query->sdiag_family = family;
    query->sdiag_protocol = protocol;
    query->idiag_states = states;
    // MD5SIG and ULP_INFO do not fit into the 8 bits of idiag_ext: they come with INFO (inet_sk_diag_fill in net/ipv4/inet_diag.c).
    if (extensions)
        query->idiag_ext = 1 << (INET_DIAG_CONG - 1) | 1 << (INET_DIAG_INFO - 1);
    struct inet_dump state = {protocol, each, context};
    return dump(netlink, &request, each_inet, restart, context, &state);
}

struct unix_dump {
    int (*each)(const struct cproc_unix_diag *socket, void *context);
    void *context;
};

/// The name as it stands in sun_path, without a terminator; an abstract one starts with a zero byte, shown as '@' like ss(8) does.
static void read_name(const struct nlattr *attribute, struct cproc_unix_diag *socket) {
    size_t length = netlink_length(attribute);
    if (length >= sizeof socket->name)
        length = sizeof socket->name - 1;
    memcpy(socket->name, netlink_data(attribute), length);
    if (length && socket->name[0] == '\0')
        socket->name[0] = '@';
}

static int each_unix(const struct nlmsghdr *message, void *context) {
    struct unix_dump *dump = context;
    const struct unix_diag_msg *found = NLMSG_DATA(message);
    if (message->nlmsg_type != SOCK_DIAG_BY_FAMILY || message->nlmsg_len < NLMSG_LENGTH(sizeof *found))
        return 0;
    struct cproc_unix_diag socket = {
        .inode = found->udiag_ino,
        .peer_inode = netlink_u32(netlink_attribute(message, sizeof *found, UNIX_DIAG_PEER)),
        .type = found->udiag_type,
        .state = found->udiag_state,
    };
    const struct nlattr *attribute = netlink_attribute(message, sizeof *found, UNIX_DIAG_NAME);
    if (attribute)
        read_name(attribute, &socket);
    attribute = netlink_attribute(message, sizeof *found, UNIX_DIAG_RQLEN);
    if (attribute && netlink_length(attribute) >= sizeof(struct unix_diag_rqlen)) {
        const struct unix_diag_rqlen *queues = netlink_data(attribute);
        socket.receive_queue = queues->udiag_rqueue;
        socket.send_queue = queues->udiag_wqueue;
    }
    attribute = netlink_attribute(message, sizeof *found, UNIX_DIAG_SHUTDOWN);
    if (attribute)
        socket.shutdown = *(const uint8_t *)netlink_data(attribute);
    return dump->each(&socket, dump->context);
}

static void ask_for_unix(struct unix_diag_req *query) {
    query->sdiag_family = AF_UNIX;
    query->udiag_states = ~0u;
    query->udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN;
}

int cproc_diag_unix(int netlink, int (*each)(const struct cproc_unix_diag *socket, void *context), void (*restart)(void *context),
                    void *context) {
    struct netlink_request request;
    ask_for_unix(netlink_begin(&request, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, sizeof(struct unix_diag_req)));
    struct unix_dump state = {each, context};
    return dump(netlink, &request, each_unix, restart, context, &state);
}

static int keep_unix(const struct cproc_unix_diag *socket, void *context) {
    *(struct cproc_unix_diag *)context = *socket;
    return 0;
}

int cproc_diag_unix_one(int netlink, uint64_t inode, struct cproc_unix_diag *socket) {
    struct netlink_request request;
    struct unix_diag_req *query = netlink_begin(&request, SOCK_DIAG_BY_FAMILY, 0, sizeof *query);
    ask_for_unix(query);
    query->udiag_ino = (uint32_t)inode;
    query->udiag_cookie[0] = query->udiag_cookie[1] = INET_DIAG_NOCOOKIE;
    socket->inode = 0;
    struct unix_dump state = {keep_unix, socket};
    int result = netlink_talk(netlink, &request, each_unix, &state);
    return result < 0 ? result : socket->inode == inode ? 0 : -ENOENT;
}
