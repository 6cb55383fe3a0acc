/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates of both ends of a sandbox's link: what is in them, what GnuTLS and OpenSSL make of them, and a handshake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cmocka.h>

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

#include "basic/io.h"
#include "basic/util.h"
#include "tls-test-certs.h"
#include "tls/cert.h"

#define SERVER_NAME "podvm-web-01234567"

extern char **environ;

static const CertRequest server_request = { .usage = CERT_SERVER, .organization = "agent-protocol-forwarder", .name = SERVER_NAME };
static const CertRequest client_request = { .usage = CERT_CLIENT, .organization = "cloud-api-adaptor" };

static gnutls_x509_crt_t import(const char *pem) {
        gnutls_datum_t d = { (uint8_t*) pem, strlen(pem) };
        gnutls_x509_crt_t c;

        assert_int_equal(gnutls_x509_crt_init(&c), 0);
        assert_int_equal(gnutls_x509_crt_import(c, &d, GNUTLS_X509_FMT_PEM), 0);
        return c;
}

static void certificates_have_upstreams_profile(void **state) {
        const CertRequest *const requests[] = { &server_request, &client_request };

        for (size_t i = 0; i < 2; i++) {
                _cleanup_(cert_pair_done) CertPair pair = CERT_PAIR_NULL;
                gnutls_x509_crt_t c;
                unsigned bits, usage, critical, ca, n;
                uint8_t serial[32];
                size_t size;
                char text[256];
                time_t now = time(NULL);

                assert_int_equal(cert_pair_make(requests[i], &pair), 0);
                assert_true(startswith(pair.key, "-----BEGIN PRIVATE KEY-----\n") != NULL);     /* PKCS#8 */
                assert_true(startswith(pair.cert, "-----BEGIN CERTIFICATE-----\n") != NULL);
                assert_int_equal(cert_pair_check(pair.key, pair.cert), 0);
                assert_int_equal(cert_check(pair.cert), 0);

                c = import(pair.cert);
                assert_int_equal(gnutls_x509_crt_get_pk_algorithm(c, &bits), GNUTLS_PK_ECDSA);
                assert_int_equal(bits, 256);
                assert_int_equal(gnutls_x509_crt_get_signature_algorithm(c), GNUTLS_SIGN_ECDSA_SHA256);
                assert_int_equal(gnutls_x509_crt_get_basic_constraints(c, &critical, &ca, NULL), 0);
                assert_int_equal(ca, 0);
                assert_int_equal(gnutls_x509_crt_get_key_usage(c, &usage, &critical), 0);
                assert_int_equal(usage, GNUTLS_KEY_DIGITAL_SIGNATURE | GNUTLS_KEY_KEY_CERT_SIGN);
                size = sizeof(text);
                assert_int_equal(gnutls_x509_crt_get_key_purpose_oid(c, 0, text, &size, &critical), 0);
                assert_string_equal(text, i == 0 ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT);
                size = sizeof(text);
                assert_int_equal(gnutls_x509_crt_get_key_purpose_oid(c, 1, text, &size, &critical), GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE);
                size = sizeof(serial);
                assert_int_equal(gnutls_x509_crt_get_serial(c, serial, &size), 0);
                assert_int_equal(size, 16);
                assert_int_equal(serial[0] & 0x80, 0);
                assert_true(gnutls_x509_crt_get_activation_time(c) < now - 240);
                assert_true(gnutls_x509_crt_get_expiration_time(c) > now + 729 * 86400);
                assert_true(gnutls_x509_crt_get_expiration_time(c) < now + 731 * 86400);
                assert_int_equal(gnutls_x509_crt_check_hostname(c, SERVER_NAME) != 0, i == 0);
                assert_int_equal(gnutls_x509_crt_check_hostname(c, "podvm-other"), 0);
                size = sizeof(text);
                assert_int_equal(gnutls_x509_crt_get_dn(c, text, &size), 0);
                assert_string_equal(text, i == 0 ? "O=agent-protocol-forwarder,CN=" SERVER_NAME : "O=cloud-api-adaptor");
                n = 0;
                size = sizeof(text);
                assert_int_equal(gnutls_x509_crt_get_subject_alt_name(c, 1, text, &size, &n), GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE);
                gnutls_x509_crt_deinit(c);
        }
}

static void no_two_are_alike(void **state) {
        _cleanup_(cert_pair_done) CertPair a = CERT_PAIR_NULL, b = CERT_PAIR_NULL;

        assert_int_equal(cert_pair_make(&server_request, &a), 0);
        assert_int_equal(cert_pair_make(&server_request, &b), 0);
        assert_string_not_equal(a.key, b.key);
        assert_string_not_equal(a.cert, b.cert);
        assert_int_equal(cert_pair_check(a.key, b.cert), -EBADMSG);     /* they do not belong together */
}

static void names_that_do_not_fit_are_refused(void **state) {
        _cleanup_(cert_pair_done) CertPair pair = CERT_PAIR_NULL;
        char name[300];
        CertRequest q = server_request;

        memset(name, 'a', sizeof(name));
        q.name = name;
        name[254] = '\0';
        assert_int_equal(cert_pair_make(&q, &pair), -EINVAL);
        q.name = "";
        assert_int_equal(cert_pair_make(&q, &pair), -EINVAL);
        assert_null(pair.key);
        name[253] = '\0';                       /* longer than a common name may be, but a DNS name */
        q.name = name;
        assert_int_equal(cert_pair_make(&q, &pair), 0);
}

static void what_is_no_certificate_is_refused(void **state) {
        _cleanup_(cert_pair_done) CertPair pair = CERT_PAIR_NULL;

        assert_int_equal(cert_check(""), -EBADMSG);
        assert_int_equal(cert_check("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), -EBADMSG);
        assert_int_equal(cert_pair_make(&client_request, &pair), 0);
        assert_int_equal(cert_check(pair.key), -EBADMSG);
        assert_int_equal(cert_pair_check(pair.cert, pair.cert), -EBADMSG);
        assert_int_equal(cert_pair_check("", ""), -EBADMSG);
}

static int run(char *const argv[]) {
        posix_spawn_file_actions_t actions;
        int status;
        pid_t pid;

        assert_int_equal(posix_spawn_file_actions_init(&actions), 0);
        assert_int_equal(posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0), 0);
        assert_int_equal(posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0), 0);
        if (posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ) != 0)
                return 127;
        (void) posix_spawn_file_actions_destroy(&actions);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Another library's word: Go's is not at hand, OpenSSL's rules are the stricter ones. */
static void the_earliest_end_of_a_chain_counts(void **state) {
        _cleanup_(freep) char *chain = NULL;
        TestCert soon = test_cert_make(&(TestCertSpec) { .from = -100, .to = 1000 });
        TestCert late = test_cert_make(&(TestCertSpec) { .from = -100, .to = 100000 });
        TestCert over = test_cert_make(&(TestCertSpec) { .from = -200, .to = -100 });
        uint64_t now = now_usec(CLOCK_REALTIME), end = 0;

        assert_int_equal(cert_get_expiry(late.cert, &end), 0);
        assert_in_range(end, now + 99000 * USEC_PER_SEC, now + 100001 * USEC_PER_SEC);
        assert_true(asprintf(&chain, "%s%s", late.cert, soon.cert) > 0);
        assert_int_equal(cert_get_expiry(chain, &end), 0);
        assert_in_range(end, now + 900 * USEC_PER_SEC, now + 1001 * USEC_PER_SEC);
        assert_int_equal(cert_get_expiry(over.cert, &end), 0);
        assert_true(end < now);
        assert_int_equal(cert_get_expiry(over.key, &end), -EBADMSG);

        test_cert_done(&soon);
        test_cert_done(&late);
        test_cert_done(&over);
}

static void openssl_takes_each_as_its_own_anchor(void **state) {
        static const char *const purposes[] = { "sslserver", "sslclient" };
        const CertRequest *const requests[] = { &server_request, &client_request };
        char path[] = "/tmp/pp-cert-XXXXXX";
        int fd = mkstemp(path), r;

        assert_true(fd >= 0);
        close_fd(fd);
        for (size_t i = 0; i < 2; i++) {
                _cleanup_(cert_pair_done) CertPair pair = CERT_PAIR_NULL;
                char *argv[] = { (char*) "openssl", (char*) "verify", (char*) "-purpose", (char*) purposes[i], (char*) "-CAfile", path, path, NULL };
                char *wrong[] = { (char*) "openssl", (char*) "verify", (char*) "-purpose", (char*) purposes[!i], (char*) "-CAfile", path, path, NULL };

                assert_int_equal(cert_pair_make(requests[i], &pair), 0);
                assert_int_equal(write_file_atomic(path, pair.cert, strlen(pair.cert), 0600), 0);
                r = run(argv);
                if (r == 127) {
                        (void) unlink(path);
                        print_message("openssl is not installed\n");
                        skip();
                }
                assert_int_equal(r, 0);
                assert_int_not_equal(run(wrong), 0);
        }
        (void) unlink(path);
}

/* ---- handshake --------------------------------------------------------------------------------------------------------------------- */

typedef struct End {
        gnutls_certificate_credentials_t credentials;
        gnutls_session_t session;
        gnutls_typed_vdata_st verify[2];        /* the session keeps a pointer to them */
} End;

static void end_make(End *e, unsigned flags, int fd, const CertPair *own, const char *anchor, const char *server_name) {
        gnutls_datum_t key = { (uint8_t*) own->key, strlen(own->key) }, cert = { (uint8_t*) own->cert, strlen(own->cert) };
        gnutls_datum_t ca = { (uint8_t*) anchor, strlen(anchor) };

        assert_int_equal(gnutls_certificate_allocate_credentials(&e->credentials), 0);
        assert_true(gnutls_certificate_set_x509_key_mem(e->credentials, &cert, &key, GNUTLS_X509_FMT_PEM) >= 0);
        assert_int_equal(gnutls_certificate_set_x509_trust_mem(e->credentials, &ca, GNUTLS_X509_FMT_PEM), 1);
        assert_int_equal(gnutls_init(&e->session, flags | GNUTLS_NONBLOCK), 0);
        assert_int_equal(gnutls_priority_set_direct(e->session, "NORMAL:-VERS-ALL:+VERS-TLS1.3", NULL), 0);
        assert_int_equal(gnutls_credentials_set(e->session, GNUTLS_CRD_CERTIFICATE, e->credentials), 0);
        e->verify[0] = (gnutls_typed_vdata_st) { .type = GNUTLS_DT_KEY_PURPOSE_OID,
                                            .data = (uint8_t*) (server_name ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT) };
        e->verify[1] = (gnutls_typed_vdata_st) { .type = GNUTLS_DT_DNS_HOSTNAME, .data = (uint8_t*) server_name };
        gnutls_session_set_verify_cert2(e->session, e->verify, server_name ? 2 : 1, 0);
        if (flags & GNUTLS_SERVER)
                gnutls_certificate_server_set_request(e->session, GNUTLS_CERT_REQUIRE);
        gnutls_transport_set_int(e->session, fd);
}

static void end_free(End *e) {
        gnutls_deinit(e->session);
        gnutls_certificate_free_credentials(e->credentials);
}

/* True if both ends are content. */
static bool shake(const CertPair *server, const CertPair *client, const char *servers_anchor, const char *clients_anchor, const char *name) {
        int fds[2], a = GNUTLS_E_AGAIN, b = GNUTLS_E_AGAIN;
        End s, c;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, fds), 0);
        end_make(&s, GNUTLS_SERVER, fds[0], server, servers_anchor, NULL);
        end_make(&c, GNUTLS_CLIENT, fds[1], client, clients_anchor, name);
        for (unsigned i = 0; i < 100 && (a == GNUTLS_E_AGAIN || b == GNUTLS_E_AGAIN); i++) {
                if (b == GNUTLS_E_AGAIN)
                        b = gnutls_handshake(c.session);
                if (b < 0 && b != GNUTLS_E_AGAIN)
                        break;
                if (a == GNUTLS_E_AGAIN)
                        a = gnutls_handshake(s.session);
                if (a < 0 && a != GNUTLS_E_AGAIN)
                        break;
        }
        end_free(&s);
        end_free(&c);
        close_fd(fds[0]);
        close_fd(fds[1]);
        return a == 0 && b == 0;
}

static void both_ends_shake_hands_with_each_others_anchor(void **state) {
        _cleanup_(cert_pair_done) CertPair server = CERT_PAIR_NULL, client = CERT_PAIR_NULL, other = CERT_PAIR_NULL, stranger = CERT_PAIR_NULL;

        assert_int_equal(cert_pair_make(&server_request, &server), 0);
        assert_int_equal(cert_pair_make(&client_request, &client), 0);
        assert_int_equal(cert_pair_make(&server_request, &other), 0);
        assert_int_equal(cert_pair_make(&client_request, &stranger), 0);

        assert_true(shake(&server, &client, client.cert, server.cert, SERVER_NAME));
        assert_false(shake(&server, &client, client.cert, server.cert, "podvm-other"));         /* not that VM */
        assert_false(shake(&other, &client, client.cert, server.cert, SERVER_NAME));            /* another sandbox's VM of that name */
        assert_false(shake(&server, &stranger, client.cert, server.cert, SERVER_NAME));         /* another sandbox's proxy */
        assert_false(shake(&server, &server, server.cert, server.cert, SERVER_NAME));           /* a server's certificate is no client's */
}

int main(int argc, char *argv[]) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(certificates_have_upstreams_profile),
                cmocka_unit_test(no_two_are_alike),
                cmocka_unit_test(names_that_do_not_fit_are_refused),
                cmocka_unit_test(what_is_no_certificate_is_refused),
                cmocka_unit_test(the_earliest_end_of_a_chain_counts),
                cmocka_unit_test(openssl_takes_each_as_its_own_anchor),
                cmocka_unit_test(both_ends_shake_hands_with_each_others_anchor),
        };

        return cmocka_run_group_tests_name("cert", tests, NULL, NULL);
}
