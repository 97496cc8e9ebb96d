// Neighbours, routes and policy rules by rtnetlink (rtnetlink(7)).
#include "cproc_rtnl.h"

#include <linux/fib_rules.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>

#include "address.h"
#include "netlink.h"
#include "result.h"

enum { LOOPBACK_INTERFACE = 1 }; // in every network namespace: LOOPBACK_IFINDEX in include/net/flow.h

int cproc_rtnl_open(void) {
    return netlink_open(NETLINK_ROUTE);
}

static int begin_neighbour(struct netlink_request *request, uint16_t type, uint16_t flags, int ifindex,
                           const struct cproc_endpoint *address) {
    size_t length = address_length(address->family);
    if (length == 0)
        return -EAFNOSUPPORT;
    struct ndmsg *neighbour = netlink_begin(request, type, flags, sizeof *neighbour);
    neighbour->ndm_family = (uint8_t)address->family;
    neighbour->ndm_ifindex = ifindex;
    neighbour->ndm_state = NUD_PERMANENT;
    netlink_put(request, NDA_DST, address->address, length);
    return 0;
}

int cproc_neigh_set(int netlink, int ifindex, const struct cproc_endpoint *address, const uint8_t mac[6]) {
    struct netlink_request request;
    int error = begin_neighbour(&request, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, ifindex, address);
    if (error < 0)
        return error;
    netlink_put(&request, NDA_LLADDR, mac, 6);
    return netlink_talk(netlink, &request, NULL, NULL);
}

int cproc_neigh_delete(int netlink, int ifindex, const struct cproc_endpoint *address) {
    struct netlink_request request;
    int error = begin_neighbour(&request, RTM_DELNEIGH, 0, ifindex, address);
    if (error == 0)
        error = netlink_talk(netlink, &request, NULL, NULL);
    return error == -ENOENT ? 0 : error;
}

static void read_address(const struct nlattr *attribute, uint16_t family, int ifindex, struct cproc_endpoint *out) {
    size_t length = address_length(family);
    if (!attribute || length == 0 || netlink_length(attribute) < length)
        return;
    out->family = family;
    memcpy(out->address, netlink_data(attribute), length);
    if (family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL((const struct in6_addr *)out->address))
        out->scope = (uint32_t)ifindex;
}

static int each_route(const struct nlmsghdr *message, void *context) {
    struct cproc_route *route = context;
    const struct rtmsg *found = NLMSG_DATA(message);
    if (message->nlmsg_type != RTM_NEWROUTE || message->nlmsg_len < NLMSG_LENGTH(sizeof *found))
        return 0;
    *route = (struct cproc_route){.type = found->rtm_type};
    route->ifindex = (int)netlink_u32(netlink_attribute(message, sizeof *found, RTA_OIF));
    read_address(netlink_attribute(message, sizeof *found, RTA_GATEWAY), found->rtm_family, route->ifindex, &route->gateway);
    read_address(netlink_attribute(message, sizeof *found, RTA_PREFSRC), found->rtm_family, route->ifindex, &route->preferred_source);
    // An IPv4 route through an IPv6 gateway (RFC 5549) carries the family beside the address.
    const struct nlattr *via = netlink_attribute(message, sizeof *found, RTA_VIA);
    if (via && netlink_length(via) >= sizeof(struct rtvia) + 16) {
        const struct rtvia *gateway = netlink_data(via);
        route->gateway = (struct cproc_endpoint){.family = gateway->rtvia_family, .scope = (uint32_t)route->ifindex};
        memcpy(route->gateway.address, gateway->rtvia_addr, 16);
    }
    return 0;
}

int cproc_route_get(int netlink, const struct cproc_endpoint *destination, struct cproc_route *out) {
    size_t length = address_length(destination->family);
    if (length == 0)
        return -EAFNOSUPPORT;
    struct netlink_request request;
    struct rtmsg *query = netlink_begin(&request, RTM_GETROUTE, 0, sizeof *query);
    query->rtm_family = (uint8_t)destination->family;
    query->rtm_dst_len = (uint8_t)(length * 8);
    netlink_put(&request, RTA_DST, destination->address, length);
    if (destination->scope)
        netlink_put(&request, RTA_OIF, &destination->scope, sizeof destination->scope);
    *out = (struct cproc_route){0};
    return netlink_talk(netlink, &request, each_route, out);
}

struct address_dump {
    int netlink;
    int ifindex, up; // the interface of the last address; they come grouped
    int (*each)(const struct cproc_endpoint *address, int prefix, int ifindex, void *context);
    void *context;
};

/// Interface ioctls work on any socket and concern its namespace, not the thread's (sock_do_ioctl in net/socket.c).
static int interface_is_up(int socket, int ifindex) {
    struct ifreq request = {.ifr_ifindex = ifindex};
    if (ioctl(socket, SIOCGIFNAME, &request) < 0 || ioctl(socket, SIOCGIFFLAGS, &request) < 0)
        return 0; // it has just gone
    return (request.ifr_flags & IFF_UP) != 0;
}

static int each_address(const struct nlmsghdr *message, void *context) {
    struct address_dump *dump = context;
    const struct ifaddrmsg *found = NLMSG_DATA(message);
    if (message->nlmsg_type != RTM_NEWADDR || message->nlmsg_len < NLMSG_LENGTH(sizeof *found))
        return 0;
    int ifindex = (int)found->ifa_index;
    if (ifindex != dump->ifindex) {
        dump->ifindex = ifindex;
        dump->up = interface_is_up(dump->netlink, ifindex);
    }
    if (!dump->up)
        return 0;
    // On a point-to-point link IFA_ADDRESS is the other end's.
    const struct nlattr *attribute = netlink_attribute(message, sizeof *found, IFA_LOCAL);
    if (!attribute)
        attribute = netlink_attribute(message, sizeof *found, IFA_ADDRESS);
    struct cproc_endpoint address = {0};
    read_address(attribute, found->ifa_family, ifindex, &address);
    return address.family ? dump->each(&address, found->ifa_prefixlen, ifindex, dump->context) : 0;
}

int cproc_addresses(int netlink, int (*each)(const struct cproc_endpoint *address, int prefix, int ifindex, void *context), void *context) {
    struct netlink_request request;
    netlink_begin(&request, RTM_GETADDR, NLM_F_DUMP, sizeof(struct ifaddrmsg)); // family 0: all
    struct address_dump dump = {.netlink = netlink, .each = each, .context = context};
    int answer = netlink_talk(netlink, &request, each_address, &dump);
    return answer == NETLINK_INTERRUPTED ? -EAGAIN : answer;
}

static int change_address(int netlink, uint16_t type, uint16_t flags, int ifindex, const struct cproc_endpoint *address, int prefix) {
    size_t length = address_length(address->family);
    if (length == 0)
        return -EAFNOSUPPORT;
    struct netlink_request request;
    struct ifaddrmsg *message = netlink_begin(&request, type, flags, sizeof *message);
    *message = (struct ifaddrmsg){.ifa_family = (uint8_t)address->family,
                                  .ifa_prefixlen = (uint8_t)prefix,
                                  .ifa_flags = IFA_F_NODAD,
                                  .ifa_scope = ifindex == LOOPBACK_INTERFACE ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE,
                                  .ifa_index = (uint32_t)ifindex};
    netlink_put(&request, IFA_LOCAL, address->address, length);
    netlink_put(&request, IFA_ADDRESS, address->address, length);
    return netlink_talk(netlink, &request, NULL, NULL);
}

int cproc_address_add(int netlink, int ifindex, const struct cproc_endpoint *address, int prefix) {
    return change_address(netlink, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, ifindex, address, prefix);
}

int cproc_address_delete(int netlink, int ifindex, const struct cproc_endpoint *address, int prefix) {
    return change_address(netlink, RTM_DELADDR, 0, ifindex, address, prefix);
}

/// "fwmark MARK lookup TABLE", to be added or deleted.
static int mark_rule(int netlink, uint16_t type, uint16_t flags, uint16_t family, uint32_t mark, uint32_t table, uint32_t priority) {
    struct netlink_request request;
    struct fib_rule_hdr *rule = netlink_begin(&request, type, flags, sizeof *rule);
    rule->family = (uint8_t)family;
    rule->action = FR_ACT_TO_TBL;
    netlink_put(&request, FRA_TABLE, &table, sizeof table);
    netlink_put(&request, FRA_FWMARK, &mark, sizeof mark);
    netlink_put(&request, FRA_PRIORITY, &priority, sizeof priority);
    return netlink_talk(netlink, &request, NULL, NULL);
}

/// "local default dev lo table TABLE", to be added or deleted.
static int local_route(int netlink, uint16_t type, uint16_t flags, uint16_t family, uint32_t table) {
    struct netlink_request request;
    struct rtmsg *route = netlink_begin(&request, type, flags, sizeof *route);
    uint32_t loopback = LOOPBACK_INTERFACE;
    route->rtm_family = (uint8_t)family;
    route->rtm_type = RTN_LOCAL;
    route->rtm_scope = RT_SCOPE_HOST;
    route->rtm_protocol = RTPROT_STATIC;
    netlink_put(&request, RTA_TABLE, &table, sizeof table);
    netlink_put(&request, RTA_OIF, &loopback, sizeof loopback);
    return netlink_talk(netlink, &request, NULL, NULL);
}

int cproc_mark_local_add(int netlink, uint16_t family, uint32_t mark, uint32_t table, uint32_t priority) {
    // Without NLM_F_EXCL a second rule just like the first one would be added (fib_nl_newrule in net/core/fib_rules.c).
    const uint16_t once = NLM_F_CREATE | NLM_F_EXCL;
    int error = local_route(netlink, RTM_NEWROUTE, once, family, table);
    if (error < 0 && error != -EEXIST)
        return error;
    error = mark_rule(netlink, RTM_NEWRULE, once, family, mark, table, priority);
    return error == -EEXIST ? 0 : error;
}

int cproc_mark_local_delete(int netlink, uint16_t family, uint32_t mark, uint32_t table, uint32_t priority) {
    int rule = mark_rule(netlink, RTM_DELRULE, 0, family, mark, table, priority);
    int route = local_route(netlink, RTM_DELROUTE, 0, family, table);
    if (rule < 0 && rule != -ENOENT)
        return rule;
    return route == -ESRCH ? 0 : route;
}

int cproc_ifindex(const char *name) {
    unsigned index = if_nametoindex(name);
    return index ? (int)index : -errno;
}

int cproc_ifname(int ifindex, char name[16]) {
    return if_indextoname((unsigned)ifindex, name) ? 0 : -errno;
}
