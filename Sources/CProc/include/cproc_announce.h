// Announcing to a link that an address has moved to this host: gratuitous ARP and unsolicited neighbour advertisements, built by libnet.
#pragma once

#include "cproc_socket.h"

/// Tells every machine on the link of interface `ifindex` that `address` is at this interface: for IPv4 an ARP request and a reply that ask
/// for and give the own address (RFC 5227 section 3; some listen to one, some to the other), for IPv6 a neighbour advertisement with the
/// override flag to ff02::1 (RFC 4861 section 7.2.6). `packet` is an AF_PACKET SOCK_RAW socket of the interface's namespace (CAP_NET_RAW),
/// made in advance with protocol 0, so that it receives nothing.
int cproc_announce(int packet, int ifindex, const struct cproc_endpoint *address);
