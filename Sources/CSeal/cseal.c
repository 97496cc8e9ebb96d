// What sealing an image to a public key takes from libcrypto.

#include "cseal.h"

#include <errno.h>
#include <limits.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct cseal {
    EVP_CIPHER_CTX *context;
    int is_encrypting;
};

int cseal_random(void *bytes, size_t length) {
    size_t done = 0;
    while (done < length) {
        ssize_t count = getrandom((char *)bytes + done, length - done, 0);
        if (count < 0 && errno != EINTR)
            return -errno;
        if (count > 0)
            done += (size_t)count;
    }
    return 0;
}

int cseal_public_key(const uint8_t secret[CSEAL_KEY], uint8_t public_key[CSEAL_KEY]) {
    size_t length = CSEAL_KEY;
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, secret, CSEAL_KEY);
    int is_good = key && EVP_PKEY_get_raw_public_key(key, public_key, &length) == 1;
    EVP_PKEY_free(key);
    return is_good ? 0 : -EIO;
}

int cseal_make_key(uint8_t secret[CSEAL_KEY], uint8_t public_key[CSEAL_KEY]) {
    int made = cseal_random(secret, CSEAL_KEY);
    return made < 0 ? made : cseal_public_key(secret, public_key);
}

static int hkdf(const uint8_t *from, size_t from_length, const uint8_t *salt, size_t salt_length, const char *info, uint8_t key[CSEAL_KEY]) {
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *context = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, "SHA256", 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)from, from_length),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)salt, salt_length),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)info, strlen(info)),
        OSSL_PARAM_construct_end(),
    };
    int is_good = context && EVP_KDF_derive(context, key, CSEAL_KEY, parameters) == 1;
    EVP_KDF_CTX_free(context);
    EVP_KDF_free(kdf);
    return is_good ? 0 : -EIO;
}

int cseal_derive(const uint8_t from[CSEAL_KEY], const uint8_t *salt, size_t salt_length, const char *info, uint8_t key[CSEAL_KEY]) {
    return hkdf(from, CSEAL_KEY, salt, salt_length, info, key);
}

int cseal_agree(const uint8_t secret[CSEAL_KEY], const uint8_t public_key[CSEAL_KEY], const uint8_t *salt, size_t salt_length, const char *info,
                uint8_t key[CSEAL_KEY]) {
    uint8_t shared[CSEAL_KEY];
    size_t length = sizeof shared;
    EVP_PKEY *own = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, secret, CSEAL_KEY);
    EVP_PKEY *other = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, public_key, CSEAL_KEY);
    EVP_PKEY_CTX *context = own && other ? EVP_PKEY_CTX_new(own, NULL) : NULL;
    int result = -EIO;
    if (context && EVP_PKEY_derive_init(context) == 1 && EVP_PKEY_derive_set_peer(context, other) == 1)
        // libcrypto refuses a result of zeros, which every key of low order gives (RFC 7748 section 6.1).
        result = EVP_PKEY_derive(context, shared, &length) == 1 ? hkdf(shared, length, salt, salt_length, info, key) : -EINVAL;
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(own);
    EVP_PKEY_free(other);
    OPENSSL_cleanse(shared, sizeof shared);
    return result;
}

struct cseal *cseal_new(const uint8_t key[CSEAL_KEY], int is_encrypting) {
    struct cseal *handle = calloc(1, sizeof *handle);
    if (!handle)
        return NULL;
    handle->is_encrypting = is_encrypting;
    handle->context = EVP_CIPHER_CTX_new();
    if (handle->context && EVP_CipherInit_ex(handle->context, EVP_chacha20_poly1305(), NULL, key, NULL, is_encrypting) == 1)
        return handle;
    cseal_free(handle);
    return NULL;
}

void cseal_free(struct cseal *handle) {
    if (!handle)
        return;
    EVP_CIPHER_CTX_free(handle->context);
    free(handle);
}

int cseal_encrypt(struct cseal *handle, const uint8_t nonce[CSEAL_NONCE], const uint8_t *input, size_t length, uint8_t *output) {
    int count = 0, rest = 0;
    if (length > INT_MAX || !handle->is_encrypting)
        return -EINVAL;
    int is_good = EVP_CipherInit_ex(handle->context, NULL, NULL, NULL, nonce, 1) == 1 &&
                  EVP_CipherUpdate(handle->context, output, &count, input, (int)length) == 1 &&
                  EVP_CipherFinal_ex(handle->context, output + count, &rest) == 1 &&
                  EVP_CIPHER_CTX_ctrl(handle->context, EVP_CTRL_AEAD_GET_TAG, CSEAL_TAG, output + length) == 1;
    return is_good ? 0 : -EIO;
}

int cseal_decrypt(struct cseal *handle, const uint8_t nonce[CSEAL_NONCE], const uint8_t *input, size_t length, uint8_t *output) {
    int count = 0, rest = 0;
    if (length < CSEAL_TAG || length > INT_MAX || handle->is_encrypting)
        return -EINVAL;
    size_t text = length - CSEAL_TAG;
    if (EVP_CipherInit_ex(handle->context, NULL, NULL, NULL, nonce, 0) != 1 ||
        EVP_CIPHER_CTX_ctrl(handle->context, EVP_CTRL_AEAD_SET_TAG, CSEAL_TAG, (void *)(input + text)) != 1 ||
        EVP_CipherUpdate(handle->context, output, &count, input, (int)text) != 1)
        return -EIO;
    return EVP_CipherFinal_ex(handle->context, output + count, &rest) == 1 ? 0 : -EBADMSG;
}

void cseal_cleanse(void *memory, size_t length) { OPENSSL_cleanse(memory, length); }
