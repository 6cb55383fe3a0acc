/* SPDX-License-Identifier: Apache-2.0 */
/* What the adaptor makes of its TLS settings: profiles, given files, reload, warnings of certificates that end, and where keys are. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "../unit/tls-test-certs.h"
#include "adaptor-rig.h"
#include "basic/io.h"

#define DAY 86400L

static TestCert client_a, client_b, ca, ends_soon, has_ended;

static int make_certs(void **state) {
        client_a = test_cert_make(&(TestCertSpec) { .purpose = GNUTLS_KP_TLS_WWW_CLIENT, .from = -300, .to = 60 * DAY });
        client_b = test_cert_make(&(TestCertSpec) { .purpose = GNUTLS_KP_TLS_WWW_CLIENT, .from = -300, .to = 60 * DAY });
        ca = test_cert_make(&(TestCertSpec) { .name = "ca", .is_ca = 1, .from = -300, .to = 60 * DAY });
        ends_soon = test_cert_make(&(TestCertSpec) { .purpose = GNUTLS_KP_TLS_WWW_CLIENT, .from = -300, .to = 2 * DAY });
        has_ended = test_cert_make(&(TestCertSpec) { .purpose = GNUTLS_KP_TLS_WWW_CLIENT, .from = -2 * DAY, .to = -DAY });
        return 0;
}

static int free_certs(void **state) {
        TestCert *all[] = { &client_a, &client_b, &ca, &ends_soon, &has_ended };

        for (size_t i = 0; i < ELEMENTSOF(all); i++)
                test_cert_done(all[i]);
        return 0;
}

/* Variables are inherited by what is started. */
static const char *const variables[] = {
        "CACERT_FILE", "CERT_FILE", "CERT_KEY", "TLS_MIN_VERSION", "TLS_CIPHER_SUITES", "TLS_SKIP_VERIFY", "CERTIFICATE_CHECK",
};

static int end_test(void **state) {
        for (size_t i = 0; i < ELEMENTSOF(variables); i++)
                (void) unsetenv(variables[i]);
        adaptor_options = NULL;
        return teardown(state);
}

static void set(const char *variable, const char *value) {
        assert_int_equal(setenv(variable, value, 1), 0);
}

static const char* log_path(const Test *t) {
        return path_of(t, "adaptor.log");
}

/* Runs a statement with our standard error, and so that of what it starts, in the log. */
#define with_log(t, statement)                                                                          \
        do {                                                                                            \
                int _saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);                                  \
                int _log = open(log_path(t), O_WRONLY|O_CREAT|O_APPEND|O_CLOEXEC, 0600);                \
                                                                                                        \
                assert_true(_saved >= 0 && _log >= 0 && dup2(_log, STDERR_FILENO) >= 0);                \
                statement;                                                                              \
                assert_true(dup2(_saved, STDERR_FILENO) >= 0);                                          \
                close_fd(_saved);                                                                       \
                close_fd(_log);                                                                         \
        } while (false)

static void give_certificate(Test *t, const TestCert *c) {
        write_text(path_of(t, "client.crt"), c->cert);
        write_text(path_of(t, "client.key"), c->key);
        set("CERT_FILE", path_of(t, "client.crt"));
        set("CERT_KEY", path_of(t, "client.key"));
}

/* As in JSON. */
static char* escaped(const char *pem) {
        char *text = malloc(2 * strlen(pem) + 1), *p = text;

        assert_non_null(text);
        for (; *pem; pem++)
                if (*pem == '\n') {
                        *p++ = '\\';
                        *p++ = 'n';
                } else
                        *p++ = *pem;
        *p = '\0';
        return text;
}

static bool user_data_has(const Test *t, const char *needle) {
        return count(path_of(t, "run/" ID "/user-data"), needle) > 0;
}

static bool proxy_has(const Test *t, const char *needle) {
        return count(path_of(t, "run/" ID "/proxy.json"), needle) > 0;
}

static void a_profile_reaches_both_ends(void **state) {
        static const struct {
                const char *version, *suites, *expected_version, *expected_suite;
        } cases[] = {
                { "", "", "VersionTLS13", NULL },
                { "VersionTLS13", "", "VersionTLS13", NULL },
                { "VersionTLS12", "", "VersionTLS12", NULL },
                { "", " TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, ,", "VersionTLS12", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" },
        };
        Test *t = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                TtrpcClient *client;
                char version[64];

                set("TLS_MIN_VERSION", cases[i].version);
                set("TLS_CIPHER_SUITES", cases[i].suites);
                restart_adaptor(t, SIGTERM);
                client = connect_shim(t);
                create_ok(t, client);
                (void) snprintf(version, sizeof(version), "\"tls-min-version\": \"%s\"", cases[i].expected_version);
                assert_true(user_data_has(t, version));
                assert_int_equal(user_data_has(t, "tls-cipher-suites"), !!cases[i].expected_suite);
                assert_true(!cases[i].expected_suite || user_data_has(t, cases[i].expected_suite));
                start_ok(t, client);
                (void) snprintf(version, sizeof(version), "\"tls-min-version\":\"%s\"", cases[i].expected_version);
                assert_true(proxy_has(t, version));
                assert_int_equal(proxy_has(t, "tls-cipher-suites"), !!cases[i].expected_suite);
                assert_true(!cases[i].expected_suite || proxy_has(t, cases[i].expected_suite));
                stop_ok(t, client);
                ttrpc_client_free(client);
                wait_until(t, all_gone(t));
        }
}

static void bad_tls_settings_are_refused_with_their_reason(void **state) {
        static const struct {
                const char *name, *value, *name2, *value2, *text;
        } cases[] = {
                { "TLS_MIN_VERSION", "VersionTLS10", NULL, NULL, "TLS 1.0 and 1.1 are not supported, use VersionTLS12 or VersionTLS13" },
                { "TLS_MIN_VERSION", "VersionTLS11", NULL, NULL, "TLS 1.0 and 1.1 are not supported, use VersionTLS12 or VersionTLS13" },
                { "TLS_MIN_VERSION", "TLSv1.2", NULL, NULL, "Invalid TLS profile: value of 'tls-min-version' is not one of" },
                { "TLS_CIPHER_SUITES", "TLS_RSA_WITH_RC4_128_SHA", NULL, NULL, "unknown TLS cipher suite 'TLS_RSA_WITH_RC4_128_SHA'" },
                { "TLS_CIPHER_SUITES", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_MIN_VERSION", "VersionTLS13",
                  "Invalid TLS profile: 'tls-cipher-suites': cipher suites cannot be chosen with VersionTLS13" },
                { "TLS_SKIP_VERIFY", "true", NULL, NULL, "'tls-skip-verify' would let anybody be the pod VM" },
                { "CERT_FILE", "/nonexistent/c", NULL, NULL, "'cert-file' and 'cert-key' need one another" },
                { "CACERT_FILE", "/nonexistent/ca", NULL, NULL, "'ca-cert-file' needs 'cert-file' and 'cert-key'" },
                { "CERT_FILE", "/nonexistent/c", "CERT_KEY", "/nonexistent/k", "Failed to read '/nonexistent/c', named by 'cert-file'" },
                { "CERT_FILE", "/dev/null", "CERT_KEY", "/dev/null", "Files '/dev/null' and '/dev/null' are no PEM certificate" },
        };
        Test *t = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                int status;
                pid_t pid;

                set(cases[i].name, cases[i].value);
                if (cases[i].name2)
                        set(cases[i].name2, cases[i].value2);
                with_log(t, pid = spawn(adaptor_program, NULL));
                assert_int_equal(waitpid(pid, &status, 0), pid);
                assert_true(WIFEXITED(status));
                assert_int_equal(WEXITSTATUS(status), 78);
                if (count(log_path(t), cases[i].text) == 0)
                        fail_msg("not said: %s", cases[i].text);
                assert_int_equal(unlink(log_path(t)), 0);
                assert_int_equal(unsetenv(cases[i].name), 0);
                if (cases[i].name2)
                        assert_int_equal(unsetenv(cases[i].name2), 0);
        }
}

/* Elsewhere the file is read with the first VM's proxy only, and that VM takes any client (cloud-api-adaptor: pkg/adaptor/proxy). */
static void the_first_vm_is_told_the_given_client_certificate(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        _cleanup_(freep) char *pem = escaped(client_a.cert), *text = NULL;
        Test *t = *state;

        give_certificate(t, &client_a);
        /* As ACME clients and Kubernetes keep them. */
        assert_int_equal(symlink("client.crt", path_of(t, "link.crt")), 0);
        set("CERT_FILE", path_of(t, "link.crt"));
        restart_adaptor(t, SIGTERM);
        client = connect_shim(t);
        create_ok(t, client);
        assert_true(asprintf(&text, "\"tls-client-ca\": \"%s\"", pem) > 0);
        assert_true(user_data_has(t, text));
        assert_int_equal(count(path_of(t, "run/" ID "/client.crt"), client_a.cert), 1);
        stop_ok(t, client);
}

static void with_a_ca_of_the_image_nothing_of_tls_is_sent(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        Test *t = *state;

        give_certificate(t, &client_a);
        write_text(path_of(t, "ca.crt"), ca.cert);
        set("CACERT_FILE", path_of(t, "ca.crt"));
        restart_adaptor(t, SIGTERM);
        client = connect_shim(t);
        create_ok(t, client);
        assert_false(user_data_has(t, "tls-server-key"));
        assert_false(user_data_has(t, "tls-server-cert"));
        assert_false(user_data_has(t, "tls-client-ca"));
        start_ok(t, client);
        assert_true(proxy_has(t, "\"server-name\":\"podvm-server\""));
        assert_int_equal(count(path_of(t, "run/" ID "/server-ca.crt"), ca.cert), 1);
        stop_ok(t, client);
}

static void reload(Test *t, const char *expected) {
        unsigned before = count(log_path(t), expected);

        assert_int_equal(kill(t->adaptor, SIGHUP), 0);
        wait_until(t, count(log_path(t), expected) > before);
}

/* An environment file with a profile, as the unit has it. */
static void give_environment(Test *t, const char *text) {
        static char option[300];
        static const char *const options[] = { option, NULL };

        write_text(path_of(t, "cm.env"), text);
        (void) snprintf(option, sizeof(option), "--environment-file=%s", path_of(t, "cm.env"));
        adaptor_options = options;
}

static void a_reload_is_for_new_sandboxes(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        Test *t = *state;
        Call c;

        give_certificate(t, &client_a);
        set("TLS_MIN_VERSION", "VersionTLS12");         /* what systemd has read from the file */
        give_environment(t, "TLS_MIN_VERSION=VersionTLS12\n");
        with_log(t, restart_adaptor(t, SIGTERM));
        client = connect_shim(t);
        create_ok(t, client);

        write_text(path_of(t, "client.crt"), client_b.cert);
        write_text(path_of(t, "client.key"), client_b.key);
        write_text(path_of(t, "cm.env"), "# nothing but the default\n");
        reload(t, "TLS settings have been read again");

        /* The one that was planned before keeps what its VM is told. */
        start_ok(t, client);
        assert_true(proxy_has(t, "VersionTLS12"));
        assert_int_equal(count(path_of(t, "run/" ID "/client.crt"), client_a.cert), 1);

        begin_create(client, &c, "other", "/run/netns/other", "other", NULL);
        finish(t, &c, 0);
        assert_int_equal(count(path_of(t, "run/other/client.crt"), client_b.cert), 1);
        assert_int_equal(count(path_of(t, "run/other/user-data"), "\"tls-min-version\": \"VersionTLS13\""), 1);

        /* So it is after a restart, which writes the proxy's settings anew. */
        assert_int_equal(unsetenv("TLS_MIN_VERSION"), 0);
        assert_int_equal(unlink(path_of(t, "run/" ID "/proxy.json")), 0);
        ttrpc_client_free(TAKE_PTR(client));
        with_log(t, restart_adaptor(t, SIGTERM));
        client = connect_shim(t);
        wait_until(t, proxy_has(t, "VersionTLS12"));

        begin_stop(client, &c, "other");
        finish(t, &c, 0);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
}

static void a_reload_of_bad_files_changes_nothing(void **state) {
        static const char *const bad[] = { "TLS_MIN_VERSION=VersionTLS11\n", "CERT_KEY=/nonexistent\n", "TLS_CIPHER_SUITES='x'\n" };
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        Test *t = *state;

        give_certificate(t, &client_a);
        give_environment(t, "");
        with_log(t, restart_adaptor(t, SIGTERM));
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                write_text(path_of(t, "cm.env"), bad[i]);
                reload(t, "going on with those of before");
        }
        write_text(path_of(t, "cm.env"), "");
        write_text(path_of(t, "client.crt"), client_b.cert);    /* the key is still the other one's */
        reload(t, "going on with those of before");

        client = connect_shim(t);
        create_ok(t, client);
        assert_int_equal(count(path_of(t, "run/" ID "/client.crt"), client_a.cert), 1);
        assert_int_equal(count(path_of(t, "run/" ID "/client.key"), client_a.key), 1);
        stop_ok(t, client);
}

static void certificates_that_end_are_told_of(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        Test *t = *state;
        char given[300];

        (void) snprintf(given, sizeof(given), "Certificate '%s' ends in", path_of(t, "client.crt"));
        give_certificate(t, &client_a);
        with_log(t, restart_adaptor(t, SIGTERM));
        assert_int_equal(count(log_path(t), "Certificate"), 0);         /* 60 days are long */

        give_certificate(t, &ends_soon);
        set("CERTIFICATE_CHECK", "1s");
        with_log(t, restart_adaptor(t, SIGTERM));
        client = connect_shim(t);
        create_ok(t, client);
        start_ok(t, client);
        wait_until(t, count(log_path(t), given) >= 2);                  /* again and again */
        wait_until(t, count(log_path(t), "Certificate of sandbox '" ID "' ends in") >= 2);
        stop_ok(t, client);
        wait_until(t, all_gone(t));

        assert_int_equal(unsetenv("CERTIFICATE_CHECK"), 0);
        give_certificate(t, &has_ended);
        with_log(t, restart_adaptor(t, SIGTERM));
        assert_int_equal(count(log_path(t), "has ended, since"), 1);
}

/* ---- keys -------------------------------------------------------------------------------------------------------------------------- */

typedef struct Monitor {
        sd_bus *bus;
        char *needle;                   /* the second line of the client's key */
        unsigned n_messages, n_keys;
} Monitor;

static int on_message(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Monitor *monitor = userdata;
        _cleanup_(freep) char *text = NULL;
        size_t size;
        FILE *f = open_memstream(&text, &size);

        assert_non_null(f);
        (void) sd_bus_message_dump(m, f, SD_BUS_MESSAGE_DUMP_WITH_HEADER);
        assert_int_equal(fclose(f), 0);
        monitor->n_messages++;
        if (strstr(text, "PRIVATE KEY") || (monitor->needle && strstr(text, monitor->needle)))
                monitor->n_keys++;
        return 1;
}

static void keys_are_in_files_of_their_owner_and_nowhere_else(void **state) {
        static const char *const names[] = { "client.key", "client.crt", "server-ca.crt", "user-data" };
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        _cleanup_(freep) char *key = NULL;
        Test *t = *state;
        Monitor monitor = {};
        struct stat st;

        assert_true(sd_bus_open_system(&monitor.bus) >= 0);
        assert_true(sd_bus_call_method(monitor.bus, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus.Monitoring",
                                       "BecomeMonitor", NULL, NULL, "asu", 0, 0) >= 0);
        assert_true(sd_bus_add_filter(monitor.bus, NULL, on_message, &monitor) >= 0);
        assert_true(sd_bus_attach_event(monitor.bus, t->event, 0) >= 0);

        client = connect_shim(t);
        create_ok(t, client);
        assert_int_equal(stat(path_of(t, "run/" ID), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0700);
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                char name[128];

                (void) snprintf(name, sizeof(name), "run/" ID "/%s", names[i]);
                assert_int_equal(stat(path_of(t, name), &st), 0);
                assert_int_equal(st.st_mode & 07777, 0600);
                assert_int_equal(st.st_uid, geteuid());
        }
        key = read_text(path_of(t, "run/" ID "/client.key"));
        assert_non_null(strchr(key, '\n'));
        monitor.needle = strchr(key, '\n') + 1;
        monitor.needle[strcspn(monitor.needle, "\n")] = '\0';
        assert_true(strlen(monitor.needle) > 40);
        assert_int_equal(count(path_of(t, "state/sandboxes/" ID ".json"), "PRIVATE KEY"), 0);

        start_ok(t, client);
        assert_false(exists(path_of(t, "run/" ID "/user-data")));       /* it held the VM's key */
        assert_string_equal(property(t, "State"), "running");
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        assert_false(exists(path_of(t, "run/" ID)));

        assert_true(monitor.n_messages > 10);
        assert_int_equal(monitor.n_keys, 0);
        sd_bus_flush_close_unref(monitor.bus);
}

static void nothing_secret_is_logged(void **state) {
        static const Annotation initdata = { P "cc_init_data", "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\nx = \"hush-hush\"\n" };
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        _cleanup_(freep) char *key = NULL;
        Test *t = *state;
        Call c;

        give_certificate(t, &client_a);
        set("PEERPOD_LOG_LEVEL", "debug");
        with_log(t, restart_adaptor(t, SIGTERM));
        client = connect_shim(t);
        begin_create(client, &c, ID, NETNS, "web", &initdata);
        finish(t, &c, 0);
        assert_true(user_data_has(t, "/run/peerpod/initdata"));
        start_ok(t, client);
        begin_create(client, &c, "bad", NETNS, "web", &(Annotation) { P "default_vcpus", "hush-hush" });
        finish(t, &c, TTRPC_INVALID_ARGUMENT);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        assert_int_equal(kill(t->adaptor, SIGHUP), 0);
        wait_until(t, count(log_path(t), "have been read again") == 1);
        assert_int_equal(unsetenv("PEERPOD_LOG_LEVEL"), 0);

        key = strndup(strchr(client_a.key, '\n') + 1, 48);
        assert_true(count(log_path(t), "Sandbox '" ID "' is gone") == 1);
        assert_int_equal(count(log_path(t), "hush-hush"), 0);
        assert_int_equal(count(log_path(t), "PRIVATE KEY"), 0);
        assert_int_equal(count(log_path(t), key), 0);
}

int main(int argc, char *argv[]) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, end_test)
        const struct CMUnitTest tests[] = {
                TEST(a_profile_reaches_both_ends),
                TEST(bad_tls_settings_are_refused_with_their_reason),
                TEST(the_first_vm_is_told_the_given_client_certificate),
                TEST(with_a_ca_of_the_image_nothing_of_tls_is_sent),
                TEST(a_reload_is_for_new_sandboxes),
                TEST(a_reload_of_bad_files_changes_nothing),
                TEST(certificates_that_end_are_told_of),
                TEST(keys_are_in_files_of_their_owner_and_nowhere_else),
                TEST(nothing_secret_is_logged),
        };

        if (argc != 5)
                return 2;
        adaptor_program = argv[1];
        providerd_program = argv[2];
        module_directory = argv[3];
        fakes_program = argv[4];
        if (getenv("CMOCKA_TEST_FILTER"))
                cmocka_set_test_filter(getenv("CMOCKA_TEST_FILTER"));

        return cmocka_run_group_tests_name("adaptor-tls", tests, make_certs, free_certs);
}
