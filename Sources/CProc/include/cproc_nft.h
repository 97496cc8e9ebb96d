// nftables set and map elements by raw nfnetlink batches: microseconds where the nft program takes milliseconds.
// Tables, chains and rules are loaded once with the nft program; only elements change while a session is in flight.
#pragma once

#include <stdint.h>
#include "cproc_socket.h"

/// A NETLINK_NETFILTER socket of the calling thread's namespace.
int cproc_nft_open(void);

/// One change: `add` 1 or 0, in `set` of the table; key = client address . client port . service address . service port, every field padded
/// to 4 bytes as nft does for concatenations. With `data_length` 4 or 16 the set is a map and `data` the next hop's address (not needed on
/// delete).
struct cproc_nft_change {
    uint8_t add;
    char set[16];
    struct cproc_endpoint client, service;
    uint8_t data_length;
    uint8_t data[16];
};
/// Applies all changes, in order, as one transaction of family `netdev` (NFPROTO_NETDEV) on `table`: all or nothing. ENOENT: no such table,
/// set or element. Adding what is there already is no error; a map's element with another `data` is (EBUSY or EEXIST): delete it earlier in
/// the same batch.
int cproc_nft_apply(int netlink, const char *table, const struct cproc_nft_change *changes, uint32_t count);
