/* SPDX-License-Identifier: Apache-2.0 */
/* Who may talk to whom: TLS channels over socket pairs, with certificates good and bad. */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <cmocka.h>

#include "basic/strv.h"
#include "basic/util.h"
#include "fd-count.h"
#include "tls-test-certs.h"
#include "ttrpc/acceptor.h"
#include "ttrpc/channel.h"
#include "userdata/apf.h"

#define NAME "podvm-web-1"

typedef struct End {
        Channel *channel;
        bool open;
        int error;                      /* of on_closed() */
        char text[256];
        size_t n_received, n_input, n_drained;
        uint8_t next;                   /* of the pattern */
        bool wrong;
} End;

typedef struct Pair {
        sd_event *event;
        End client, server;
        int relay[2];                   /* far ends that a test carries bytes between, or -EBADF */
} Pair;

static TestCert server_cert, client_cert, ca, server_by_ca, other_client, expired_client, future_client, client_as_server,
        expired_server, rsa_server;

static int make_certs(void **state) {
        server_cert = test_cert_make(&(TestCertSpec) { .name = NAME, .purpose = GNUTLS_KP_TLS_WWW_SERVER });
        client_cert = test_cert_make(&(TestCertSpec) { .purpose = GNUTLS_KP_TLS_WWW_CLIENT });
        ca = test_cert_make(&(TestCertSpec) { .name = "ca", .is_ca = 1 });
        server_by_ca = test_cert_make(&(TestCertSpec) { .name = NAME, .purpose = GNUTLS_KP_TLS_WWW_SERVER, .issuer = &ca });
        other_client = test_cert_make(&(TestCertSpec) { .purpose = GNUTLS_KP_TLS_WWW_CLIENT });
        expired_client = test_cert_make(&(TestCertSpec) { .purpose = GNUTLS_KP_TLS_WWW_CLIENT, .from = -2000, .to = -1000 });
        future_client = test_cert_make(&(TestCertSpec) { .purpose = GNUTLS_KP_TLS_WWW_CLIENT, .from = 1000, .to = 2000 });
        client_as_server = test_cert_make(&(TestCertSpec) { .name = NAME, .purpose = GNUTLS_KP_TLS_WWW_CLIENT });
        expired_server = test_cert_make(&(TestCertSpec) { .name = NAME, .purpose = GNUTLS_KP_TLS_WWW_SERVER, .from = -2000, .to = -1000 });
        rsa_server = test_cert_make(&(TestCertSpec) { .name = NAME, .purpose = GNUTLS_KP_TLS_WWW_SERVER, .rsa = 1 });
        return 0;
}

static int free_certs(void **state) {
        TestCert *all[] = { &server_cert, &client_cert, &ca, &server_by_ca, &other_client, &expired_client, &future_client,
                            &client_as_server, &expired_server, &rsa_server };

        for (size_t i = 0; i < ELEMENTSOF(all); i++)
                test_cert_done(all[i]);
        return 0;
}

static void on_open(Channel *c, void *userdata) {
        ((End*) userdata)->open = true;
}

static void on_input(Channel *c, void *userdata) {
        End *e = userdata;
        ssize_t n = channel_fill(c);
        size_t size;
        uint8_t *p;

        e->n_input++;
        if (n <= 0)
                return;
        p = channel_data(c, &size);
        for (size_t i = 0; i < size; i++)
                if (p[i] != e->next++)
                        e->wrong = true;
        e->n_received += size;
        channel_consume(c, size);
}

static void on_drained(Channel *c, void *userdata) {
        ((End*) userdata)->n_drained++;
}

static void on_closed(Channel *c, int error, void *userdata) {
        End *e = userdata;

        e->error = error;
        (void) snprintf(e->text, sizeof(e->text), "%s", channel_error(c) ?: "");
        e->channel = channel_free(e->channel);
}

static const ChannelHandlers handlers = { on_open, on_input, on_drained, on_closed };

static TlsContext* make_context(const TlsSettings *settings) {
        TlsContext *c = NULL;
        char *error = NULL;
        int r = tls_context_new(settings, &c, &error);

        if (r < 0)
                print_error("%s\n", error);
        free(error);
        assert_int_equal(r, 0);
        return c;
}

static void pair_make(Pair *p, const TlsSettings *client, const TlsSettings *server, bool with_relay) {
        TlsContext *contexts[2] = { make_context(client), make_context(server) };
        int a[2], b[2];

        *p = (Pair) { .relay = { -EBADF, -EBADF } };
        assert_int_equal(sd_event_new(&p->event), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, a), 0);
        if (with_relay) {
                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, b), 0);
                p->relay[0] = a[1];
                p->relay[1] = b[1];
                a[1] = b[0];
        }
        assert_int_equal(channel_new(p->event, a[0], contexts[0], NAME, &handlers, &p->client, &p->client.channel), 0);
        assert_int_equal(channel_new(p->event, a[1], contexts[1], NULL, &handlers, &p->server, &p->server.channel), 0);
        tls_context_unref(contexts[0]);
        tls_context_unref(contexts[1]);
}

static void pair_done(Pair *p) {
        channel_free(p->client.channel);
        channel_free(p->server.channel);
        close_fd(p->relay[0]);
        close_fd(p->relay[1]);
        sd_event_unref(p->event);
}

static void pair_run(Pair *p) {
        for (unsigned quiet = 0; quiet < 3;) {
                int r = sd_event_run(p->event, 0);

                assert_true(r >= 0);
                quiet = r > 0 ? 0 : quiet + 1;
        }
}

/* Carries at most @size bytes each way at a time until nothing moves any more. */
static void pair_carry(Pair *p, size_t size) {
        uint8_t buffer[65536];
        bool moved;

        do {
                moved = false;
                for (int i = 0; i < 2; i++) {
                        ssize_t n;

                        pair_run(p);
                        n = recv(p->relay[i], buffer, MIN(size, sizeof(buffer)), 0);
                        if (n > 0) {
                                assert_int_equal(send(p->relay[!i], buffer, n, MSG_NOSIGNAL), n);
                                moved = true;
                        }
                }
        } while (moved);
}

/* Each case says what differs from the good settings. */
#pragma GCC diagnostic ignored "-Woverride-init"
#define CLIENT(...) ((TlsSettings) { .key = client_cert.key, .cert = client_cert.cert, .trust = server_cert.cert, \
                                     .min_version = TLS_VERSION_1_3, __VA_ARGS__ })
#define SERVER(...) ((TlsSettings) { .server = true, .key = server_cert.key, .cert = server_cert.cert, .trust = client_cert.cert, \
                                     .min_version = TLS_VERSION_1_3, __VA_ARGS__ })

/* Handshake, and one byte each way: under TLS 1.3 the client learns of its refusal only when it reads. Returns whether both let the
 * other one in. */
static bool meet(const TlsSettings *client, const TlsSettings *server, char *ret_text) {
        Pair p;
        bool ok;

        pair_make(&p, client, server, false);
        pair_run(&p);
        if (p.client.open && p.client.channel && p.client.error == 0)
                (void) channel_write(p.client.channel, "\0", 1);
        if (p.server.open && p.server.channel && p.server.error == 0)
                (void) channel_write(p.server.channel, "\0", 1);
        pair_run(&p);
        ok = p.client.n_received == 1 && p.server.n_received == 1;
        if (ret_text)
                (void) snprintf(ret_text, 512, "%.200s | %.200s", p.client.text, p.server.text);
        pair_done(&p);
        return ok;
}

static void each_certificate_is_the_others_only_anchor(void **state) {
        assert_true(meet(&CLIENT(), &SERVER(), NULL));
}

static void a_server_below_a_ca_is_accepted(void **state) {
        assert_true(meet(&CLIENT(.trust = ca.cert), &SERVER(.key = server_by_ca.key, .cert = server_by_ca.cert), NULL));
}

static void strangers_are_refused(void **state) {
        static const struct {
                const char *name;
                const TestCert *client, *server, *trusted_server, *trusted_client;
        } cases[] = {
                { "another client certificate",     &other_client,   &server_cert,      &server_cert,      &client_cert },
                { "another server certificate",     &client_cert,    &server_by_ca,     &server_cert,      &client_cert },
                { "client certificate has expired", &expired_client, &server_cert,      &server_cert,      &expired_client },
                { "client certificate too early",   &future_client,  &server_cert,      &server_cert,      &future_client },
                { "server certificate has expired", &client_cert,    &expired_server,   &expired_server,   &client_cert },
                { "server with a client's purpose", &client_cert,    &client_as_server, &client_as_server, &client_cert },
                { "client with a server's purpose", &server_cert,    &server_cert,      &server_cert,      &server_cert },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                TlsSettings client = CLIENT(.key = cases[i].client->key, .cert = cases[i].client->cert, .trust = cases[i].trusted_server->cert);
                TlsSettings server = SERVER(.key = cases[i].server->key, .cert = cases[i].server->cert, .trust = cases[i].trusted_client->cert);
                char text[512];

                print_message("%s: ", cases[i].name);
                assert_false(meet(&client, &server, text));
                print_message("%s\n", text);
        }
}

static void a_client_without_certificate_is_refused(void **state) {
        assert_false(meet(&CLIENT(.key = NULL, .cert = NULL), &SERVER(), NULL));
        assert_false(meet(&CLIENT(.key = NULL, .cert = NULL, .min_version = TLS_VERSION_1_2), &SERVER(.min_version = TLS_VERSION_1_2), NULL));
}

static void the_servers_name_counts(void **state) {
        TestCert other = test_cert_make(&(TestCertSpec) { .name = "podvm-web-2", .purpose = GNUTLS_KP_TLS_WWW_SERVER });

        assert_false(meet(&CLIENT(.trust = other.cert), &SERVER(.key = other.key, .cert = other.cert), NULL));
        assert_true(meet(&CLIENT(.trust = NULL, .skip_verify = true), &SERVER(.key = other.key, .cert = other.cert), NULL));
        test_cert_done(&other);
}

/* Settings of an independent peer, GnuTLS used directly: what our contexts never offer. */
static bool meet_priority(const char *priority, const TlsSettings *server) {
        gnutls_certificate_credentials_t credentials;
        gnutls_datum_t key = { (uint8_t*) client_cert.key, strlen(client_cert.key) };
        gnutls_datum_t cert = { (uint8_t*) client_cert.cert, strlen(client_cert.cert) };
        gnutls_session_t s;
        TlsContext *context = make_context(server);
        End end = {};
        sd_event *event;
        int fds[2], r;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, fds), 0);
        assert_int_equal(sd_event_new(&event), 0);
        assert_int_equal(channel_new(event, fds[0], context, NULL, &handlers, &end, &end.channel), 0);
        assert_int_equal(gnutls_certificate_allocate_credentials(&credentials), 0);
        assert_int_equal(gnutls_certificate_set_x509_key_mem(credentials, &cert, &key, GNUTLS_X509_FMT_PEM), 0);
        assert_int_equal(gnutls_init(&s, GNUTLS_CLIENT|GNUTLS_NONBLOCK), 0);
        assert_int_equal(gnutls_priority_set_direct(s, priority, NULL), 0);
        assert_int_equal(gnutls_credentials_set(s, GNUTLS_CRD_CERTIFICATE, credentials), 0);
        gnutls_transport_set_int(s, fds[1]);

        for (unsigned i = 0; i < 50; i++) {
                r = gnutls_handshake(s);
                assert_true(sd_event_run(event, 0) >= 0);
                if (r == 0 || gnutls_error_is_fatal(r))
                        break;
        }
        for (unsigned i = 0; i < 5; i++)
                assert_true(sd_event_run(event, 0) >= 0);

        r = end.open && end.error == 0;
        gnutls_deinit(s);
        gnutls_certificate_free_credentials(credentials);
        channel_free(end.channel);
        sd_event_unref(event);
        tls_context_unref(context);
        close_fd(fds[1]);
        return r;
}

static void old_versions_are_refused(void **state) {
        assert_true(meet_priority("NORMAL", &SERVER()));
        assert_false(meet_priority("NORMAL:-VERS-ALL:+VERS-TLS1.2", &SERVER()));
        assert_true(meet_priority("NORMAL:-VERS-ALL:+VERS-TLS1.2", &SERVER(.min_version = TLS_VERSION_1_2)));
        assert_false(meet_priority("NORMAL:-VERS-ALL:+VERS-TLS1.1", &SERVER(.min_version = TLS_VERSION_1_2)));
        assert_true(meet(&CLIENT(.min_version = TLS_VERSION_1_2), &SERVER(), NULL));    /* and agree on 1.3 */
}

static void cipher_lists_hold(void **state) {
        char *only_256[] = { (char*) "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", NULL };
        char *only_rsa[] = { (char*) "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", NULL };
        char *unknown[] = { (char*) "TLS_RSA_WITH_NULL_MD5", NULL };
        TlsSettings s = SERVER(.min_version = TLS_VERSION_1_2, .cipher_suites = only_256);
        TlsContext *c = NULL;
        char *error = NULL;

        assert_true(meet_priority("NORMAL:-VERS-ALL:+VERS-TLS1.2", &s));
        assert_false(meet_priority("NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-GCM", &s));
        assert_true(meet_priority("NORMAL:-CIPHER-ALL:+AES-128-GCM", &s));              /* TLS 1.3: not a matter of the list */
        s.cipher_suites = only_rsa;
        assert_false(meet_priority("NORMAL:-VERS-ALL:+VERS-TLS1.2", &s));               /* ECDSA certificate */
        s.key = rsa_server.key;
        s.cert = rsa_server.cert;
        assert_true(meet_priority("NORMAL:-VERS-ALL:+VERS-TLS1.2", &s));

        assert_int_equal(tls_context_new(&SERVER(.min_version = TLS_VERSION_1_2, .cipher_suites = unknown), &c, &error), -EINVAL);
        assert_non_null(strstr(error, "TLS_RSA_WITH_NULL_MD5"));
        free(error);
        assert_int_equal(tls_context_new(&SERVER(.cipher_suites = only_256), &c, &error), -EINVAL);
        free(error);
}

static void incomplete_settings_are_refused(void **state) {
        const struct {
                TlsSettings settings;
                int r;
        } cases[] = {
                { SERVER(.trust = NULL), -ENOKEY },
                { SERVER(.trust = ""), -ENOKEY },
                { SERVER(.key = NULL), -ENOKEY },
                { SERVER(.cert = NULL), -ENOKEY },
                { SERVER(.skip_verify = true), -EINVAL },
                { SERVER(.key = client_cert.key), -EBADMSG },
                { SERVER(.key = "junk"), -EBADMSG },
                { SERVER(.trust = "junk"), -EBADMSG },
                { CLIENT(.trust = NULL), -ENOKEY },
                { CLIENT(.key = NULL), -ENOKEY },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                TlsContext *c = NULL;
                char *error = NULL;

                assert_int_equal(tls_context_new(&cases[i].settings, &c, &error), cases[i].r);
                assert_non_null(error);
                assert_null(strstr(error, "PRIVATE"));
                free(error);
        }

        assert_int_equal(tls_version_from_string("VersionTLS12"), TLS_VERSION_1_2);
        assert_int_equal(tls_version_from_string("VersionTLS11"), _TLS_VERSION_INVALID);
        assert_int_equal(tls_version_from_string(NULL), _TLS_VERSION_INVALID);
}

/* cloud-api-adaptor: src/cloud-api-adaptor/pkg/util/tlsconfig and tlsutil: what a profile in apf.json may be. */
static void profiles_are_taken_or_refused_as_upstream_does(void **state) {
        static const struct {
                const char *text, *error;
                TlsVersion min_version;
                size_t n_suites;
        } cases[] = {
                { "{}", NULL, TLS_VERSION_1_2, 0 },
                { "{\"tls-min-version\":\"\"}", NULL, TLS_VERSION_1_2, 0 },
                { "{\"tls-min-version\":\"VersionTLS12\"}", NULL, TLS_VERSION_1_2, 0 },
                { "{\"tls-min-version\":\" VersionTLS13\\n\"}", NULL, TLS_VERSION_1_3, 0 },
                { "{\"tls-min-version\":\"VersionTLS11\"}", "TLS 1.0 and 1.1 are not supported, use VersionTLS12 or VersionTLS13" },
                { "{\"tls-min-version\":\"VersionTLS10\"}", "TLS 1.0 and 1.1 are not supported, use VersionTLS12 or VersionTLS13" },
                { "{\"tls-min-version\":\"TLS1.2\"}", "'tls-min-version'" },
                { "{\"tls-min-version\":\"versiontls12\"}", "'tls-min-version'" },
                { "{\"tls-min-version\":12}", "tls-min-version" },
                { "{\"tls-cipher-suites\":[]}", NULL, TLS_VERSION_1_2, 0 },
                { "{\"tls-cipher-suites\":[\"\",\" \"],\"tls-min-version\":\"VersionTLS13\"}", NULL, TLS_VERSION_1_3, 0 },
                { "{\"tls-cipher-suites\":[\" TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 \",\"\"]}", NULL, TLS_VERSION_1_2, 1 },
                { "{\"tls-cipher-suites\":[\"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\",\"TLS_AES_128_GCM_SHA256\"],"
                  "\"tls-min-version\":\"VersionTLS12\"}", NULL, TLS_VERSION_1_2, 2 },
                { "{\"tls-cipher-suites\":[\"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\"],\"tls-min-version\":\"VersionTLS13\"}",
                  "cipher suites cannot be chosen with VersionTLS13" },
                { "{\"tls-cipher-suites\":[\"TLS_FAST\"]}", "'TLS_FAST'; there are: " },
                { "{\"tls-cipher-suites\":[\"tls_ecdhe_ecdsa_with_aes_256_gcm_sha384\"]}", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" },
                { "{\"tls-cipher-suites\":\"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\"}", "tls-cipher-suites" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                ApfConfig apf = APF_CONFIG_NULL;
                TlsVersion version = _TLS_VERSION_INVALID;
                char *error = NULL;
                int r;

                r = apf_config_parse(cases[i].text, strlen(cases[i].text), &apf, &error);
                if (r >= 0) {
                        version = isempty(apf.tls_min_version) ? TLS_VERSION_1_2 : tls_version_from_string(apf.tls_min_version);
                        r = tls_profile_check(version, apf.tls_cipher_suites, &error);
                }
                if ((r < 0) != (cases[i].error != NULL) || (cases[i].error && !strstr(strempty(error), cases[i].error)))
                        fail_msg("%s: %i, %s", cases[i].text, r, strempty(error));
                if (r >= 0) {
                        assert_int_equal(version, cases[i].min_version);
                        assert_int_equal(strv_length(apf.tls_cipher_suites), cases[i].n_suites);
                }
                apf_config_done(&apf);
                free(error);
        }
}

/* Three megabytes each way; what lies in TLS's buffers is never forgotten there. */
static void nothing_stalls(void **state) {
        static uint8_t data[3 << 20];
        Pair p;

        for (size_t i = 0; i < sizeof(data); i++)
                data[i] = i;
        pair_make(&p, &CLIENT(), &SERVER(), false);
        pair_run(&p);
        assert_true(p.client.open && p.server.open);
        for (size_t done = 0; done < sizeof(data); done += 100000) {
                size_t n = MIN(sizeof(data) - done, (size_t) 100000);

                assert_int_equal(channel_write(p.client.channel, data + done, n), 0);
                assert_int_equal(channel_write(p.server.channel, data + done, n), 0);
        }
        pair_run(&p);
        assert_int_equal(p.server.n_received, sizeof(data));
        assert_int_equal(p.client.n_received, sizeof(data));
        assert_false(p.server.wrong || p.client.wrong);
        assert_int_equal(channel_queued(p.client.channel), 0);

        /* A reader that pauses in the middle finds the rest where it left it. */
        channel_pause_input(p.server.channel);
        assert_int_equal(channel_write(p.client.channel, data, sizeof(data)), 0);
        pair_run(&p);
        assert_int_equal(p.server.n_received, sizeof(data));
        for (unsigned i = 0; i < 5; i++) {
                channel_resume_input(p.server.channel);
                assert_true(sd_event_run(p.event, 0) >= 0);
                channel_pause_input(p.server.channel);
                pair_run(&p);
        }
        channel_resume_input(p.server.channel);
        pair_run(&p);
        assert_int_equal(p.server.n_received, 2 * sizeof(data));
        assert_false(p.server.wrong);
        pair_done(&p);
}

static void bytes_may_dribble(void **state) {
        static const size_t sizes[] = { 1, 7, 1000 };

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                uint8_t data[5000];
                Pair p;

                for (size_t k = 0; k < sizeof(data); k++)
                        data[k] = k;
                pair_make(&p, &CLIENT(), &SERVER(), true);
                pair_carry(&p, sizes[i]);
                assert_true(p.client.open && p.server.open);
                assert_int_equal(channel_write(p.client.channel, data, sizeof(data)), 0);
                pair_carry(&p, sizes[i]);
                assert_int_equal(p.server.n_received, sizeof(data));
                assert_false(p.server.wrong);
                pair_done(&p);
        }
}

static void a_flipped_bit_ends_the_connection(void **state) {
        uint8_t buffer[4096];
        ssize_t n;
        Pair p;

        pair_make(&p, &CLIENT(), &SERVER(), true);
        pair_carry(&p, 65536);
        assert_int_equal(channel_write(p.client.channel, "hello", 5), 0);
        n = recv(p.relay[0], buffer, sizeof(buffer), 0);
        assert_true(n > 10);
        buffer[n - 3] ^= 1;
        assert_int_equal(send(p.relay[1], buffer, n, 0), n);
        pair_run(&p);
        assert_int_equal(p.server.n_received, 0);
        assert_true(p.server.error < 0);
        pair_done(&p);
}

static void an_end_without_goodbye_is_an_error(void **state) {
        Pair p;

        pair_make(&p, &CLIENT(), &SERVER(), true);
        pair_carry(&p, 65536);
        p.relay[1] = close_fd(p.relay[1]);
        pair_run(&p);
        assert_int_equal(p.server.error, -ECONNRESET);
        pair_done(&p);
}

static void junk_instead_of_a_handshake_is_refused(void **state) {
        Pair p;

        pair_make(&p, &CLIENT(), &SERVER(), true);
        assert_int_equal(send(p.relay[1], "\0\0\0\x05\0\0\0\x01\x01\0hello", 15, 0), 15);
        pair_run(&p);
        assert_false(p.server.open);
        assert_true(p.server.error < 0);
        pair_done(&p);
}

static void nobody_renegotiates(void **state) {
        gnutls_certificate_credentials_t credentials;
        gnutls_datum_t key = { (uint8_t*) client_cert.key, strlen(client_cert.key) };
        gnutls_datum_t cert = { (uint8_t*) client_cert.cert, strlen(client_cert.cert) };
        TlsContext *context = make_context(&SERVER(.min_version = TLS_VERSION_1_2));
        gnutls_session_t s;
        End end = {};
        sd_event *event;
        int fds[2], r;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, fds), 0);
        assert_int_equal(sd_event_new(&event), 0);
        assert_int_equal(channel_new(event, fds[0], context, NULL, &handlers, &end, &end.channel), 0);
        assert_int_equal(gnutls_certificate_allocate_credentials(&credentials), 0);
        assert_int_equal(gnutls_certificate_set_x509_key_mem(credentials, &cert, &key, GNUTLS_X509_FMT_PEM), 0);
        assert_int_equal(gnutls_init(&s, GNUTLS_CLIENT|GNUTLS_NONBLOCK), 0);
        assert_int_equal(gnutls_priority_set_direct(s, "NORMAL:-VERS-ALL:+VERS-TLS1.2", NULL), 0);
        assert_int_equal(gnutls_credentials_set(s, GNUTLS_CRD_CERTIFICATE, credentials), 0);
        gnutls_transport_set_int(s, fds[1]);
        do {
                r = gnutls_handshake(s);
                assert_true(sd_event_run(event, 0) >= 0);
        } while (r < 0 && !gnutls_error_is_fatal(r));
        assert_int_equal(r, 0);
        for (unsigned i = 0; i < 5; i++)
                assert_true(sd_event_run(event, 0) >= 0);
        assert_true(end.open);

        /* A second ClientHello on the same connection ends it. */
        (void) gnutls_handshake(s);
        for (unsigned i = 0; i < 10; i++)
                assert_true(sd_event_run(event, 0) >= 0);
        assert_true(end.error < 0);
        assert_int_equal(end.n_received, 0);

        gnutls_deinit(s);
        gnutls_certificate_free_credentials(credentials);
        channel_free(end.channel);
        sd_event_unref(event);
        tls_context_unref(context);
        close_fd(fds[1]);
}

/* Moves what one end has sent to the other one, in one piece with bytes of somebody else's. */
static void carry_with(Pair *p, int from, const uint8_t *behind, size_t n_behind) {
        static uint8_t buffer[65536];
        ssize_t n;

        n = recv(p->relay[from], buffer, sizeof(buffer) - n_behind, 0);
        assert_true(n > 0);
        if (n_behind > 0)
                memcpy(buffer + n, behind, n_behind);
        n += n_behind;
        assert_int_equal(send(p->relay[!from], buffer, n, MSG_NOSIGNAL), n);
}

static void pair_make_open(Pair *p) {
        pair_make(p, &CLIENT(), &SERVER(), true);
        pair_carry(p, 65536);
        assert_true(p->client.open && p->server.open);
}

static void a_goodbye_behind_the_last_bytes_is_heard(void **state) {
        Pair p;

        pair_make_open(&p);
        assert_int_equal(channel_write(p.client.channel, "\0", 1), 0);
        p.client.channel = channel_free(p.client.channel);
        carry_with(&p, 0, NULL, 0);            /* without the end of the TCP stream, which may come much later */
        pair_run(&p);
        assert_int_equal(p.server.n_received, 1);
        assert_int_equal(p.server.error, -ECONNRESET);
        pair_done(&p);
}

static void a_bad_record_behind_the_last_bytes_is_noticed(void **state) {
        static const uint8_t junk[5 + 32] = { 23, 3, 3, 0, 32 };
        Pair p;

        pair_make_open(&p);
        assert_int_equal(channel_write(p.client.channel, "\0", 1), 0);
        carry_with(&p, 0, junk, sizeof(junk));
        pair_run(&p);
        assert_int_equal(p.server.n_received, 1);
        assert_true(p.server.error < 0);
        pair_done(&p);
}

static void what_is_lost_is_said(void **state) {
        Pair p;

        pair_make_open(&p);
        p.client.channel = channel_free(p.client.channel);
        carry_with(&p, 0, NULL, 0);
        pair_run(&p);
        assert_int_equal(p.server.error, -ECONNRESET);
        assert_string_equal(p.server.text, "");         /* its number says all */
        pair_done(&p);

        pair_make_open(&p);             /* an error of the socket has a number only */
        p.relay[0] = close_fd(p.relay[0]);
        assert_true(channel_write(p.client.channel, "\0", 1) < 0);
        pair_run(&p);
        assert_int_equal(p.client.error, -EPIPE);
        assert_string_equal(p.client.text, "");
        pair_done(&p);
}

static void drained_by_the_next_write_is_drained(void **state) {
        static const uint8_t bytes[4096];
        static uint8_t buffer[65536];
        Pair p;

        pair_make_open(&p);
        while (channel_queued(p.client.channel) == 0)
                assert_int_equal(channel_write(p.client.channel, bytes, sizeof(bytes)), 0);
        channel_notify_drained(p.client.channel, 0);
        pair_run(&p);
        assert_int_equal(p.client.n_drained, 0);

        /* The socket has room again, and a write comes before the loop hears of it. */
        while (recv(p.relay[0], buffer, sizeof(buffer), 0) > 0)
                ;
        assert_int_equal(channel_write(p.client.channel, "\0", 1), 0);
        assert_int_equal(channel_queued(p.client.channel), 0);
        pair_run(&p);
        assert_int_equal(p.client.n_drained, 1);
        pair_done(&p);
}

static void on_accepted(Acceptor *a, Channel *channel, const char *peer, void *userdata) {
        Pair *p = userdata;

        p->server.channel = channel;
        channel_set_handlers(channel, &handlers, &p->server);
}

static void silent_strangers_do_not_keep_others_out(void **state) {
        struct sockaddr_un sa = { .sun_family = AF_UNIX, .sun_path = "\0peerpod-tls-test" };
        TlsContext *client = make_context(&CLIENT()), *server = make_context(&SERVER());
        int strangers[ACCEPTOR_HANDSHAKES_MAX], fd;
        Acceptor *a = NULL;
        Pair p = { .relay = { -EBADF, -EBADF } };

        assert_int_equal(sd_event_new(&p.event), 0);
        fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);
        assert_int_equal(bind(fd, (struct sockaddr*) &sa, sizeof(sa)), 0);
        assert_int_equal(listen(fd, 64), 0);
        assert_int_equal(acceptor_new(p.event, fd, server, on_accepted, &p, &a), 0);
        acceptor_set_enabled(a, true);

        for (size_t i = 0; i < ELEMENTSOF(strangers); i++) {
                strangers[i] = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);
                assert_int_equal(connect(strangers[i], (struct sockaddr*) &sa, sizeof(sa)), 0);
        }
        pair_run(&p);

        fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
        assert_int_equal(connect(fd, (struct sockaddr*) &sa, sizeof(sa)), 0);
        assert_int_equal(channel_new(p.event, fd, client, NAME, &handlers, &p.client, &p.client.channel), 0);
        pair_run(&p);
        assert_true(p.client.open);
        assert_non_null(p.server.channel);

        for (size_t i = 0; i < ELEMENTSOF(strangers); i++)
                close_fd(strangers[i]);
        acceptor_free(a);
        pair_done(&p);
        tls_context_unref(client);
        tls_context_unref(server);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, remember_fds, compare_fds)
                T(each_certificate_is_the_others_only_anchor),
                T(a_server_below_a_ca_is_accepted),
                T(strangers_are_refused),
                T(a_client_without_certificate_is_refused),
                T(the_servers_name_counts),
                T(old_versions_are_refused),
                T(cipher_lists_hold),
                T(incomplete_settings_are_refused),
                T(profiles_are_taken_or_refused_as_upstream_does),
                T(nothing_stalls),
                T(bytes_may_dribble),
                T(a_flipped_bit_ends_the_connection),
                T(an_end_without_goodbye_is_an_error),
                T(junk_instead_of_a_handshake_is_refused),
                T(nobody_renegotiates),
                T(a_goodbye_behind_the_last_bytes_is_heard),
                T(a_bad_record_behind_the_last_bytes_is_noticed),
                T(what_is_lost_is_said),
                T(drained_by_the_next_write_is_drained),
                T(silent_strangers_do_not_keep_others_out),
        };

        (void) signal(SIGPIPE, SIG_IGN);
        return cmocka_run_group_tests(tests, make_certs, free_certs);
}
