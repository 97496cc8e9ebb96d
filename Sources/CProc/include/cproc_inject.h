// Crafted TCP segments, built by libnet and sent to the own host as if they came from the peer (raw sockets, CAP_NET_RAW).
#pragma once

#include "cproc_socket.h"

enum { CPROC_TCP_FIN = 0x01, CPROC_TCP_RST = 0x04, CPROC_TCP_ACK = 0x10 };

/// A libnet context and a raw socket of the family (AF_INET or AF_INET6) in the calling thread's namespace (use cproc_in_netns), for any thread but one at
/// a time. Keep it for many segments: opening one for each packet costs more than the packet. `*out` is set on success only.
struct cproc_injector;
int cproc_injector_open(uint16_t family, struct cproc_injector **out);
void cproc_injector_close(struct cproc_injector *injector);

/// Sends one segment without payload from `source` to `destination`. IPv4-mapped endpoints must be unmapped first.
/// `mark` != 0 is the segment's SO_MARK.
int cproc_inject(struct cproc_injector *injector, const struct cproc_endpoint *source, const struct cproc_endpoint *destination,
                 uint32_t seq, uint32_t ack, uint8_t flags, uint16_t window, uint32_t mark);
