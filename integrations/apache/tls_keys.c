// TLS 1.3 records: key schedule of the traffic secrets, sealing and opening.

#include "tls_keys.h"
#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <string.h>

/// The three suites that RFC 8446, 9.1 asks for.
struct tls_suite {
    uint16_t number;
    const char *name;
    const EVP_CIPHER *(*cipher)(void);
    const EVP_MD *(*hash)(void);
    size_t key, secret;
};
static const struct tls_suite suites[] = {
    {0x1301, "TLS_AES_128_GCM_SHA256", EVP_aes_128_gcm, EVP_sha256, 16, 32},
    {0x1302, "TLS_AES_256_GCM_SHA384", EVP_aes_256_gcm, EVP_sha384, 32, 48},
    {0x1303, "TLS_CHACHA20_POLY1305_SHA256", EVP_chacha20_poly1305, EVP_sha256, 32, 32},
};

/// Of the authentication tag, and of what is put around the content.
enum { TAG = 16, HEAD = 5 };

static const struct tls_suite *find(uint16_t number) {
    for (size_t i = 0; i < sizeof suites / sizeof *suites; i++)
        if (suites[i].number == number) return &suites[i];
    return NULL;
}

const char *tls_suite_name(uint16_t number) { return find(number) ? find(number)->name : NULL; }

size_t tls_secret_length(uint16_t number) { return find(number) ? find(number)->secret : 0; }

/// HKDF-Expand-Label with an empty context, of no more than one block of the hash.
static bool expand(const struct tls_keys *keys, const char *label, uint8_t *out, size_t length) {
    uint8_t info[32] = {0}, block[EVP_MAX_MD_SIZE];
    size_t named = strlen(label), used = 0;
    info[used++] = 0;
    info[used++] = (uint8_t)length;
    info[used++] = (uint8_t)(6 + named);
    memcpy(info + used, "tls13 ", 6);
    memcpy(info + used + 6, label, named);
    used += 6 + named;
    info[used++] = 0;
    info[used++] = 1; // the block's number
    bool result = HMAC(keys->suite->hash(), keys->secret, (int)keys->suite->secret, info, used, block, NULL) != NULL;
    memcpy(out, block, length);
    OPENSSL_cleanse(block, sizeof block);
    return result;
}

static bool schedule(struct tls_keys *keys) {
    uint8_t key[32];
    bool result = expand(keys, "key", key, keys->suite->key) && expand(keys, "iv", keys->iv, sizeof keys->iv)
                  && EVP_CipherInit_ex(keys->context, keys->suite->cipher(), NULL, key, NULL, keys->seals) == 1;
    OPENSSL_cleanse(key, sizeof key);
    return result;
}

bool tls_keys_init(struct tls_keys *keys, uint16_t suite, const uint8_t *secret, uint64_t number, bool seals) {
    *keys = (struct tls_keys){.context = EVP_CIPHER_CTX_new(), .suite = find(suite), .number = number, .seals = seals};
    if (keys->context == NULL || keys->suite == NULL) return false;
    memcpy(keys->secret, secret, keys->suite->secret);
    return schedule(keys);
}

bool tls_keys_update(struct tls_keys *keys) {
    uint8_t next[SC_TLS_SECRET];
    bool result = expand(keys, "traffic upd", next, keys->suite->secret);
    memcpy(keys->secret, next, keys->suite->secret);
    OPENSSL_cleanse(next, sizeof next);
    keys->number = 0;
    return result && schedule(keys);
}

void tls_keys_end(struct tls_keys *keys) {
    EVP_CIPHER_CTX_free(keys->context);
    OPENSSL_cleanse(keys, sizeof *keys);
}

/// Begins the next record: its nonce and its head are of no other.
static bool begin(struct tls_keys *keys, const uint8_t *head) {
    uint8_t nonce[12];
    int length;
    memcpy(nonce, keys->iv, sizeof nonce);
    for (int i = 0; i < 8; i++) nonce[11 - i] ^= (uint8_t)(keys->number >> 8 * i);
    keys->number++;
    return EVP_CipherInit_ex(keys->context, NULL, NULL, NULL, nonce, -1) == 1 && EVP_CipherUpdate(keys->context, NULL, &length, head, HEAD) == 1;
}

size_t tls_seal(struct tls_keys *keys, uint8_t type, const void *bytes, size_t length, uint8_t out[static SC_TLS_RECORD]) {
    size_t inner = length + 1, rest = inner + TAG;
    uint8_t head[HEAD] = {TLS_DATA, 3, 3, (uint8_t)(rest >> 8), (uint8_t)rest};
    int first, second, last;
    memcpy(out, head, sizeof head);
    bool result = begin(keys, head) && EVP_EncryptUpdate(keys->context, out + HEAD, &first, bytes, (int)length) == 1
                  && EVP_EncryptUpdate(keys->context, out + HEAD + first, &second, &type, 1) == 1
                  && EVP_EncryptFinal_ex(keys->context, out + HEAD + first + second, &last) == 1
                  && EVP_CIPHER_CTX_ctrl(keys->context, EVP_CTRL_AEAD_GET_TAG, TAG, out + HEAD + inner) == 1;
    return result ? HEAD + rest : 0;
}

long tls_open(struct tls_keys *keys, uint8_t *record, size_t length, uint8_t *type) {
    if (length < HEAD + TAG + 1) return -1;
    size_t inner = length - HEAD - TAG;
    uint8_t *content = record + HEAD;
    int first, last;
    bool result = begin(keys, record) && EVP_DecryptUpdate(keys->context, content, &first, content, (int)inner) == 1
                  && EVP_CIPHER_CTX_ctrl(keys->context, EVP_CTRL_AEAD_SET_TAG, TAG, content + inner) == 1
                  && EVP_DecryptFinal_ex(keys->context, content + first, &last) == 1;
    if (!result) return -1;
    while (inner > 0 && content[inner - 1] == 0) inner--;
    if (inner == 0) return -1;
    *type = content[inner - 1];
    return (long)inner - 1;
}
