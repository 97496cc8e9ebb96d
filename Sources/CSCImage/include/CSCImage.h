/*
 * CSCImage.h - what SCImage needs from C: generated messages, a bounded allocator for them, checksums.
 *
 * To decode a record: csci_arena_reset(a); m = sc__image__..._unpack(&a->allocator, len, data); copy what you need out of
 * m. There is nothing to free: the next reset frees all of it. NULL means malformed, or over budget when a->exceeded.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "archive.pb-c.h"
#include "end.pb-c.h"
#include "inventory.pb-c.h"
#include "local.pb-c.h"
#include "option.pb-c.h"
#include "session.pb-c.h"
#include "tcp.pb-c.h"
#include "wire.pb-c.h"

/* A bump allocator that never holds more than its budget. It lives at the start of its own mapping. */
struct csci_arena {
    ProtobufCAllocator allocator; /* for ..._unpack(); free() does nothing */
    size_t budget;                /* bytes that may be allocated between two resets */
    size_t used;                  /* bytes allocated since the last reset */
    bool exceeded;                /* an allocation was refused since the last reset */
};

/* Returns an arena, or NULL with no memory. Pages cost nothing until they are used. */
struct csci_arena *csci_arena_new(size_t budget);

/* Returns @size bytes aligned to 16, or NULL when that would exceed the budget. */
void *csci_arena_alloc(struct csci_arena *arena, size_t size);

/* Frees everything in the arena; gives pages back to the kernel after a record that was far larger than usual. */
void csci_arena_reset(struct csci_arena *arena);

/* Unmaps the arena; NULL is allowed. */
void csci_arena_free(struct csci_arena *arena);

/*
 * CRC32C (Castagnoli, RFC 3720 appendix B.4) of @length bytes, continuing @crc (0 to begin; the return value of one call is
 * the argument of the next). Uses SSE4.2 where the machine has it.
 */
uint32_t csci_crc32c(uint32_t crc, const void *data, size_t length);

/* The same by table, on any machine; exported for the tests to compare. */
uint32_t csci_crc32c_portable(uint32_t crc, const void *data, size_t length);

/* SHA-256 in pieces, by libcrypto (which uses the machine's SHA instructions). */
struct csci_sha256;

/* Returns a new computation, or NULL when libcrypto cannot give one. */
struct csci_sha256 *csci_sha256_new(void);

/* Adds @length bytes. Returns 0, or -EIO when libcrypto fails. */
int csci_sha256_update(struct csci_sha256 *sha, const void *data, size_t length);

/* Writes the 32 bytes of the digest; only csci_sha256_free() may follow. Returns 0, or -EIO. */
int csci_sha256_final(struct csci_sha256 *sha, uint8_t digest[32]);

/* Frees the computation; NULL is allowed. */
void csci_sha256_free(struct csci_sha256 *sha);

/* The descriptors of all messages of images/, for the test that none contains itself. Writes their number to @count. */
const ProtobufCMessageDescriptor *const *csci_descriptors(size_t *count);
