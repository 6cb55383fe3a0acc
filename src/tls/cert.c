/* SPDX-License-Identifier: Apache-2.0 */
#include "tls/cert.h"

#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <string.h>
#include <time.h>

#include "basic/util.h"

#define CERT_NAME_MAX 253U                      /* RFC 1035, 2.3.4 */
#define CERT_COMMON_NAME_MAX 64U                /* RFC 5280, A.1, ub-common-name */
#define CERT_BACKDATE_SEC 300                   /* clocks of worker and pod VM may differ by a little */
#define CERT_LIFETIME_SEC (INT64_C(730) * 24 * 3600)
#define CERT_PEM_MAX (UINT32_C(1) << 20)
#define CERT_CHAIN_MAX 16U

DEFINE_CLEANUP(gnutls_x509_privkey_t, gnutls_x509_privkey_deinit);
DEFINE_CLEANUP(gnutls_x509_crt_t, gnutls_x509_crt_deinit);

static int gnutls_to_errno(int rc) {
        switch (rc) {
        case GNUTLS_E_MEMORY_ERROR:
                return -ENOMEM;
        case GNUTLS_E_INVALID_REQUEST:
        case GNUTLS_E_INVALID_UTF8_STRING:
        case GNUTLS_E_IDNA_ERROR:
                return -EINVAL;
        default:
                return -EIO;
        }
}

static void datum_erase(gnutls_datum_t *d) {
        if (d->data) {
                explicit_bzero(d->data, d->size);
                gnutls_free(d->data);
        }
        *d = (gnutls_datum_t) {};
}

static int datum_to_string(const gnutls_datum_t *d, char **ret) {
        char *s;

        s = strndup((const char*) d->data, d->size);
        if (!s)
                return -ENOMEM;

        *ret = s;
        return 0;
}

static int key_export(gnutls_x509_privkey_t key, char **ret) {
        _cleanup_(datum_erase) gnutls_datum_t pem = {};
        int rc;

        rc = gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_PEM, /* password= */ NULL, GNUTLS_PKCS_PLAIN, &pem);
        if (rc < 0)
                return gnutls_to_errno(rc);

        return datum_to_string(&pem, ret);
}

static int cert_set_serial(gnutls_x509_crt_t cert) {
        uint8_t serial[16];
        int rc;

        rc = gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof(serial));
        if (rc < 0)
                return rc;

        serial[0] = (serial[0] & 0x7f) | 0x40;  /* positive and of one length: RFC 5280, 4.1.2.2 */
        return gnutls_x509_crt_set_serial(cert, serial, sizeof(serial));
}

static int cert_set_names(gnutls_x509_crt_t cert, const CertRequest *q) {
        int rc;

        rc = gnutls_x509_crt_set_dn_by_oid(cert, GNUTLS_OID_X520_ORGANIZATION_NAME, /* raw= */ 0,
                                           q->organization, strlen(q->organization));
        if (rc < 0 || !q->name)
                return rc;

        /* Verifiers look at the alternative name; the common name is for people, and may be too short for the name. */
        rc = gnutls_x509_crt_set_dn_by_oid(cert, GNUTLS_OID_X520_COMMON_NAME, /* raw= */ 0,
                                           q->name, strnlen(q->name, CERT_COMMON_NAME_MAX));
        if (rc < 0)
                return rc;

        return gnutls_x509_crt_set_subject_alt_name(cert, GNUTLS_SAN_DNSNAME, q->name, strlen(q->name), GNUTLS_FSAN_SET);
}

static int cert_set_times(gnutls_x509_crt_t cert) {
        time_t now = time(NULL);
        int rc;

        rc = gnutls_x509_crt_set_activation_time(cert, now - CERT_BACKDATE_SEC);
        if (rc < 0)
                return rc;

        return gnutls_x509_crt_set_expiration_time(cert, now + CERT_LIFETIME_SEC);
}

static int cert_set_usage(gnutls_x509_crt_t cert, CertUsage usage) {
        static const char *const purposes[_CERT_USAGE_MAX] = {
                [CERT_SERVER] = GNUTLS_KP_TLS_WWW_SERVER,
                [CERT_CLIENT] = GNUTLS_KP_TLS_WWW_CLIENT,
        };
        int rc;

        rc = gnutls_x509_crt_set_basic_constraints(cert, /* ca= */ 0, /* pathLenConstraint= */ -1);
        if (rc < 0)
                return rc;

        /* keyCertSign without CA looks wrong, but is upstream's profile, which the Go forwarder takes as an anchor. */
        rc = gnutls_x509_crt_set_key_usage(cert, GNUTLS_KEY_DIGITAL_SIGNATURE | GNUTLS_KEY_KEY_CERT_SIGN);
        if (rc < 0)
                return rc;

        return gnutls_x509_crt_set_key_purpose_oid(cert, purposes[usage], /* critical= */ 0);
}

static int cert_set_key(gnutls_x509_crt_t cert, gnutls_x509_privkey_t key) {
        uint8_t id[64];
        size_t size = sizeof(id);
        int rc;

        rc = gnutls_x509_crt_set_key(cert, key);
        if (rc < 0)
                return rc;

        rc = gnutls_x509_privkey_get_key_id(key, GNUTLS_KEYID_USE_SHA1, id, &size);
        if (rc < 0)
                return rc;

        return gnutls_x509_crt_set_subject_key_id(cert, id, size);
}

static int cert_fill(gnutls_x509_crt_t cert, gnutls_x509_privkey_t key, const CertRequest *q) {
        int rc;

        rc = gnutls_x509_crt_set_version(cert, 3);
        if (rc >= 0)
                rc = cert_set_serial(cert);
        if (rc >= 0)
                rc = cert_set_names(cert, q);
        if (rc >= 0)
                rc = cert_set_times(cert);
        if (rc >= 0)
                rc = cert_set_usage(cert, q->usage);
        if (rc >= 0)
                rc = cert_set_key(cert, key);
        if (rc >= 0)
                rc = gnutls_x509_crt_sign2(cert, /* issuer= */ cert, key, GNUTLS_DIG_SHA256, /* flags= */ 0);

        return rc < 0 ? gnutls_to_errno(rc) : 0;
}

static int cert_export(gnutls_x509_crt_t cert, char **ret) {
        _cleanup_(datum_erase) gnutls_datum_t pem = {};
        int rc;

        rc = gnutls_x509_crt_export2(cert, GNUTLS_X509_FMT_PEM, &pem);
        if (rc < 0)
                return gnutls_to_errno(rc);

        return datum_to_string(&pem, ret);
}

int cert_pair_make(const CertRequest *q, CertPair *ret) {
        _cleanup_(gnutls_x509_privkey_deinitp) gnutls_x509_privkey_t key = NULL;
        _cleanup_(gnutls_x509_crt_deinitp) gnutls_x509_crt_t cert = NULL;
        _cleanup_(cert_pair_done) CertPair pair = CERT_PAIR_NULL;
        int rc, r;

        assert(q->usage < _CERT_USAGE_MAX);

        if (q->name && (q->name[0] == '\0' || strlen(q->name) > CERT_NAME_MAX))
                return -EINVAL;

        rc = gnutls_x509_privkey_init(&key);
        if (rc < 0)
                return gnutls_to_errno(rc);

        rc = gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
        if (rc < 0)
                return gnutls_to_errno(rc);

        rc = gnutls_x509_crt_init(&cert);
        if (rc < 0)
                return gnutls_to_errno(rc);

        r = cert_fill(cert, key, q);
        if (r < 0)
                return r;

        r = key_export(key, &pair.key);
        if (r < 0)
                return r;

        r = cert_export(cert, &pair.cert);
        if (r < 0)
                return r;

        *ret = pair;
        pair = CERT_PAIR_NULL;
        return 0;
}

void cert_pair_done(CertPair *pair) {
        if (pair->key)
                explicit_bzero(pair->key, strlen(pair->key));
        free(pair->key);
        free(pair->cert);
        *pair = CERT_PAIR_NULL;
}

int cert_check(const char *pem) {
        uint64_t usec;

        return cert_get_expiry(pem, &usec);
}

int cert_get_expiry(const char *pem, uint64_t *ret_usec) {
        const gnutls_datum_t d = { .data = (uint8_t*) pem, .size = strnlen(pem, CERT_PEM_MAX) };
        gnutls_x509_crt_t certs[CERT_CHAIN_MAX];
        uint64_t first = USEC_INFINITY;
        unsigned n = CERT_CHAIN_MAX;
        int rc;

        rc = gnutls_x509_crt_list_import(certs, &n, &d, GNUTLS_X509_FMT_PEM, GNUTLS_X509_CRT_LIST_IMPORT_FAIL_IF_EXCEED);
        if (rc < 0)
                return rc == GNUTLS_E_MEMORY_ERROR ? -ENOMEM : -EBADMSG;

        for (int i = 0; i < rc; i++) {
                time_t end = gnutls_x509_crt_get_expiration_time(certs[i]);

                first = MIN(first, end > 0 ? (uint64_t) end * USEC_PER_SEC : 0);
                gnutls_x509_crt_deinit(certs[i]);
        }
        if (rc == 0)
                return -EBADMSG;

        *ret_usec = first;
        return 0;
}

int cert_pair_check(const char *key, const char *cert) {
        const gnutls_datum_t k = { .data = (uint8_t*) key, .size = strnlen(key, CERT_PEM_MAX) };
        const gnutls_datum_t c = { .data = (uint8_t*) cert, .size = strnlen(cert, CERT_PEM_MAX) };
        gnutls_certificate_credentials_t credentials;
        int rc;

        rc = gnutls_certificate_allocate_credentials(&credentials);
        if (rc < 0)
                return gnutls_to_errno(rc);

        /* This is what the proxy does with them later, including the test that they belong together. */
        rc = gnutls_certificate_set_x509_key_mem2(credentials, &c, &k, GNUTLS_X509_FMT_PEM, /* password= */ NULL, 0);
        gnutls_certificate_free_credentials(credentials);
        if (rc < 0)
                return rc == GNUTLS_E_MEMORY_ERROR ? -ENOMEM : -EBADMSG;

        return 0;
}
