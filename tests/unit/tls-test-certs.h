/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and certificates for tests, with the faults that they need. Also included by integration tests and benchmarks. */
#pragma once

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct TestCert {
        char *key, *cert;               /* PEM */
} TestCert;

typedef struct TestCertSpec {
        const char *name;               /* common name, and DNS name in the alternative names; NULL: O only */
        const char *purpose;            /* GNUTLS_KP_TLS_WWW_SERVER, … */
        const TestCert *issuer;         /* NULL: self-signed */
        int is_ca;
        int rsa;
        long from, to;                  /* seconds from now; 0, 0: -300, a day */
} TestCertSpec;

static inline void test_check(int r, const char *what) {
        if (r < 0) {
                fprintf(stderr, "%s: %s\n", what, gnutls_strerror(r));
                abort();
        }
}

static inline char* test_take_datum(gnutls_datum_t *d) {
        char *s = strndup((const char*) d->data, d->size);

        gnutls_free(d->data);
        return s;
}

static inline TestCert test_cert_make(const TestCertSpec *spec) {
        gnutls_x509_privkey_t key, issuer_key;
        gnutls_x509_crt_t crt, issuer_crt;
        gnutls_datum_t d;
        TestCert out;
        unsigned char serial[16] = { 1 };
        time_t now = time(NULL);
        static unsigned counter;

        serial[15] = ++counter;
        test_check(gnutls_x509_privkey_init(&key), "key");
        test_check(spec->rsa ? gnutls_x509_privkey_generate(key, GNUTLS_PK_RSA, 2048, 0)
                             : gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0), "generate");
        test_check(gnutls_x509_crt_init(&crt), "crt");
        test_check(gnutls_x509_crt_set_version(crt, 3), "version");
        test_check(gnutls_x509_crt_set_serial(crt, serial, sizeof(serial)), "serial");
        test_check(gnutls_x509_crt_set_activation_time(crt, now + (spec->from || spec->to ? spec->from : -300)), "from");
        test_check(gnutls_x509_crt_set_expiration_time(crt, now + (spec->from || spec->to ? spec->to : 86400)), "to");
        test_check(gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_ORGANIZATION_NAME, 0, "test", 4), "O");
        if (spec->name) {
                test_check(gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, spec->name, strlen(spec->name)), "CN");
                test_check(gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, spec->name, strlen(spec->name), 0), "SAN");
        }
        test_check(gnutls_x509_crt_set_basic_constraints(crt, spec->is_ca, -1), "CA");
        test_check(gnutls_x509_crt_set_key_usage(crt, GNUTLS_KEY_KEY_CERT_SIGN|GNUTLS_KEY_DIGITAL_SIGNATURE), "usage");
        if (spec->purpose)
                test_check(gnutls_x509_crt_set_key_purpose_oid(crt, spec->purpose, 0), "purpose");
        test_check(gnutls_x509_crt_set_key(crt, key), "set key");

        if (spec->issuer) {
                gnutls_datum_t c = { (unsigned char*) spec->issuer->cert, strlen(spec->issuer->cert) };
                gnutls_datum_t k = { (unsigned char*) spec->issuer->key, strlen(spec->issuer->key) };

                test_check(gnutls_x509_crt_init(&issuer_crt), "issuer");
                test_check(gnutls_x509_crt_import(issuer_crt, &c, GNUTLS_X509_FMT_PEM), "issuer");
                test_check(gnutls_x509_privkey_init(&issuer_key), "issuer");
                test_check(gnutls_x509_privkey_import(issuer_key, &k, GNUTLS_X509_FMT_PEM), "issuer");
                test_check(gnutls_x509_crt_sign2(crt, issuer_crt, issuer_key, GNUTLS_DIG_SHA256, 0), "sign");
                gnutls_x509_crt_deinit(issuer_crt);
                gnutls_x509_privkey_deinit(issuer_key);
        } else
                test_check(gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0), "sign");

        test_check(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &d), "export");
        out.cert = test_take_datum(&d);
        test_check(gnutls_x509_privkey_export2_pkcs8(key, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN, &d), "export");
        out.key = test_take_datum(&d);
        gnutls_x509_crt_deinit(crt);
        gnutls_x509_privkey_deinit(key);
        return out;
}

static inline void test_cert_done(TestCert *c) {
        free(c->key);
        free(c->cert);
        *c = (TestCert) { NULL, NULL };
}
