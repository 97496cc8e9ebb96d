// What certificate.c lends to connection.c.
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "ctls.h"

/// An unencrypted PEM private key, or NULL. The caller frees it, which wipes it.
EVP_PKEY *ctls_parse_key(const char *pem, size_t length);
/// A PEM certificate, or NULL.
X509 *ctls_parse_certificate(const char *pem, size_t length);
/// Fingerprint and validity. EIO: libcrypto cannot compute a SHA-256.
int ctls_describe(X509 *certificate, struct ctls_certificate *out);
