// A session of Apache as a value: what libsc carries from one Apache to the next.
#pragma once

#include "journal.h"

/// The form of the bytes below.
#define CONTINUATION_VERSION 2

/// Where the client stands in a chunked body.
struct chunked {
    uint64_t skip;  // payload bytes that it has
    uint64_t rest;  // bytes that are left of the interrupted chunk
    uint8_t is_active;   // it has the whole head
    uint8_t is_terminal; // the last chunk has begun
    uint8_t before_length, after_length;
    char before[24]; // the rest of a size line, or of the last chunk
    char after[8];   // what is left of the CRLF behind a chunk's payload
};

/// The TLS 1.3 connection around it; `request` is ciphertext then.
struct continuation_tls {
    uint8_t is_active, fragment;
    uint16_t suite;
    uint32_t pending_length; // of the record that has begun to leave
    uint64_t in_number;      // of the record at the first byte of `request`
    uint64_t in_skip;        // bytes of its plaintext, and of those after it, that were answered
    uint64_t out_number;     // of the next record
    uint8_t client[SC_TLS_SECRET], server[SC_TLS_SECRET];
    char name[SC_TLS_NAME];
    const uint8_t *pending; // borrowed
};

struct continuation {
    uint32_t keepalives;
    uint32_t request_length; // bytes of requests that are to be answered (again)
    uint32_t head_length;    // bytes of the head of the response that is under way
    uint8_t has_response, head_done, kind, reserved;
    uint64_t sent; // bytes of that response which the client has, head included
    struct body body;
    struct chunked chunked;
    struct continuation_tls tls;
    const char *request, *head; // borrowed
};

/// Reads the slot, which nobody changes meanwhile; `written` is the position in the socket's stream up to which the kernel has taken the output.
/// NULL, or why the session cannot be continued elsewhere; the text is static or in `words`.
const char *continuation_take(const struct region *region, struct slot *slot, int64_t written, struct continuation *out, char words[static 160]);

// tls_state.c: what concerns the TLS connection.
const char *tls_obstacle(const struct slot *slot);
/// `written` becomes the plaintext position up to which the client will have got the output. NULL, or why it cannot be told.
const char *tls_take(const struct region *region, const struct slot *slot, int64_t *written, struct continuation_tls *out);
/// The position of the first byte of input that has to go along when the plaintext from `from` on is not answered.
uint64_t tls_begin(const struct slot *slot, int64_t from, struct continuation_tls *out);
/// NULL, or the record between `before` and `record`, which has begun to leave, is not of these keys under this number.
const char *tls_verify(const struct region *region, const struct slot *slot, const struct tls_record *before, const struct tls_record *record);
/// Bytes that continuation_tls takes, those that are pending included.
size_t tls_length(const struct continuation_tls *in);
void tls_encode(const struct continuation_tls *in, unsigned char *bytes);
bool tls_decode(const unsigned char *bytes, size_t length, struct continuation_tls *out);
/// Wipes the keys in the bytes of a continuation, if there are any.
void tls_wipe(unsigned char *bytes, size_t length);

/// What stands in the way of a session, for who asks before it is to move.
struct outlook {
    const char *why;  // NULL: nothing; static, or in `words`
    bool is_lasting;  // until the connection ends
    uint64_t request; // the position of the request that is in the way, unless it lasts
    char words[160];
};

/// Reads a slot that is in use. False: it has changed meanwhile, and nothing is known.
bool continuation_look(const struct region *region, const struct slot *slot, struct outlook *out);

/// Into `bytes`; the length, or -1 when it is more than `room`.
long continuation_encode(const struct continuation *in, unsigned char *bytes, size_t room);

/// `out` points into `bytes`. False: it is not a continuation.
bool continuation_decode(const unsigned char *bytes, size_t length, struct continuation *out);
