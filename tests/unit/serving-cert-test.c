/* SPDX-License-Identifier: Apache-2.0 */
/* The webhook's certificate while its files change, and while nobody takes it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "basic/util.h"
#include "fd-count.h"
#include "kube/webhook/serving-cert.h"

#define PATIENCE_USEC (60 * USEC_PER_SEC)

static struct {
        char dir[32];
        sd_event *event;
        ServingCert *cert;
        CertPair first, second, third, taken;
        unsigned n_asked;               /* to take a pair */
        unsigned n_refusals;            /* that are still to come */
        int log_fd, stderr_fd;          /* what is logged goes to the first one; the second is where it went before */
} rig;

static int on_pair(const CertPair *pair, void *userdata) {
        rig.n_asked++;
        if (rig.n_refusals > 0) {
                rig.n_refusals--;
                return -EMFILE;
        }
        cert_pair_done(&rig.taken);
        rig.taken = (CertPair) { .key = strdup(pair->key), .cert = strdup(pair->cert) };
        return 0;
}

static void put_file(const char *name, const char *text) {
        char path[64];
        FILE *f;

        (void) snprintf(path, sizeof(path), "%s/%s", rig.dir, name);
        f = fopen(path, "we");
        assert_non_null(f);
        assert_int_not_equal(fputs(text, f), EOF);
        assert_int_equal(fclose(f), 0);
}

static void put(const char *key, const char *cert) {
        put_file("tls.key", key);
        put_file("tls.crt", cert);
}

static unsigned n_logged(const char *text) {
        char buffer[8192];
        ssize_t size = pread(rig.log_fd, buffer, sizeof(buffer) - 1, 0);
        unsigned n = 0;

        assert_in_range(size, 0, sizeof(buffer) - 2);
        buffer[size] = '\0';
        for (const char *p = buffer; (p = strstr(p, text)); p++)
                n++;
        return n;
}

static void until_asked(unsigned n) {
        for (uint64_t end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC; rig.n_asked < n;) {
                assert_true(now_usec(CLOCK_MONOTONIC) < end);
                assert_true(sd_event_run(rig.event, USEC_PER_SEC) >= 0);
        }
        assert_int_equal(rig.n_asked, n);
}

static void until_logged(const char *text, unsigned n) {
        for (uint64_t end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC; n_logged(text) < n;) {
                assert_true(now_usec(CLOCK_MONOTONIC) < end);
                assert_true(sd_event_run(rig.event, USEC_PER_SEC) >= 0);
        }
        assert_int_equal(n_logged(text), n);
}

static int make_pair(const char *name, CertPair *ret) {
        return cert_pair_make(&(CertRequest) { .organization = "test", .name = name }, ret);
}

static int setup(void **state) {
        CertPair loaded;

        (void) remember_fds(state);
        memset(&rig, 0, sizeof(rig));
        strcpy(rig.dir, "/tmp/pp-cert-XXXXXX");
        rig.log_fd = memfd_create("log", MFD_CLOEXEC);
        rig.stderr_fd = dup(STDERR_FILENO);
        if (!mkdtemp(rig.dir) || rig.log_fd < 0 || rig.stderr_fd < 0 || dup2(rig.log_fd, STDERR_FILENO) < 0)
                return -1;
        if (make_pair("1", &rig.first) < 0 || make_pair("2", &rig.second) < 0 || make_pair("3", &rig.third) < 0)
                return -1;
        put(rig.first.key, rig.first.cert);
        if (sd_event_new(&rig.event) < 0 || serving_cert_new(rig.event, rig.dir, on_pair, NULL, &rig.cert) < 0 ||
            serving_cert_load(rig.cert, &loaded) < 0)
                return -1;
        cert_pair_done(&loaded);
        return 0;
}

static int teardown(void **state) {
        char path[64];

        serving_cert_free(rig.cert);
        sd_event_unref(rig.event);
        (void) dup2(rig.stderr_fd, STDERR_FILENO);
        (void) close(rig.stderr_fd);
        (void) close(rig.log_fd);
        cert_pair_done(&rig.first);
        cert_pair_done(&rig.second);
        cert_pair_done(&rig.third);
        cert_pair_done(&rig.taken);
        for (size_t i = 0; i < 2; i++) {
                (void) snprintf(path, sizeof(path), "%s/tls.%s", rig.dir, i == 0 ? "key" : "crt");
                (void) unlink(path);
        }
        (void) rmdir(rig.dir);
        return compare_fds(state);
}

static void a_new_pair_is_offered_once(void **state) {
        put(rig.second.key, rig.second.cert);
        until_asked(1);
        assert_string_equal(rig.taken.cert, rig.second.cert);
        put(rig.second.key, rig.second.cert);
        put("x", rig.second.cert);
        until_logged("are no certificate with its key", 1);
        assert_int_equal(rig.n_asked, 1);
}

static void a_pair_that_is_not_taken_is_offered_until_it_is(void **state) {
        rig.n_refusals = 2;
        for (unsigned i = 1; i <= 3; i++) {
                /* Written again, which is quicker than to wait for the time to look by itself. */
                put(rig.second.key, rig.second.cert);
                until_asked(i);
        }
        assert_string_equal(rig.taken.cert, rig.second.cert);
        assert_int_equal(n_logged("Failed to serve with the new certificate"), 1);
}

static void each_pair_that_is_no_good_is_logged_once(void **state) {
        /* What is looked at twice between two others is logged between them, or not at all. */
        put(rig.first.key, rig.second.cert);
        until_logged("are no certificate with its key", 1);
        put(rig.first.key, rig.third.cert);
        until_logged("are no certificate with its key", 2);
        rig.n_refusals = 2;
        put(rig.second.key, rig.second.cert);
        until_logged("Failed to serve with the new certificate", 1);
        put(rig.second.key, rig.second.cert);
        until_asked(2);
        put(rig.third.key, rig.third.cert);
        until_asked(3);
        assert_int_equal(n_logged("Failed to serve with the new certificate"), 1);
        put(rig.first.key, rig.third.cert);
        until_logged("are no certificate with its key", 3);
        assert_int_equal(n_logged("PRIVATE"), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                T(a_new_pair_is_offered_once),
                T(a_pair_that_is_not_taken_is_offered_until_it_is),
                T(each_pair_that_is_no_good_is_logged_once),
        };

        return cmocka_run_group_tests_name("serving-cert", tests, NULL, NULL);
}
