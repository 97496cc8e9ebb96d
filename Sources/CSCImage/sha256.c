/* sha256.c - SHA-256 through libcrypto's EVP interface. */
#include "CSCImage.h"

#include <errno.h>
#include <openssl/evp.h>

/* struct csci_sha256 is an EVP_MD_CTX by another name, so that no OpenSSL header reaches Swift. */
static EVP_MD_CTX *context(struct csci_sha256 *sha)
{
    return (EVP_MD_CTX *)sha;
}

struct csci_sha256 *csci_sha256_new(void)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1)
        return (struct csci_sha256 *)ctx;
    EVP_MD_CTX_free(ctx);
    return NULL;
}

int csci_sha256_update(struct csci_sha256 *sha, const void *data, size_t length)
{
    return EVP_DigestUpdate(context(sha), data, length) == 1 ? 0 : -EIO;
}

int csci_sha256_final(struct csci_sha256 *sha, uint8_t digest[32])
{
    return EVP_DigestFinal_ex(context(sha), digest, NULL) == 1 ? 0 : -EIO;
}

void csci_sha256_free(struct csci_sha256 *sha)
{
    EVP_MD_CTX_free(context(sha));
}
