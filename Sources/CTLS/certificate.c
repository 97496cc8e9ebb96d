// Keys and certificates that sign themselves: made, read, and compared.
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>

#include "pem.h"

EVP_PKEY *ctls_parse_key(const char *pem, size_t length) {
    BIO *memory = BIO_new_mem_buf(pem, (int)length);
    EVP_PKEY *key = memory ? PEM_read_bio_PrivateKey(memory, NULL, NULL, "") : NULL;
    BIO_free(memory);
    ERR_clear_error();
    return key;
}

X509 *ctls_parse_certificate(const char *pem, size_t length) {
    BIO *memory = BIO_new_mem_buf(pem, (int)length);
    X509 *certificate = memory ? PEM_read_bio_X509(memory, NULL, NULL, "") : NULL;
    BIO_free(memory);
    ERR_clear_error();
    return certificate;
}

static int64_t seconds(const ASN1_TIME *time) {
    struct tm parts;
    return ASN1_TIME_to_tm(time, &parts) == 1 ? timegm(&parts) : 0;
}

int ctls_describe(X509 *certificate, struct ctls_certificate *out) {
    unsigned length = sizeof out->fingerprint;
    if (X509_digest(certificate, EVP_sha256(), out->fingerprint, &length) != 1)
        return -EIO;
    out->not_before = seconds(X509_get0_notBefore(certificate));
    out->not_after = seconds(X509_get0_notAfter(certificate));
    return 0;
}

/// Copies what was written to a memory BIO, and wipes it there.
static ssize_t take(BIO *memory, int written, char *out, size_t capacity) {
    char *bytes;
    long length = BIO_get_mem_data(memory, &bytes);
    ssize_t answer = written != 1 ? -EIO : (size_t)length > capacity ? -ENOSPC : length;
    if (answer > 0)
        memcpy(out, bytes, (size_t)length);
    if (length > 0)
        OPENSSL_cleanse(bytes, (size_t)length);
    BIO_free(memory);
    return answer;
}

ssize_t ctls_make_key(char *pem, size_t capacity) {
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    BIO *memory = BIO_new(BIO_s_mem());
    if (!key || !memory) {
        EVP_PKEY_free(key);
        BIO_free(memory);
        return -ENOMEM;
    }
    ssize_t answer = take(memory, PEM_write_bio_PrivateKey(memory, key, NULL, NULL, 0, NULL, NULL), pem, capacity);
    EVP_PKEY_free(key);
    return answer;
}

static int fill(X509 *certificate, EVP_PKEY *key, const char *name, int64_t not_before, int64_t not_after) {
    unsigned char number[16];
    if (RAND_bytes(number, sizeof number) != 1)
        return 0;
    number[0] &= 0x7f;
    BIGNUM *serial = BN_bin2bn(number, sizeof number, NULL);
    int done = serial && BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(certificate));
    BN_free(serial);
    X509_NAME *subject = X509_get_subject_name(certificate);
    done = done && X509_set_version(certificate, X509_VERSION_3) &&
           X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0) &&
           X509_set_issuer_name(certificate, subject) && ASN1_TIME_set(X509_getm_notBefore(certificate), not_before) &&
           ASN1_TIME_set(X509_getm_notAfter(certificate), not_after) && X509_set_pubkey(certificate, key);
    const struct {
        int nid;
        const char *value;
    } extensions[] = {{NID_basic_constraints, "critical,CA:FALSE"}, {NID_key_usage, "critical,digitalSignature"},
                      {NID_ext_key_usage, "serverAuth,clientAuth"}};
    for (size_t i = 0; done && i < sizeof extensions / sizeof *extensions; i++) {
        X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, extensions[i].nid, extensions[i].value);
        done = extension && X509_add_ext(certificate, extension, -1);
        X509_EXTENSION_free(extension);
    }
    return done && X509_sign(certificate, key, NULL) > 0;
}

ssize_t ctls_make_certificate(const char *key_pem, size_t key_length, const char *name, int64_t not_before, int64_t not_after, char *pem,
                              size_t capacity) {
    EVP_PKEY *key = ctls_parse_key(key_pem, key_length);
    if (!key)
        return -EINVAL;
    X509 *certificate = X509_new();
    BIO *memory = BIO_new(BIO_s_mem());
    ssize_t answer = -EIO;
    if (certificate && memory && fill(certificate, key, name, not_before, not_after)) {
        answer = take(memory, PEM_write_bio_X509(memory, certificate), pem, capacity);
        memory = NULL;
    }
    BIO_free(memory);
    X509_free(certificate);
    EVP_PKEY_free(key);
    ERR_clear_error();
    return answer;
}

int ctls_read_certificate(const char *pem, size_t length, struct ctls_certificate *out) {
    X509 *certificate = ctls_parse_certificate(pem, length);
    if (!certificate)
        return -EINVAL;
    int answer = ctls_describe(certificate, out);
    X509_free(certificate);
    return answer;
}

int ctls_check_key(const char *key_pem, size_t key_length, const char *pem, size_t length) {
    EVP_PKEY *key = ctls_parse_key(key_pem, key_length);
    X509 *certificate = ctls_parse_certificate(pem, length);
    int answer = !key || !certificate ? -EINVAL : X509_check_private_key(certificate, key) == 1 ? 0 : CTLS_MISMATCH;
    EVP_PKEY_free(key);
    X509_free(certificate);
    ERR_clear_error();
    return answer;
}

void ctls_cleanse(void *memory, size_t length) { OPENSSL_cleanse(memory, length); }
