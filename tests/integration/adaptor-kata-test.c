/* SPDX-License-Identifier: Apache-2.0 */
/* What Kata's runtimes, and a kubelet that has lost patience, do to the hypervisor service, and what they are told. */
#include "adaptor-rig.h"

#include <signal.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "basic/io.h"

#define NEWER "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
#define POD_UID_1 "k8s_web_default_6f1c1f5e-0001_0"
#define POD_UID_2 "k8s_web_default_6f1c1f5e-0002_0"

static int setup_hasty(void **state) {
        static const char *const options[] = { "--start-timeout=1s", NULL };

        adaptor_options = options;
        return setup(state);
}

/* kubelet tries again with a new id for the same pod; CRI-O tells which pod it is. */
static void a_new_sandbox_of_a_pod_retires_the_older(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t), *retry = connect_shim(t);
        Call start, c;

        control_provider(t, "create " INSTANCE "=hang\n");
        begin_create(client, &c, ID, NETNS, POD_UID_1, NULL);
        finish(t, &c, TTRPC_OK);
        begin_start(client, &start, ID, 0);
        wait_until(t, count(path_of(t, "provider/calls"), "create ") == 1);

        begin_create(retry, &c, NEWER, "/run/netns/newer", POD_UID_1, NULL);
        finish(t, &c, TTRPC_OK);
        finish(t, &start, TTRPC_CANCELLED);
        begin_start(retry, &c, NEWER, 0);
        finish(t, &c, TTRPC_OK);
        wait_until(t, !exists(path_of(t, "state/sandboxes/" ID ".json")));
        assert_string_equal(property_of(t, NEWER, "State"), "running");

        begin_stop(retry, &c, NEWER);
        finish(t, &c, TTRPC_OK);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
        ttrpc_client_free(retry);
}

/* A StatefulSet's next pod has the same name. */
static void another_pod_of_the_name_retires_nothing(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call c;

        begin_create(client, &c, ID, NETNS, POD_UID_1, NULL);
        finish(t, &c, TTRPC_OK);
        begin_create(client, &c, NEWER, "/run/netns/newer", POD_UID_2, NULL);
        finish(t, &c, TTRPC_OK);
        assert_string_equal(property(t, "State"), "planned");
        stop_ok(t, client);
        begin_stop(client, &c, NEWER);
        finish(t, &c, TTRPC_OK);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void what_is_being_deleted_is_neither_planned_nor_started(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call c;

        create_ok(t, client);
        start_ok(t, client);
        control_provider(t, "delete=hang\n");
        stop_ok(t, client);
        begin_start(client, &c, ID, 0);
        finish(t, &c, TTRPC_FAILED_PRECONDITION);
        begin_create(client, &c, ID, NETNS, "web", NULL);
        finish(t, &c, TTRPC_FAILED_PRECONDITION);
        stop_ok(t, client);                     /* again: the same promise */

        control_provider(t, "");
        (void) end_process(&t->provider, SIGKILL);
        start_provider(t);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

/* runtime-rs would wait for three hours (kata-containers: src/runtime-rs/crates/hypervisor/src/remote/inner.rs). */
static void a_start_without_a_deadline_has_ours(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call c;

        control_provider(t, "create=hang\n");
        create_ok(t, client);
        begin_start(client, &c, ID, 0);
        finish(t, &c, TTRPC_DEADLINE_EXCEEDED);
        assert_non_null(startswith(c.text, "creating an instance: "));
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

/* Text that does not shrink. */
static char* incompressible(size_t size) {
        char *text = malloc(size + 1);

        assert_non_null(text);
        for (size_t i = 0; i < size; i++) {
                uint8_t byte;

                assert_int_equal(getrandom(&byte, 1, 0), 1);
                text[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[byte % 64];
        }
        text[size] = '\0';
        return text;
}

static const char* provider_name(Test *t) {
        static char name[64];
        _cleanup_(freep) char *text = NULL;

        assert_true(sd_bus_get_property_string(t->bus, NAME, ROOT, NAME ".Manager", "Provider", NULL, &text) >= 0);
        (void) snprintf(name, sizeof(name), "%s", text);
        return name;
}

static void too_much_user_data_is_refused_before_the_vm_is_made(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        _cleanup_(freep) char *initdata = incompressible(80 << 10);     /* the fake provider takes 64 KiB */
        Call c;

        wait_until(t, streq(provider_name(t), "fake"));                 /* its limit is known as well */
        begin_create(client, &c, ID, NETNS, "web", &(Annotation) { P "cc_init_data", initdata });
        finish(t, &c, TTRPC_RESOURCE_EXHAUSTED);
        assert_non_null(strstr(c.text, "user data is larger than the 65536 bytes that the provider takes, mostly for its initdata: "));
        assert_int_equal(count(path_of(t, "provider/calls"), "create "), 0);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void fractions_of_a_cpu_are_rounded_up(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);                   /* asks for 1.5 */
        start_ok(t, client);
        assert_int_equal(count(path_of(t, "provider/" INSTANCE), "vcpus=2\n"), 1);
        assert_int_equal(count(path_of(t, "provider/" INSTANCE), "memory=2048\n"), 1);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void a_pod_with_an_external_interface_gets_a_vm_with_two(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        control_fakes(t, "inspect=external\n");
        create_ok(t, client);
        start_ok(t, client);
        assert_int_equal(count(path_of(t, "provider/" INSTANCE), "multi-nic\n"), 1);
        stop_ok(t, client);
        wait_until(t, all_gone(t));

        control_fakes(t, "");
        create_ok(t, client);
        start_ok(t, client);
        assert_int_equal(count(path_of(t, "provider/" INSTANCE), "multi-nic\n"), 0);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void the_gpu_model_reaches_the_provider(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call c;

        begin_create(client, &c, ID, NETNS, "web", &(Annotation) { P "default_gpu_model", "a100" });
        finish(t, &c, TTRPC_OK);
        start_ok(t, client);
        assert_int_equal(count(path_of(t, "provider/" INSTANCE), "gpu-model=a100\n"), 1);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void no_text_is_taken_for_not_found_by_kata(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call c;

        control_provider(t, "create=fail:FailedPrecondition:image 'x' not found, pool 'y' does not exist\n");
        create_ok(t, client);
        begin_start(client, &c, ID, 0);
        finish(t, &c, TTRPC_FAILED_PRECONDITION);
        assert_string_equal(c.text, "creating an instance: image 'x' not-found, pool 'y' does not-exist");
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

/* "Recursive delete of the configured path" is not what a typing error should do. */
static void a_socket_path_that_is_no_socket_is_left_alone(void **state) {
        Test *t = *state;
        const char *const args[] = { "--socket", path_of(t, "precious"), "--state-dir", path_of(t, "other-state"), NULL };
        int status;
        pid_t pid;

        end_adaptor(t, SIGTERM);
        assert_int_equal(mkdir(path_of(t, "precious"), 0700), 0);
        write_text(path_of(t, "precious/data"), "1");
        pid = spawn(adaptor_program, args);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
        assert_true(exists(path_of(t, "precious/data")));
        start_adaptor(t);
}

int main(int argc, char *argv[]) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(a_new_sandbox_of_a_pod_retires_the_older),
                TEST(another_pod_of_the_name_retires_nothing),
                TEST(what_is_being_deleted_is_neither_planned_nor_started),
                cmocka_unit_test_setup_teardown(a_start_without_a_deadline_has_ours, setup_hasty, teardown),
                TEST(too_much_user_data_is_refused_before_the_vm_is_made),
                TEST(fractions_of_a_cpu_are_rounded_up),
                TEST(a_pod_with_an_external_interface_gets_a_vm_with_two),
                TEST(the_gpu_model_reaches_the_provider),
                TEST(no_text_is_taken_for_not_found_by_kata),
                TEST(a_socket_path_that_is_no_socket_is_left_alone),
        };

        if (!take_arguments(argc, argv, 4))
                return 2;

        return cmocka_run_group_tests_name("adaptor-kata", tests, NULL, NULL);
}
