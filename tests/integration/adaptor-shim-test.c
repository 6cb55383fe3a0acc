/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of a sandbox whose shim is gone, and of what only looks like that.
 *
 * That a sandbox is left alone takes time to show: another one, which is reaped, is put beside it afterwards as a clock. */
#include "adaptor-rig.h"

#include <signal.h>
#include <stdio.h>

#include "agent-proxy/proxy-status.h"
#include "basic/io.h"

#define OTHER "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
#define UNIT(id) "peerpod-agent-proxy@" id ".service"

/* A path that is a network namespace whoever looks at it, and one that is none. */
#define NETNS_THERE "/proc/self/ns/net"
#define NETNS_GONE "/run/netns/cni-that-was-removed"

static int setup_impatient(void **state) {
        static const char *const options[] = { "--shim-grace-time=1s", NULL };

        adaptor_options = options;
        return setup(state);
}

/* A process of its own that asks for CreateVM and StartVM, says when that was done, and stays until it is killed. */
static pid_t start_shim(Test *t, const char *id, const char *netns, const char *pod) {
        int ends[2];
        char byte;
        pid_t pid;

        assert_int_equal(pipe(ends), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                TtrpcClient *client;
                Call c;

                if (sd_event_new(&t->event) < 0 || ttrpc_client_new_unix(t->event, path_of(t, "hypervisor.sock"), &client) < 0)
                        _exit(1);
                begin_create(client, &c, id, netns, pod, NULL);
                while (!c.done && sd_event_run(t->event, UINT64_MAX) >= 0)
                        ;
                if (c.code != TTRPC_OK)
                        _exit(1);
                begin_start(client, &c, id, 0);
                while (!c.done && sd_event_run(t->event, UINT64_MAX) >= 0)
                        ;
                /* kata's Go runtime has a connection for each call */
                ttrpc_client_free(client);
                if (c.code == TTRPC_OK && write(ends[1], "", 1) == 1)
                        for (;;)
                                (void) pause();
                _exit(1);
        }

        close_fd(ends[1]);
        if (read(ends[0], &byte, 1) != 1)
                fail_msg("the shim of '%s' has failed", pod);
        close_fd(ends[0]);
        return pid;
}

/* One that the adaptor knows to be a shim, since it has been there for a while. */
static pid_t start_known_shim(Test *t, const char *id, const char *pod) {
        pid_t pid = start_shim(t, id, NETNS_THERE, pod);
        char name[128];

        (void) snprintf(name, sizeof(name), "run/%s/shim", id);
        wait_until(t, exists(path_of(t, name)));
        return pid;
}

static void end_sandbox(Test *t, pid_t *shim) {
        TtrpcClient *client = connect_shim(t);

        (void) end_process(shim, SIGKILL);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

/* All that takes one second has had it when this returns. */
static void let_another_be_reaped(Test *t) {
        pid_t shim = start_known_shim(t, OTHER, "other");

        tell_fakes(t, "SetStatus", UNIT(OTHER), PROXY_STATUS_CONNECTED "0");
        (void) end_process(&shim, SIGKILL);
        wait_until(t, streq(property_of(t, OTHER, "State"), ""));
}

static void a_sandbox_without_network_namespace_is_reaped(void **state) {
        Test *t = *state;
        pid_t shim = start_shim(t, ID, NETNS_GONE, "web");

        (void) end_process(&shim, SIGKILL);
        /* As root sees it, it is there: a path that the adaptor may not look at. */
        wait_until(t, count(path_of(t, "calls"), "HasNetworkNamespace " ID) >= 2);
        assert_string_equal(property(t, "State"), "running");

        control_fakes(t, "has-netns=no\n");
        wait_until(t, all_gone(t));
        assert_true(called(t, "Teardown " ID));
}

static void a_planned_sandbox_without_network_namespace_is_reaped(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        control_fakes(t, "has-netns=no\n");
        create_ok(t, client);
        ttrpc_client_free(client);
        wait_until(t, all_gone(t));
}

static void a_tunnel_service_that_cannot_tell_is_asked_again(void **state) {
        Test *t = *state;
        pid_t shim = start_shim(t, ID, NETNS_GONE, "web");

        (void) end_process(&shim, SIGKILL);
        control_fakes(t, "has-netns=Internal:too many open files\n");
        wait_until(t, count(path_of(t, "calls"), "HasNetworkNamespace " ID) >= 2);
        assert_string_equal(property(t, "State"), "running");
        control_fakes(t, "has-netns=no\n");
        wait_until(t, all_gone(t));
}

static void a_living_shim_keeps_its_sandbox(void **state) {
        Test *t = *state;
        pid_t shim = start_shim(t, ID, NETNS_GONE, "web");

        control_fakes(t, "has-netns=no\n");
        tell_fakes(t, "SetStatus", UNIT(ID), PROXY_STATUS_CONNECTED "0");
        let_another_be_reaped(t);
        assert_string_equal(property(t, "State"), "running");
        assert_false(called(t, "HasNetworkNamespace " ID));
        end_sandbox(t, &shim);
}

static void a_shim_that_was_killed_is_missed(void **state) {
        Test *t = *state;
        pid_t shim = start_known_shim(t, ID, "web");

        /* Somebody is still connected: whatever it is, it is no pod without a user. */
        tell_fakes(t, "SetStatus", UNIT(ID), PROXY_STATUS_CONNECTED "1");
        (void) end_process(&shim, SIGKILL);
        let_another_be_reaped(t);
        assert_string_equal(property(t, "State"), "running");

        tell_fakes(t, "SetStatus", UNIT(ID), PROXY_STATUS_CONNECTED "0");
        wait_until(t, all_gone(t));
        assert_false(called(t, "HasNetworkNamespace"));
}

static void a_proxy_that_does_not_tell_its_clients_keeps_the_sandbox(void **state) {
        Test *t = *state;
        pid_t shim = start_known_shim(t, ID, "web");

        tell_fakes(t, "SetStatus", UNIT(ID), "Connected to the pod VM.");
        (void) end_process(&shim, SIGKILL);
        let_another_be_reaped(t);
        assert_string_equal(property(t, "State"), "running");
        end_sandbox(t, &shim);
}

static void what_a_tool_has_started_is_left_alone(void **state) {
        Test *t = *state;
        pid_t tool = start_shim(t, ID, NETNS_THERE, "web");

        (void) end_process(&tool, SIGKILL);     /* at once, as peerpodctl does */
        tell_fakes(t, "SetStatus", UNIT(ID), PROXY_STATUS_CONNECTED "0");
        let_another_be_reaped(t);
        assert_string_equal(property(t, "State"), "running");
        assert_false(exists(path_of(t, "run/" ID "/shim")));
        end_sandbox(t, &tool);
}

static void a_shim_is_known_again_after_a_restart(void **state) {
        Test *t = *state;
        pid_t shim = start_known_shim(t, ID, "web");

        tell_fakes(t, "SetStatus", UNIT(ID), PROXY_STATUS_CONNECTED "0");
        restart_adaptor(t, SIGKILL);
        let_another_be_reaped(t);
        assert_string_equal(property(t, "State"), "running");

        /* The proxy has said nothing since: it is asked. */
        end_adaptor(t, SIGTERM);
        (void) end_process(&shim, SIGKILL);
        start_adaptor(t);
        wait_until(t, all_gone(t));
        assert_true(called(t, "GetStatus " UNIT(ID)));
}

int main(int argc, char *argv[]) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup_impatient, teardown)
        const struct CMUnitTest tests[] = {
                TEST(a_sandbox_without_network_namespace_is_reaped),
                TEST(a_planned_sandbox_without_network_namespace_is_reaped),
                TEST(a_tunnel_service_that_cannot_tell_is_asked_again),
                TEST(a_living_shim_keeps_its_sandbox),
                TEST(a_shim_that_was_killed_is_missed),
                TEST(a_proxy_that_does_not_tell_its_clients_keeps_the_sandbox),
                TEST(what_a_tool_has_started_is_left_alone),
                TEST(a_shim_is_known_again_after_a_restart),
        };

        if (!take_arguments(argc, argv, 4))
                return 2;

        return cmocka_run_group_tests_name("adaptor-shim", tests, NULL, NULL);
}
