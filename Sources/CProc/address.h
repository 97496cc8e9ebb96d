// Between struct cproc_endpoint and the kernel's socket addresses.
#pragma once

#include <netinet/in.h>

#include "cproc_socket.h"

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_storage storage;
};

/// The bytes of an address of the family: 4 or 16; 0 for a family that has none.
static inline size_t address_length(uint16_t family) {
    return family == AF_INET ? 4 : family == AF_INET6 ? 16 : 0;
}

/// Fills `address` and returns its length, or -EAFNOSUPPORT.
int address_from_endpoint(const struct cproc_endpoint *endpoint, union address *address);
void endpoint_from_address(const union address *address, struct cproc_endpoint *endpoint);
