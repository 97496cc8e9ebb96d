// rtnetlink: neighbours, addresses, routes of the namespace the socket was made in.
#pragma once

#include <stdint.h>
#include "cproc_socket.h"

/// A NETLINK_ROUTE socket of the calling thread's namespace.
int cproc_rtnl_open(void);

/// Makes the neighbour `address` on interface `ifindex` permanent with `mac`: packets that wait for its resolution are sent at once, in
/// order.
int cproc_neigh_set(int netlink, int ifindex, const struct cproc_endpoint *address, const uint8_t mac[6]);
/// Removes the neighbour; packets that wait for it are dropped. One that does not exist is not an error.
int cproc_neigh_delete(int netlink, int ifindex, const struct cproc_endpoint *address);

/// The route to `destination` (RTM_GETROUTE): type (RTN_UNICAST 1, RTN_LOCAL 2, …), output interface, and gateway (family 0: on-link).
struct cproc_route {
    uint8_t type;
    int ifindex;
    struct cproc_endpoint gateway, preferred_source;
};
/// ENETUNREACH: no route.
int cproc_route_get(int netlink, const struct cproc_endpoint *destination, struct cproc_route *out);

/// Calls `each` for every address of every interface that is up (family, prefix length, interface index). `each` returns 0 to go on;
/// anything else is returned in the end. EAGAIN: addresses changed meanwhile, ask again.
int cproc_addresses(int netlink, int (*each)(const struct cproc_endpoint *address, int prefix, int ifindex, void *context), void *context);

/// Adds an address with its prefix length to interface `ifindex`, usable at once (no duplicate address detection), or removes it. EEXIST:
/// the interface has it; EADDRNOTAVAIL: it has not.
int cproc_address_add(int netlink, int ifindex, const struct cproc_endpoint *address, int prefix);
int cproc_address_delete(int netlink, int ifindex, const struct cproc_endpoint *address, int prefix);

/// A policy rule "packets with fwmark `mark` look up `table`" with priority `priority`, and in that table "everything is local, dev lo":
/// with it a transparent socket can speak to a server on this host under a client's address. `family` AF_INET or AF_INET6. Adding twice is
/// not an error, nor is deleting what is not there.
int cproc_mark_local_add(int netlink, uint16_t family, uint32_t mark, uint32_t table, uint32_t priority);
int cproc_mark_local_delete(int netlink, uint16_t family, uint32_t mark, uint32_t table, uint32_t priority);

/// if_nametoindex/if_indextoname in the calling thread's namespace.
int cproc_ifindex(const char *name);
int cproc_ifname(int ifindex, char name[16]);
