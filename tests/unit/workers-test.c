/* SPDX-License-Identifier: Apache-2.0 */
/* The forwarder's sessions: who may resume which, how many are kept, and what the others are told. Real TLS over socket pairs, and a
 * worker played by hand. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "basic/log.h"
#include "basic/util.h"
#include "fd-count.h"
#include "podvm/forwarder/workers.h"
#include "tls-test-certs.h"

#define NAME "podvm-web-1"

/* One worker's connection. */
typedef struct Client {
        Channel *channel, *accepted;    /* accepted: until it is handed to the workers */
        bool open, server_open;
        int error;
        uint8_t got[4096];
        size_t n_got;
} Client;

static TestCert server_cert, certs[2];
static TlsContext *server, *clients[2];
static sd_event *event;
static Relay *relay;
static Workers *workers;
static int agent = -EBADF;
static const LogContext no_context = {};

static void on_open(Channel *c, void *userdata) {
        ((Client*) userdata)->open = true;
}

static void on_input(Channel *c, void *userdata) {
        Client *k = userdata;
        ssize_t n = channel_read_direct(c, k->got + k->n_got, sizeof(k->got) - k->n_got);

        k->n_got += MAX(n, 0);
}

static void on_drained(Channel *c, void *userdata) {
}

static void on_closed(Channel *c, int error, void *userdata) {
        Client *k = userdata;

        k->error = error;
        k->channel = channel_free(k->channel);
}

static const ChannelHandlers client_handlers = { on_open, on_input, on_drained, on_closed };

static void on_server_open(Channel *c, void *userdata) {
        Client *k = userdata;

        channel_pause_input(c);
        k->accepted = NULL;
        k->server_open = true;
        workers_add(workers, c, "a socket pair");
}

static void on_server_closed(Channel *c, int error, void *userdata) {
        fail();
}

static const ChannelHandlers server_handlers = { on_server_open, on_drained, on_drained, on_server_closed };

static void turn(void) {
        for (unsigned quiet = 0; quiet < 3;) {
                int r = sd_event_run(event, 0);

                assert_true(r >= 0);
                quiet = r > 0 ? 0 : quiet + 1;
        }
}

static void client_connect(Client *k, size_t cert) {
        int fds[2];

        *k = (Client) {};
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, fds), 0);
        assert_int_equal(channel_new(event, fds[0], clients[cert], NAME, &client_handlers, k, &k->channel), 0);
        assert_int_equal(channel_new(event, fds[1], server, NULL, &server_handlers, k, &k->accepted), 0);
        turn();
        assert_true(k->open && k->server_open);
        assert_true(channel_has_alpn(k->channel));
}

static void client_close(Client *k) {
        k->channel = channel_free(k->channel);
        turn();
}

static void client_hello(Client *k, bool fresh, const char *id, uint64_t received) {
        SessionRecord record = { .type = SESSION_HELLO, .hello = { .fresh = fresh, .keep_sec = 60, .received = received } };
        uint8_t wire[SESSION_CONTROL_MAX];

        (void) snprintf((char*) record.hello.id, SESSION_ID_SIZE, "%s", id);
        assert_int_equal(channel_write(k->channel, wire, session_record_write(&record, wire)), 0);
        turn();
}

static void assert_welcome(Client *k, SessionStatus status, uint64_t received) {
        SessionRecord record;

        assert_true(k->n_got >= SESSION_WELCOME_SIZE);
        assert_int_equal(session_record_parse(k->got, k->n_got, &record), SESSION_WELCOME_SIZE);
        assert_int_equal(record.type, SESSION_WELCOME);
        assert_int_equal(record.status, status);
        assert_int_equal(record.received, received);
}

static void client_begin(Client *k, size_t cert, const char *id) {
        client_connect(k, cert);
        client_hello(k, true, id, 0);
        assert_welcome(k, SESSION_NEW, 0);
}

static void client_resume(Client *k, size_t cert, const char *id, SessionStatus status, uint64_t received) {
        client_connect(k, cert);
        client_hello(k, false, id, 0);
        assert_welcome(k, status, received);
}

static void on_lost(Relay *r, int error, const char *text, void *userdata) {
}

static const RelayHandlers relay_handlers = { .on_upstream_lost = on_lost };

static int setup(void **state) {
        static const ChannelHandlers none = {};
        Channel *upstream;
        int fds[2];

        (void) remember_fds(state);
        assert_int_equal(sd_event_new(&event), 0);
        assert_int_equal(relay_new(event, NULL, 0, &relay_handlers, NULL, &relay), 0);
        assert_int_equal(workers_new(event, relay, &no_context, &workers), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0, fds), 0);
        assert_int_equal(channel_new(event, fds[0], NULL, NULL, &none, NULL, &upstream), 0);
        relay_set_upstream(relay, upstream);
        agent = fds[1];
        return 0;
}

static int teardown(void **state) {
        relay = relay_free(relay);
        workers = workers_free(workers);
        event = sd_event_unref(event);
        agent = close_fd(agent);
        return compare_fds(state);
}

static TlsContext* make_context(const TlsSettings *settings) {
        TlsContext *c = NULL;
        char *error = NULL;

        assert_int_equal(tls_context_new(settings, &c, &error), 0);
        return c;
}

static int make_certs(void **state) {
        char trust[16384];

        log_set_max_level(LOG_ERR);
        server_cert = test_cert_make(&(TestCertSpec) { .name = NAME, .purpose = GNUTLS_KP_TLS_WWW_SERVER });
        for (size_t i = 0; i < 2; i++)
                certs[i] = test_cert_make(&(TestCertSpec) { .purpose = GNUTLS_KP_TLS_WWW_CLIENT });
        (void) snprintf(trust, sizeof(trust), "%s%s", certs[0].cert, certs[1].cert);
        server = make_context(&(TlsSettings) { .server = true, .key = server_cert.key, .cert = server_cert.cert, .trust = trust,
                                               .min_version = TLS_VERSION_1_3, .alpn = SESSION_ALPN });
        for (size_t i = 0; i < 2; i++)
                clients[i] = make_context(&(TlsSettings) { .key = certs[i].key, .cert = certs[i].cert, .trust = server_cert.cert,
                                                           .min_version = TLS_VERSION_1_3, .alpn = SESSION_ALPN });
        return 0;
}

static int free_certs(void **state) {
        test_cert_done(&server_cert);
        tls_context_unref(server);
        for (size_t i = 0; i < 2; i++) {
                test_cert_done(&certs[i]);
                tls_context_unref(clients[i]);
        }
        return 0;
}

static void a_session_is_resumed_where_it_was_cut(void **state) {
        Client k;
        uint8_t b;

        client_begin(&k, 0, "one");
        assert_int_equal(relay_get_n_connections(relay), 1);

        /* The beginning of a frame, cut within: 7 bytes of its header. */
        assert_int_equal(channel_write(k.channel, "\x03\x00\x00\x07" "\x00\x00\x00\x04\x00\x00\x00", 11), 0);
        turn();
        client_close(&k);
        assert_int_equal(relay_get_n_connections(relay), 1);

        client_resume(&k, 0, "one", SESSION_RESUMED, 7);
        assert_int_equal(relay_get_n_connections(relay), 1);
        assert_int_equal(recv(agent, &b, 1, MSG_DONTWAIT), -1);
        assert_int_equal(channel_write(k.channel, "\x03\x00\x00\x07" "\x01\x01\x00\x0a\x02" "ab", 11), 0);
        turn();
        assert_int_equal(recv(agent, &b, 1, MSG_DONTWAIT), 1);  /* a whole frame went to the agent */
        client_close(&k);
}

static void another_certificate_resumes_nothing_with_the_right_id(void **state) {
        Client k, thief;

        client_begin(&k, 0, "one");
        client_close(&k);
        client_resume(&thief, 1, "one", SESSION_UNKNOWN, 0);
        assert_null(thief.channel);     /* and is shown out */
        client_resume(&k, 0, "one", SESSION_RESUMED, 0);
        client_close(&k);
}

static void a_fresh_greeting_of_another_certificate_with_the_id_gets_a_session_of_its_own(void **state) {
        Client k, thief;

        client_begin(&k, 0, "one");
        client_begin(&thief, 1, "one");
        assert_int_equal(relay_get_n_connections(relay), 2);
        assert_non_null(k.channel);
        client_close(&k);
        client_close(&thief);
        client_resume(&k, 0, "one", SESSION_RESUMED, 0);
        client_close(&k);
}

static void a_guessed_id_resumes_nothing(void **state) {
        Client k, guess;

        client_begin(&k, 0, "one");
        client_resume(&guess, 0, "two", SESSION_UNKNOWN, 0);
        assert_null(guess.channel);
        assert_non_null(k.channel);
        client_close(&k);
}

static void the_newer_connection_wins_and_the_older_is_closed(void **state) {
        Client old, new;

        client_begin(&old, 0, "one");
        client_resume(&new, 0, "one", SESSION_RESUMED, 0);
        turn();
        assert_null(old.channel);
        assert_int_equal(old.n_got, SESSION_WELCOME_SIZE);
        assert_int_equal(relay_get_n_connections(relay), 1);
        client_close(&new);
}

static void a_fresh_session_ends_what_the_same_certificate_left_behind(void **state) {
        Client k, other;

        client_begin(&other, 1, "other");
        client_close(&other);
        client_begin(&k, 0, "one");
        client_close(&k);
        assert_int_equal(relay_get_n_connections(relay), 2);

        client_begin(&k, 0, "two");
        assert_int_equal(relay_get_n_connections(relay), 2);
        client_close(&k);
        client_resume(&k, 0, "one", SESSION_UNKNOWN, 0);
        client_resume(&other, 1, "other", SESSION_RESUMED, 0);
        client_close(&other);
}

static void a_certificate_keeps_four_sessions_without_a_connection(void **state) {
        Client many[6], k;
        char id[8];

        for (size_t i = 0; i < ELEMENTSOF(many); i++) {
                (void) snprintf(id, sizeof(id), "s%zu", i);
                client_begin(&many[i], 0, id);
        }
        for (size_t i = 0; i < ELEMENTSOF(many); i++)
                client_close(&many[i]);
        assert_int_equal(relay_get_n_connections(relay), WORKERS_AWAY_MAX);
        client_resume(&k, 0, "s1", SESSION_UNKNOWN, 0);
        client_resume(&k, 0, "s2", SESSION_RESUMED, 0);
        client_close(&k);
}

static void bye_ends_a_session_at_once(void **state) {
        Client k;

        client_begin(&k, 0, "one");
        assert_int_equal(channel_write(k.channel, "\x05\x00\x00\x00", 4), 0);
        turn();
        assert_int_equal(relay_get_n_connections(relay), 0);
        assert_null(k.channel);
        client_resume(&k, 0, "one", SESSION_UNKNOWN, 0);
}

static void assert_end(Client *k, size_t offset, const char *text) {
        SessionRecord record;

        assert_true(k->n_got > offset);
        assert_int_equal(session_record_parse((const uint8_t*) k->got + offset, k->n_got - offset, &record), SESSION_HEADER_SIZE + strlen(text));
        assert_int_equal(record.type, SESSION_END);
        assert_int_equal(record.length, strlen(text));
        assert_memory_equal(record.text, text, record.length);
}

static void everybody_is_told_why_the_vm_ends(void **state) {
        Client there, resuming, fresh;

        client_begin(&there, 0, "a");
        client_begin(&resuming, 1, "b");
        client_close(&resuming);
        workers_set_end(workers, "the agent is d\303\251ad");

        /* Who is away, or new, with the next greeting; who is there, when the connection is closed. */
        client_connect(&resuming, 1);
        client_hello(&resuming, false, "b", 0);
        assert_end(&resuming, 0, "the agent is d??ad");
        client_connect(&fresh, 1);
        client_hello(&fresh, true, "c", 0);
        assert_end(&fresh, 0, "the agent is d??ad");
        relay = relay_free(relay);
        turn();
        assert_end(&there, SESSION_WELCOME_SIZE, "the agent is d??ad");
        client_close(&there);
        client_close(&resuming);
        client_close(&fresh);
}

static void resuming_with_a_wrong_count_ends_the_session(void **state) {
        Client k;

        client_begin(&k, 0, "one");
        client_close(&k);
        client_connect(&k, 0);
        client_hello(&k, false, "one", 1);      /* nothing was ever sent to it */
        assert_null(k.channel);
        assert_int_equal(relay_get_n_connections(relay), 0);
}

static void who_does_not_greet_is_shown_out(void **state) {
        Client k;

        client_connect(&k, 0);
        assert_int_equal(channel_write(k.channel, "\x00\x00\x00\x05\x00\x00\x00\x01\x01\x00 this is ttrpc without any session", 48), 0);
        turn();
        assert_int_equal(relay_get_n_connections(relay), 0);
        for (unsigned i = 0; i < 2; i++) {
                assert_non_null(k.channel);     /* 48 of 52 bytes: not judged yet */
                assert_int_equal(channel_write(k.channel, "more", 4), 0);
                turn();
                if (!k.channel)
                        break;
        }
        assert_null(k.channel);
}

static void silent_connections_give_way_to_new_ones(void **state) {
        Client silent[WORKERS_GREETINGS_MAX + 1], k;
        size_t n_open = 0;

        for (size_t i = 0; i < ELEMENTSOF(silent); i++)
                client_connect(&silent[i], 0);
        assert_null(silent[0].channel);
        client_begin(&k, 0, "one");
        for (size_t i = 0; i < ELEMENTSOF(silent); i++) {
                n_open += silent[i].channel != NULL;
                silent[i].channel = channel_free(silent[i].channel);
        }
        assert_int_equal(n_open, WORKERS_GREETINGS_MAX - 1);
        client_close(&k);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(a_session_is_resumed_where_it_was_cut, setup, teardown),
                cmocka_unit_test_setup_teardown(another_certificate_resumes_nothing_with_the_right_id, setup, teardown),
                cmocka_unit_test_setup_teardown(a_fresh_greeting_of_another_certificate_with_the_id_gets_a_session_of_its_own, setup, teardown),
                cmocka_unit_test_setup_teardown(a_guessed_id_resumes_nothing, setup, teardown),
                cmocka_unit_test_setup_teardown(the_newer_connection_wins_and_the_older_is_closed, setup, teardown),
                cmocka_unit_test_setup_teardown(a_fresh_session_ends_what_the_same_certificate_left_behind, setup, teardown),
                cmocka_unit_test_setup_teardown(a_certificate_keeps_four_sessions_without_a_connection, setup, teardown),
                cmocka_unit_test_setup_teardown(bye_ends_a_session_at_once, setup, teardown),
                cmocka_unit_test_setup_teardown(everybody_is_told_why_the_vm_ends, setup, teardown),
                cmocka_unit_test_setup_teardown(resuming_with_a_wrong_count_ends_the_session, setup, teardown),
                cmocka_unit_test_setup_teardown(who_does_not_greet_is_shown_out, setup, teardown),
                cmocka_unit_test_setup_teardown(silent_connections_give_way_to_new_ones, setup, teardown),
        };

        return cmocka_run_group_tests(tests, make_certs, free_certs);
}
