/* SPDX-License-Identifier: Apache-2.0 */
/* How long the tunnel's calls take, and what the tunnel costs compared with the plain bridge, in one run on one machine. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "basic/bus-private.h"
#include "basic/daemon.h"
#include "basic/io.h"
#include "basic/util.h"
#include "netlab.h"

#define N_CALLS 50
#define N_BYTES (UINT64_C(1) << 30)
#define N_RUNS 3

static const char *tunneld_program, *pod_network_program;
static sd_bus *bus = NULL;

static uint64_t timed_call(const char *method, char **ret_text, const char *types, ...) {
        sd_bus_error error = SD_BUS_ERROR_NULL;
        sd_bus_message *m = NULL, *reply = NULL;
        uint64_t begin;
        const char *s;
        va_list ap;

        assert_int_equal(sd_bus_message_new_method_call(bus, &m, NULL, "/org/confidentialcontainers/PeerPod1/Tunnel",
                                                        "org.confidentialcontainers.PeerPod1.Tunnel", method), 0);
        va_start(ap, types);
        assert_true(sd_bus_message_appendv(m, types, ap) >= 0);
        va_end(ap);
        begin = now_usec(CLOCK_MONOTONIC);
        if (sd_bus_call(bus, m, 30 * USEC_PER_SEC, &error, &reply) < 0)
                print_error("%s: %s\n", method, error.message);
        assert_non_null(reply);
        begin = now_usec(CLOCK_MONOTONIC) - begin;
        if (ret_text) {
                assert_true(sd_bus_message_read(reply, "s", &s) > 0);
                *ret_text = strdup(s);
        }
        sd_bus_message_unref(m);
        sd_bus_message_unref(reply);
        return begin;
}

static void report(const char *what, uint64_t usec) {
        print_message("%-46s %8.2f ms\n", what, (double) usec / 1000 / N_CALLS);
}

static double gbits(const char *from, const char *to, const char *address) {
        uint64_t best = UINT64_MAX;

        for (int i = 0; i < N_RUNS; i++) {
                uint64_t usec = lab_tcp(from, to, address, N_BYTES, 60000);

                assert_true(usec > 0);
                best = MIN(best, usec);
        }
        return (double) N_BYTES * 8 / 1000 / (double) best;
}

static void tunnel_bench(void **state) {
        char *argv[] = { (char*) tunneld_program, (char*) "--user", (char*) "root", (char*) "--runtime-dir", (char*) "/run/lab/tunnel", NULL };
        char *pn_argv[] = { (char*) pod_network_program, (char*) "setup", (char*) "--config", (char*) "/run/lab/apf.json", NULL };
        uint64_t inspect = 0, setup = 0, teardown = 0, vm;
        sd_event *event = NULL;
        char *pn = NULL, *apf;
        double plain, there, back;
        pid_t pid;
        int fd;

        lab_up();
        assert_int_equal(sd_event_new(&event), 0);
        fd = daemon_listen_unix("/run/lab/tunnel.sock");
        pid = lab_spawn("worker", fd, NULL, "tunneld.log", argv);
        assert_int_equal(bus_private_connect(event, "/run/lab/tunnel.sock", &bus), 0);
        (void) timed_call("List", NULL, "");

        for (int i = 0; i < N_CALLS; i++) {
                free(pn);
                inspect += timed_call("Inspect", &pn, "ss", "s1", "/run/netns/wpod");
                setup += timed_call("Setup", NULL, "ssas", "s1", "/run/netns/wpod", 1, "10.10.1.2");
                teardown += timed_call("Teardown", NULL, "ss", "s1", "/run/netns/wpod");
        }
        report("Inspect", inspect);
        report("Setup", setup);
        report("Teardown", teardown);

        /* the same path by the bridge alone: the peer pod sends to one that is no peer pod */
        plain = gbits("peer", "wpod", "10.128.0.2");
        free(pn);
        (void) timed_call("Inspect", &pn, "ss", "s1", "/run/netns/wpod");
        (void) timed_call("Setup", NULL, "ssas", "s1", "/run/netns/wpod", 1, "10.10.1.2");
        assert_true(asprintf(&apf, "{\"pod-network\":%s}", pn) >= 0);
        assert_int_equal(write_file_atomic("/run/lab/apf.json", apf, strlen(apf), 0600), 0);
        vm = now_usec(CLOCK_MONOTONIC);
        assert_int_equal(lab_wait(lab_spawn("vm", -1, NULL, "pod-network.log", pn_argv)), 0);
        print_message("%-46s %8.2f ms\n", "pod-network setup (process)", (double) (now_usec(CLOCK_MONOTONIC) - vm) / 1000);
        there = gbits("peer", "podns", "10.128.0.2");
        back = gbits("podns", "peer", "10.128.0.9");
        print_message("%-46s %8.2f Gbit/s\n", "TCP, pod to pod by the bridge, MTU 1450", plain);
        print_message("%-46s %8.2f Gbit/s (%.0f%%)\n", "TCP, pod to pod VM by the tunnel", there, there * 100 / plain);
        print_message("%-46s %8.2f Gbit/s (%.0f%%)\n", "TCP, pod VM to pod by the tunnel", back, back * 100 / plain);

        (void) kill(pid, SIGTERM);
        assert_int_equal(lab_wait(pid), 0);
        free(apf);
        free(pn);
        close_fd(fd);
        bus = sd_bus_flush_close_unref(bus);
        sd_event_unref(event);
        lab_down();
}

int main(int argc, char *argv[]) {
        const struct CMUnitTest tests[] = { cmocka_unit_test(tunnel_bench) };

        if (argc < 3)
                return 2;
        tunneld_program = argv[1];
        pod_network_program = argv[2];
        if (!lab_enter())
                return 77;
        return cmocka_run_group_tests(tests, NULL, NULL);
}
