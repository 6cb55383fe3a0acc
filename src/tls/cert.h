/* SPDX-License-Identifier: Apache-2.0 */
/* Makes the key pair and the self-signed certificate that one end of one sandbox's TLS link uses. */
#pragma once

#include <stdint.h>

#include "basic/cleanup.h"

typedef enum CertUsage {
        CERT_SERVER,            /* the forwarder in the pod VM */
        CERT_CLIENT,            /* the agent proxy on the worker */
        _CERT_USAGE_MAX,
} CertUsage;

/* Each certificate is its own and only trust anchor at the other end, so that there is no CA key that could be lost or
 * misused. The profile is upstream's (cloud-api-adaptor: pkg/util/tlsutil): ECDSA P-256, CA:FALSE, valid for two years. */
typedef struct CertRequest {
        CertUsage usage;
        const char *organization;
        const char *name;       /* common name and DNS subject alternative name; NULL for none */
} CertRequest;

typedef struct CertPair {
        char *key;              /* PEM, PKCS#8 "PRIVATE KEY"; a secret, erased by cert_pair_done() */
        char *cert;             /* PEM, "CERTIFICATE" */
} CertPair;

#define CERT_PAIR_NULL ((CertPair) {})

/**
 * cert_pair_make() - make a key and a certificate for it
 * @ret: filled on success; cert_pair_done() erases and frees it
 *
 * Returns 0, -EINVAL (a name that does not fit into a certificate), -ENOMEM, or -EIO where GnuTLS fails otherwise.
 */
int cert_pair_make(const CertRequest *request, CertPair *ret);
void cert_pair_done(CertPair *pair);

/**
 * cert_pair_check() - see whether PEM texts from outside are a certificate (chain) and the private key of its first
 *
 * Returns 0, -EBADMSG (not PEM, or key and certificate do not belong together), -ENOMEM.
 */
int cert_pair_check(const char *key, const char *cert);

/**
 * cert_get_expiry() - when the first certificate of a PEM text ends, that is, when the whole is of no more use
 * @ret_usec: CLOCK_REALTIME
 *
 * Returns 0, -EBADMSG, -ENOMEM.
 */
int cert_get_expiry(const char *cert, uint64_t *ret_usec);

/** cert_check() - see whether a PEM text holds at least one certificate; 0, -EBADMSG, -ENOMEM. */
int cert_check(const char *cert);
