/* SPDX-License-Identifier: Apache-2.0 */
/* The adaptor has each tunnel proved: before StartVM is answered, and when somebody asks. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "adaptor-rig.h"

#define DEAD "probe=no:No answer from the pod VM, UDP port 4789\n"

static void a_start_is_answered_after_the_tunnel_is_proved(void **state) {
        _cleanup_(freep) char *calls = NULL;
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        const char *proxy, *probe;

        create_ok(t, client);
        assert_false(called(t, "Probe"));
        start_ok(t, client);
        calls = read_text(path_of(t, "calls"));
        proxy = strstr(calls, "StartUnit peerpod-agent-proxy@" ID ".service");
        probe = strstr(calls, "Probe " ID);
        assert_non_null(proxy);
        assert_non_null(probe);
        assert_true(probe > proxy);             /* which is there when the VM has made its end */
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void a_start_fails_when_the_tunnel_is_dead(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call c;

        control_fakes(t, DEAD);
        create_ok(t, client);
        begin_start(client, &c, ID, 0);
        finish(t, &c, TTRPC_UNAVAILABLE);
        assert_non_null(strstr(c.text, "probing the pod network tunnel: No answer from the pod VM, UDP port 4789"));
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void a_dead_tunnel_can_be_put_up_with(void **state) {
        static const char *const warn[] = { "--tunnel-probe=warn", NULL };
        Test *t = *state;
        TtrpcClient *client;

        adaptor_options = warn;
        restart_adaptor(t, SIGTERM);
        adaptor_options = NULL;
        client = connect_shim(t);
        control_fakes(t, DEAD);
        create_ok(t, client);
        start_ok(t, client);
        assert_string_equal(property(t, "LastError"), "No answer from the pod VM, UDP port 4789");
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void a_probe_can_be_left_out(void **state) {
        static const char *const off[] = { "--tunnel-probe=off", NULL };
        Test *t = *state;
        TtrpcClient *client;

        adaptor_options = off;
        restart_adaptor(t, SIGTERM);
        adaptor_options = NULL;
        client = connect_shim(t);
        control_fakes(t, DEAD);
        create_ok(t, client);
        start_ok(t, client);
        assert_false(called(t, "Probe"));
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void adopted_sandboxes_are_not_probed(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        start_ok(t, client);
        ttrpc_client_free(client);
        end_adaptor(t, SIGKILL);
        control_fakes(t, DEAD);
        start_adaptor(t);
        wait_until(t, count(path_of(t, "calls"), "StartUnit peerpod-agent-proxy@" ID ".service") == 2);
        client = connect_shim(t);
        assert_string_equal(property(t, "State"), "running");
        assert_int_equal(count(path_of(t, "calls"), "Probe"), 1);
        control_fakes(t, "");
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static char* check_tunnel(Test *t) {
        sd_bus_error error = SD_BUS_ERROR_NULL;
        sd_bus_message *reply = NULL;
        char *path, *answer = NULL;
        const char *text;
        int ok;

        assert_true(sd_bus_path_encode("/org/confidentialcontainers/PeerPod1/podvm", ID, &path) >= 0);
        if (sd_bus_call_method(t->bus, "org.confidentialcontainers.PeerPod1", path, "org.confidentialcontainers.PeerPod1.PodVM",
                               "CheckTunnel", &error, &reply, "") < 0)
                assert_true(asprintf(&answer, "%s: %s", error.name, error.message) >= 0);
        else {
                assert_true(sd_bus_message_read(reply, "bs", &ok, &text) >= 0);
                assert_true(asprintf(&answer, "%s: %s", ok ? "yes" : "no", text) >= 0);
        }
        sd_bus_message_unref(reply);
        sd_bus_error_free(&error);
        free(path);
        return answer;
}

static void expect_tunnel(Test *t, const char *text) {
        char *answer = check_tunnel(t);

        if (!strstr(answer, text))
                print_error("expected '%s', got '%s'\n", text, answer);
        assert_non_null(strstr(answer, text));
        free(answer);
}

static void a_running_tunnel_is_checked_on_the_bus(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        expect_tunnel(t, "FailedPrecondition: sandbox " ID " is planned");
        start_ok(t, client);
        expect_tunnel(t, "yes: It carries packets of 1450 bytes.");
        control_fakes(t, DEAD);
        expect_tunnel(t, "no: No answer from the pod VM");
        assert_string_equal(property(t, "State"), "running");
        control_fakes(t, "probe=FailedPrecondition:tunnel is not set up\n");
        expect_tunnel(t, "FailedPrecondition: tunnel is not set up");
        control_fakes(t, "");
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void a_check_of_the_tunnel_asks_polkit(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        int status;
        pid_t pid;

        control_fakes(t, "polkit=no\n");
        create_ok(t, client);
        start_ok(t, client);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
                char *answer;

                if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0 || sd_bus_open_system(&t->bus) < 0)
                        _exit(2);
                answer = check_tunnel(t);
                _exit(strstr(answer, "AccessDenied") ? 0 : 1);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        assert_int_equal(count(path_of(t, "calls"), "Probe"), 1);
        control_fakes(t, "");
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

int main(int argc, char *argv[]) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(a_start_is_answered_after_the_tunnel_is_proved),
                TEST(a_start_fails_when_the_tunnel_is_dead),
                TEST(a_dead_tunnel_can_be_put_up_with),
                TEST(a_probe_can_be_left_out),
                TEST(adopted_sandboxes_are_not_probed),
                TEST(a_running_tunnel_is_checked_on_the_bus),
                TEST(a_check_of_the_tunnel_asks_polkit),
        };

        if (argc != 6)
                return 2;
        adaptor_program = argv[1];
        providerd_program = argv[2];
        module_directory = argv[3];
        fakes_program = argv[4];
        if (getenv("CMOCKA_TEST_FILTER"))
                cmocka_set_test_filter(getenv("CMOCKA_TEST_FILTER"));

        return cmocka_run_group_tests_name("adaptor-tunnel", tests, NULL, NULL);
}
