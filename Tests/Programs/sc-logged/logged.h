// What server and client of sc-logged agree on: every byte of an answer depends on all bytes before it.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cipher {
    uint64_t position, sum;
};

/// Answers `in` into `out`, which may be the same.
static inline void answer(struct cipher *cipher, const unsigned char *in, unsigned char *out, size_t length) {
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = in[i];
        out[i] = byte ^ (unsigned char)(cipher->sum >> 24);
        cipher->sum = cipher->sum * 6364136223846793005u + byte + 1;
    }
    cipher->position += length;
}

static inline uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * 0x2545f4914f6cdd1du;
}

int serve(const char *address, const char *port, int options, char **words);
int chain(bool is_rare);
int ask(const char *address, const char *port, int connections, uint64_t seed, uint64_t limit);
