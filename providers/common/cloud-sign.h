/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures that clouds ask for. Thread-safe; secrets are erased before functions return. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define SHA256_SIZE 32
#define SHA256_HEX_SIZE (2 * SHA256_SIZE + 1)

/* All return 0 or -ENOMEM, and what else is said. Strings are newly allocated. */

void sha256(const void *data, size_t size, uint8_t ret[static SHA256_SIZE]);
void sha256_hex(const void *data, size_t size, char ret[static SHA256_HEX_SIZE]);

typedef struct SignHeader {
        const char *name;       /* lower case */
        const char *value;
} SignHeader;

/**
 * sigv4_sign() - the value of the header Authorization, AWS Signature Version 4 (AWS Signature Version 4 signing process)
 * @path:    "/" or more, as it stands in the URL
 * @query:   as in the URL, escaped by url_escape() (cloud-form.h); "" for none
 * @headers: all that are signed, host and x-amz-date among them, in any order
 */
int sigv4_sign(const char *access_key, const char *secret_key, const char *region, const char *service, const char *method,
               const char *path, const char *query, const SignHeader *headers, size_t n_headers, const void *body, size_t body_size,
               char **ret);
/* sigv4_time() - "20150830T123600Z" */
void sigv4_time(time_t t, char ret[static 17]);

/* acs3_sign() - the value of the header Authorization, Alibaba Cloud signature V3 (ACS3-HMAC-SHA256); arguments as above, path "/",
 * @query already sorted by key; x-acs-content-sha256 must be among the headers */
int acs3_sign(const char *access_key, const char *secret_key, const char *method, const char *query, const SignHeader *headers,
              size_t n_headers, char **ret);

/**
 * jwt_rs256() - header.claims.signature (RFC 7515, RS256)
 * @key_pem: private key, PKCS#8 or PKCS#1 PEM
 * @key_id:  "kid", or NULL
 * @claims:  a JSON object
 *
 * Also -EINVAL: no RSA key.
 */
int jwt_rs256(const char *key_pem, const char *key_id, const char *claims, char **ret);
