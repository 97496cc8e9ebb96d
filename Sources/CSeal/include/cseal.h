// What sealing an image to a public key takes from libcrypto: X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), ChaCha20-Poly1305 (RFC 8439).
//
// Functions return 0 or a value >= 0, or -errno. Nothing is kept between calls but in a `struct cseal`.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define CSEAL_KEY 32   ///< bytes of a key of any kind
#define CSEAL_NONCE 12 ///< bytes of a nonce
#define CSEAL_TAG 16   ///< bytes that a ciphertext is longer than its text

/// A new secret key and its public key.
int cseal_make_key(uint8_t secret[CSEAL_KEY], uint8_t public_key[CSEAL_KEY]);
/// The public key of a secret one.
int cseal_public_key(const uint8_t secret[CSEAL_KEY], uint8_t public_key[CSEAL_KEY]);
/// Random bytes by getrandom(2).
int cseal_random(void *bytes, size_t length);
/// X25519 of `secret` and `public_key`, and a key made of it: HKDF with these salt and info. EINVAL: the public key is of low order.
int cseal_agree(const uint8_t secret[CSEAL_KEY], const uint8_t public_key[CSEAL_KEY], const uint8_t *salt, size_t salt_length, const char *info,
                uint8_t key[CSEAL_KEY]);
/// A key made of another one by HKDF.
int cseal_derive(const uint8_t from[CSEAL_KEY], const uint8_t *salt, size_t salt_length, const char *info, uint8_t key[CSEAL_KEY]);

struct cseal;
/// ChaCha20-Poly1305 under one key, for encrypting or for decrypting; NULL when there is no memory.
struct cseal *cseal_new(const uint8_t key[CSEAL_KEY], int is_encrypting);
void cseal_free(struct cseal *handle);
/// Encrypts `length` bytes to `length + CSEAL_TAG` bytes of `output`. A nonce must not come twice under one key.
int cseal_encrypt(struct cseal *handle, const uint8_t nonce[CSEAL_NONCE], const uint8_t *input, size_t length, uint8_t *output);
/// Decrypts `length` bytes, tag included, to `length - CSEAL_TAG`. EBADMSG: they are not what was encrypted, and `output` is not to be used.
int cseal_decrypt(struct cseal *handle, const uint8_t nonce[CSEAL_NONCE], const uint8_t *input, size_t length, uint8_t *output);
/// Overwrites memory in a way that no compiler leaves out.
void cseal_cleanse(void *memory, size_t length);
