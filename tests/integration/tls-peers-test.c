/* SPDX-License-Identifier: Apache-2.0 */
/* Each TLS profile with another implementation at the other end: OpenSSL's client at the real forwarder, the real proxy at OpenSSL's
 * server. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "basic/io.h"
#include "basic/util.h"
#include "relay-rig.h"

#define PATIENCE_USEC (120 * USEC_PER_SEC)

extern char **environ;

static Rig rig;
static char *scratch[8];
static unsigned n_scratch;

static const char* path_in_rig(const char *name) {
        char **p = scratch + n_scratch++ % ELEMENTSOF(scratch);

        free(*p);
        assert_true(asprintf(p, "%s/%s", rig.dir, name) > 0);
        return *p;
}

static int setup(void **state) {
        rig_make(&rig);
        return 0;
}

static int teardown(void **state) {
        rig_done(&rig);
        for (size_t i = 0; i < ELEMENTSOF(scratch); i++) {
                free(scratch[i]);
                scratch[i] = NULL;
        }
        return 0;
}

/* Puts a list of suites into a configuration that the rig has written. */
static void add_suites(const char *name, const char *suites) {
        static const char marker[] = "\"tls-min-version\"";
        _cleanup_(freep) char *text = NULL, *more = NULL, *path = NULL;
        char *p;

        if (!suites)
                return;
        assert_true(asprintf(&path, "%s/%s", rig.credentials, name) > 0);
        assert_int_equal(read_full_file_at(AT_FDCWD, path, 1 << 20, &text, NULL), 0);
        p = strstr(text, marker);
        assert_non_null(p);
        *p = '\0';
        assert_true(asprintf(&more, "%s\"tls-cipher-suites\":[\"%s\"],%s%s", text, suites, marker, p + sizeof(marker) - 1) > 0);
        assert_int_equal(write_file_atomic(path, more, strlen(more), 0600), 0);
}

static pid_t spawn_openssl(const char *const *argv, const char *output) {
        posix_spawn_file_actions_t actions;
        pid_t pid;

        assert_int_equal(posix_spawn_file_actions_init(&actions), 0);
        assert_int_equal(posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0), 0);
        assert_int_equal(posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY|O_CREAT|O_TRUNC, 0600), 0);
        assert_int_equal(posix_spawn_file_actions_adddup2(&actions, 1, 2), 0);
        assert_int_equal(posix_spawnp(&pid, "openssl", &actions, NULL, (char**) argv, environ), 0);
        (void) posix_spawn_file_actions_destroy(&actions);
        return pid;
}

static bool file_has(const char *path, const char *needle) {
        _cleanup_(freep) char *text = NULL;

        return read_full_file_at(AT_FDCWD, path, 4 << 20, &text, NULL) >= 0 && strstr(text, needle);
}

typedef struct Case {
        const char *min_version, *suites;       /* ours */
        const char *version, *cipher;           /* options of OpenSSL */
        const char *outcome;                    /* "TLSv1.3 NAME" as OpenSSL calls it; NULL: refused */
} Case;

#define GCM256 "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
#define CHACHA "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"

static const Case cases[] = {
        { "VersionTLS13", NULL,   "-tls1_3", NULL,                            "TLS_AES_" },
        { "VersionTLS13", NULL,   "-tls1_2", NULL,                            NULL },
        { "VersionTLS12", NULL,   "-tls1_3", NULL,                            "TLS_AES_" },
        { "VersionTLS12", NULL,   "-tls1_2", NULL,                            "ECDHE-ECDSA-" },
        { "VersionTLS12", NULL,   "-tls1_1", "DEFAULT@SECLEVEL=0",            NULL },
        { "VersionTLS12", NULL,   "-tls1_2", "ECDHE-ECDSA-AES128-SHA",        NULL },
        { "VersionTLS12", GCM256, "-tls1_2", NULL,                            "ECDHE-ECDSA-AES256-GCM-SHA384" },
        { "VersionTLS12", GCM256, "-tls1_2", "ECDHE-ECDSA-AES128-GCM-SHA256", NULL },
        { "VersionTLS12", CHACHA, "-tls1_2", NULL,                            "ECDHE-ECDSA-CHACHA20-POLY1305" },
};

static size_t add_options(const Case *c, const char **argv, size_t n) {
        argv[n++] = c->version;
        if (c->cipher) {
                argv[n++] = "-cipher";
                argv[n++] = c->cipher;
        }
        return n;
}

/* One of a profile's sides; each case has a forwarder or a proxy of its own. */
static void openssls_client_meets_the_forwarder(void **state) {
        const char *cert = path_in_rig("credentials/client.crt"), *key = path_in_rig("credentials/client.key");
        const char *ca = path_in_rig("credentials/server-ca.crt"), *output = path_in_rig("openssl.out");
        char address[32];

        rig_start_agent(&rig);
        (void) snprintf(address, sizeof(address), "127.0.0.1:%u", rig.port);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                const char *argv[24] = { "openssl", "s_client", "-connect", address, "-cert", cert, "-key", key, "-CAfile", ca,
                                         "-verify_return_error", "-verify_hostname", RIG_SERVER_NAME };
                int status;
                pid_t pid;

                /* A suite that is not in the list is refused behind the handshake, which OpenSSL has ended by then. */
                if (cases[i].suites && !cases[i].outcome)
                        continue;
                print_message("%s, %s: %s %s\n", cases[i].min_version, cases[i].suites ?: "any", cases[i].version, cases[i].cipher ?: "any");
                rig.tls_min_version = cases[i].min_version;
                rig_write_config(&rig);
                add_suites("apf.json", cases[i].suites);
                rig_start_forwarder(&rig);
                rig_wait_ready(&rig, 1);

                (void) add_options(cases + i, argv, 13);
                pid = spawn_openssl(argv, output);
                assert_int_equal(waitpid(pid, &status, 0), pid);
                if (cases[i].outcome) {
                        assert_true(file_has(output, "Verify return code: 0 (ok)") || file_has(output, "Verification: OK"));
                        assert_true(file_has(output, cases[i].outcome));
                } else
                        assert_true(status != 0 && file_has(output, "Cipher is (NONE)"));
                assert_int_equal(rig_stop(&rig.forwarder, SIGTERM), 0);
        }
}

static void the_proxy_meets_openssls_server(void **state) {
        const char *cert = path_in_rig("server.crt"), *key = path_in_rig("credentials/server.key");
        const char *ca = path_in_rig("credentials/client.crt"), *output = path_in_rig("openssl.out"), *log = path_in_rig("proxy.log");
        char address[32];

        assert_int_equal(write_file_atomic(cert, rig.server.cert, strlen(rig.server.cert), 0600), 0);
        (void) snprintf(address, sizeof(address), "127.0.0.1:%u", rig.port);
        rig.forwarder_listen = close_fd(rig.forwarder_listen);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                const char *argv[24] = { "openssl", "s_server", "-accept", address, "-cert", cert, "-key", key, "-CAfile", ca,
                                         "-Verify", "1", "-verify_return_error", "-quiet" };
                const char *expected = cases[i].outcome ? "Connected to the forwarder" : ": TLS handshake: ";
                uint64_t end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC;
                pid_t pid;

                print_message("%s, %s: %s %s\n", cases[i].min_version, cases[i].suites ?: "any", cases[i].version, cases[i].cipher ?: "any");
                rig.tls_min_version = cases[i].min_version;
                rig.connect_timeout_usec = PATIENCE_USEC;
                rig_write_config(&rig);
                add_suites("proxy.json", cases[i].suites);
                (void) unlink(log);
                rig.proxy_log = log;
                (void) add_options(cases + i, argv, 14);
                pid = spawn_openssl(argv, output);
                rig_start_proxy(&rig);
                while (!file_has(log, expected)) {
                        char text[512];

                        if (now_usec(CLOCK_MONOTONIC) > end)
                                fail_msg("the proxy has not said '%s'", expected);
                        while (recv(rig.notify_fd, text, sizeof(text), MSG_DONTWAIT) > 0)
                                ;
                        (void) poll(NULL, 0, 10);
                }
                if (!cases[i].outcome)
                        assert_false(file_has(log, "Connected to the forwarder"));
                (void) rig_stop(&rig.proxy, SIGKILL);
                (void) kill(pid, SIGKILL);
                assert_int_equal(waitpid(pid, NULL, 0), pid);
        }
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(openssls_client_meets_the_forwarder, setup, teardown),
                cmocka_unit_test_setup_teardown(the_proxy_meets_openssls_server, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
