// The packets between libsc and the agent of its host. Not for servers: they include sc.h.
//
// A SOCK_SEQPACKET Unix socket (servers.sock in the run directory). Each packet is one message: struct sc_wire_head, the message's own fixed part,
// then its bytes. Both ends are on one host, so numbers are in its byte order. A length that is not the packet's own ends the connection.
// The table of messages is in docs/libsc.md.
#pragma once

#include <stdint.h>

#define SC_WIRE_MAGIC 0x31306373u // "sc01"
/// The versions of this protocol that this code speaks.
#define SC_WIRE_OLDEST 1
#define SC_WIRE_NEWEST 5 // 2: MEMORY, DIFFERS; 3: JOIN, PART, and channels that are no TCP connections; 4: REPEAT, for each channel; 5: PIN, ROOM, and states in memory files

#define SC_WIRE_NAME 64     // a service's name, with its NUL
#define SC_WIRE_ROLE 32     // a role, with its NUL
#define SC_WIRE_CHANNELS 8  // of one continuation
#define SC_WIRE_STATE 65536 // bytes of exported state in a packet; a longer one comes in a sealed memory file
#define SC_WIRE_PART 32     // what a process does in a session of several, with its NUL
#define SC_WIRE_GROUP 16    // the name of such a session
#define SC_WIRE_REASON 200  // a sentence for a person, with its NUL
/// The largest packet.
#define SC_WIRE_MAX (SC_WIRE_STATE + 1024)

enum sc_wire_type {
    // server to agent
    SC_WIRE_HELLO = 1,
    SC_WIRE_ASSOCIATE = 2, // with one descriptor
    SC_WIRE_DISSOCIATE = 3,
    SC_WIRE_END = 4,
    SC_WIRE_PARKED = 5,  // then the state, or with one descriptor: of its file
    SC_WIRE_REFUSED = 6, // not parked, offer declined, not imported
    SC_WIRE_OFFERS = 7,
    SC_WIRE_ACCEPTED = 8,
    SC_WIRE_READY = 9,
    SC_WIRE_MEMORY = 16,  // with one descriptor: the memory of sc_memory.h
    SC_WIRE_DIFFERS = 17, // a successor's output is not what the client has; the session has been ended
    SC_WIRE_JOIN = 18,    // before the first ASSOCIATE
    SC_WIRE_PIN = 19,     // it cannot move; without a text: it can again
    SC_WIRE_ROOM = 20,    // the most bytes of its state
    // agent to server
    SC_WIRE_WELCOME = 32,
    SC_WIRE_UNWELCOME = 33, // then the agent closes
    SC_WIRE_PARK = 34,
    SC_WIRE_RESUME = 35, // a parked session stays; an imported one is live
    SC_WIRE_GONE = 36,   // a parked session has moved; an accepted one does not come
    SC_WIRE_OFFER = 37,
    SC_WIRE_IMPORT = 38, // with one descriptor for each channel, then the state, or one descriptor more: of its file
    SC_WIRE_REPEAT = 39, // before IMPORT: struct sc_memory_repeat and its bytes follow
    SC_WIRE_TAKE_PART = 40, // before OFFER: what the process would become
};

/// Before every message. `continuation`: the server's number for it; of OFFER and ACCEPTED the agent's number for the offer.
struct sc_wire_head {
    uint32_t type, length; // of the whole packet
    uint64_t continuation;
};

struct sc_wire_hello {
    struct sc_wire_head head;
    uint32_t magic;
    uint16_t oldest, newest; // versions of this protocol
    uint32_t state_version, flags;
    char service[SC_WIRE_NAME];
};

struct sc_wire_welcome {
    struct sc_wire_head head;
    uint32_t version, pid;
};

struct sc_wire_memory {
    struct sc_wire_head head;
    uint32_t version, stride; // of sc_memory.h
};

/// Of UNWELCOME, REFUSED, DIFFERS and PIN.
struct sc_wire_reason {
    struct sc_wire_head head;
    int32_t error; // a positive errno
    char text[SC_WIRE_REASON];
};

/// The server held the session still when it told this (a former agent had asked for that).
#define SC_WIRE_IS_PARKED 1u

struct sc_wire_associate {
    struct sc_wire_head head;
    uint32_t channel; // its index in the continuation
    int32_t fd;       // the server's number for the descriptor
    uint32_t flags, reserved;
    char role[SC_WIRE_ROLE];
};

/// Of JOIN and TAKE_PART.
struct sc_wire_part {
    struct sc_wire_head head;
    uint8_t group[SC_WIRE_GROUP];
    char part[SC_WIRE_PART];
};

struct sc_wire_channel {
    struct sc_wire_head head;
    uint32_t channel, reserved;
};

struct sc_wire_repeat {
    struct sc_wire_head head;
    char role[SC_WIRE_ROLE]; // of the channel
};

struct sc_wire_parked {
    struct sc_wire_head head;
    uint32_t state_version, state_length;
};

struct sc_wire_room {
    struct sc_wire_head head;
    uint32_t bytes, reserved;
};

struct sc_wire_offers {
    struct sc_wire_head head;
    uint32_t accepts, reserved;
};

struct sc_wire_accepted {
    struct sc_wire_head head; // the offer
    uint64_t continuation;    // the server's number for what will come
};

struct sc_wire_park {
    struct sc_wire_head head;
    uint32_t deadline_ms, reserved;
};

struct sc_wire_offer {
    struct sc_wire_head head;
    uint32_t state_bytes;     // at most
    uint32_t state_version;   // 0: not known
    char local[64], peer[64];       // IP:PORT, IPv6 in brackets
};

struct sc_wire_import {
    struct sc_wire_head head;
    uint32_t state_version, state_length, channels, reserved;
    char roles[SC_WIRE_CHANNELS][SC_WIRE_ROLE];
};
