// What is written down of a TLS 1.3 connection beside the rest of its slot: keys, and where its records begin and end.
//
// Positions of requests and responses count plaintext. Those of the socket count ciphertext; the numbers here say how the two belong together.
#pragma once

#include <stdint.h>

#define SC_TLS_SECRET 48
#define SC_TLS_NAME 256
/// Records of the output that are remembered, and bytes of its ciphertext: more than what a connection holds back from the kernel.
#define SC_TLS_RECORDS 512
#define SC_TLS_CIPHER 131072
/// The most bytes of a record, with its head (RFC 8446, 5.2).
#define SC_TLS_RECORD (5 + 16384 + 256)

enum tls_state {
    TLS_NONE,
    TLS_SEEN,     // it cannot be followed, or not yet: `why`
    TLS_FOLLOWED,
};

enum tls_why {
    TLS_OFF,
    TLS_HANDSHAKE,
    TLS_VERSION,
    TLS_SUITE,
    TLS_CERTIFICATE, // of the client
    TLS_ASKED,       // for a certificate, after the handshake
    TLS_EARLY,
    TLS_KEYS,        // they have changed, or the client ends the TLS session
    TLS_COUNT,
};

struct tls {
    uint8_t why;
    uint8_t fragment; // the most content of a record to the client: 256 << fragment bytes (RFC 6066, 4); 0: 16384
    uint8_t reserved[4];
    uint16_t suite;
    uint8_t client[SC_TLS_SECRET], server[SC_TLS_SECRET]; // application_traffic_secret_0 of each direction
    uint64_t in_first;      // number of the record at the first byte that is kept of the input
    int64_t in_first_plain; // the plaintext position at which it begins
    uint64_t in_next;       // number of the one after all whole records that have come, and their ends
    uint64_t in_whole;
    int64_t in_plain;       // at most; what is padding shows when it is taken
    int64_t out_cipher;     // produced
    uint64_t out_handshake; // encrypted records before the first with the traffic secret
    uint64_t record_count;
    char name[SC_TLS_NAME]; // that the client asked for (SNI)
};

/// A record of the output: the positions behind it, and how many encrypted ones there are up to it.
struct tls_record {
    int64_t end, plain;
    uint64_t number;
};

/// Apart from the slot, since only TLS connections need it: pages that are not written take no memory.
struct tls_area {
    struct tls_record records[SC_TLS_RECORDS];
    uint8_t cipher[SC_TLS_CIPHER]; // the last bytes of the output, each at its position
};
_Static_assert(sizeof(struct tls_area) % 4096 == 0, "areas are given back by pages");
