/* SPDX-License-Identifier: Apache-2.0 */
/* peerpod-tunneld when requests to the kernel fail, or it is killed, at any step. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "netlab.h"
#include "tunnel-rig.h"

/* Each request to the kernel fails in turn, before or after it had its effect: the call says so and leaves what was before. */
static void failed_steps_are_undone(void **state) {
        const char *when = *state;
        size_t n_fds;
        char *error = NULL;
        int n, failures = 0;

        for (n = 1; n < 100; n++) {
                char *s = NULL;

                (void) setenv("PEERPOD_TEST_FAULT", when, 1);
                (void) setenv("PEERPOD_TEST_FAULT_FILE", "/run/lab/fault", 1);
                start_daemon_as(faulty_program, NULL);
                (void) unsetenv("PEERPOD_TEST_FAULT");
                n_fds = count_fds(daemon_pid);

                /* armed by a file that holds the number of the request that fails */
                lab_sh("echo %i > /run/lab/fault", n);
                error = call("Inspect", NULL, "ss", "s1", "/run/netns/wpod");
                if (error) {
                        free(error);
                        failures++;
                        (void) unlink("/run/lab/fault");
                        expect_nothing_left();
                        assert_int_equal(count_fds(daemon_pid), n_fds);
                } else {
                        error = try_setup("s1", "10.10.1.2");
                        if (error) {
                                failures++;
                                free(error);
                                (void) unlink("/run/lab/fault");
                                expect_empty("ingress hooks", lab_output("tc -n wpod qdisc show dev eth0 | grep -E 'ingress|clsact'"));
                                expect_empty("redirects", lab_output("tc -n wpod qdisc show dev vxlan1 2>/dev/null | grep ingress"));
                                expect_empty("firewall", lab_output("ip netns exec worker nft list ruleset"));
                                expect_empty("devices up", lab_output("ip -n wpod -o link show type vxlan up"));
                                assert_int_equal(count_fds(daemon_pid), n_fds);
                        } else
                                s = lab_output("cat /run/lab/fault");
                }
                /* and then it works */
                (void) unlink("/run/lab/fault");
                connect_pod();
                expect_traffic();
                teardown("s1");
                expect_nothing_left();
                assert_int_equal(stop_daemon(SIGTERM), 0);
                bus = sd_bus_flush_close_unref(bus);
                if (s && strtol(s, NULL, 10) > 0) {     /* it was not reached: that was all of them */
                        free(s);
                        break;
                }
                free(s);
        }
        print_message("%i steps failed in turn\n", failures);
        assert_true(failures > 15 && n < 100);
}

/* Killed before or after each request in turn; the next daemon finds its way. */
static void kill_at_any_step_leaks_nothing(void **state) {
        int n;

        for (n = 1; n < 100; n++) {
                char *error, *s;
                bool killed;

                (void) setenv("PEERPOD_TEST_FAULT", *state, 1);
                (void) setenv("PEERPOD_TEST_FAULT_FILE", "/run/lab/fault", 1);
                start_daemon_as(faulty_program, NULL);
                (void) unsetenv("PEERPOD_TEST_FAULT");
                lab_sh("echo %i > /run/lab/fault", n);
                error = call("Inspect", NULL, "ss", "s1", "/run/netns/wpod");
                if (!error)
                        error = try_setup("s1", "10.10.1.2");
                if (!error)
                        error = call("Teardown", NULL, "ss", "s1", "/run/netns/wpod");
                killed = error;
                free(error);
                (void) unlink("/run/lab/fault");
                (void) stop_daemon(SIGKILL);

                start_daemon(NULL);
                if (n % 2) {
                        s = inspect("s1");
                        free(s);
                        connect_pod();
                        expect_traffic();
                }
                teardown("s1");
                expect_nothing_left();
                assert_int_equal(stop_daemon(SIGTERM), 0);
                bus = sd_bus_flush_close_unref(bus);
                if (!killed)
                        break;
        }
        print_message("killed at %i steps\n", n - 1);
        assert_true(n > 20 && n < 100);
}

int main(int argc, char *argv[]) {
        const struct CMUnitTest tests[] = {
                { "a step that fails before its effect is undone", failed_steps_are_undone, lab_setup, lab_teardown, (void*) "fail-before" },
                { "a step that fails after its effect is undone", failed_steps_are_undone, lab_setup, lab_teardown, (void*) "fail-after" },
                { "killed before any step", kill_at_any_step_leaks_nothing, lab_setup, lab_teardown, (void*) "kill-before" },
                { "killed after any step", kill_at_any_step_leaks_nothing, lab_setup, lab_teardown, (void*) "kill-after" },
        };

        return rig_main(argc, argv, "tunnel-faults", tests, ELEMENTSOF(tests));
}
