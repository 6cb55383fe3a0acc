/* SPDX-License-Identifier: Apache-2.0 */
/* A pod's volumes on their way from Kata's records to the cloud and to the agent proxy: one list for both, and never another pod's. */
#include <signal.h>
#include <stdio.h>

#include "adaptor-rig.h"

#define CRIO_NAME "k8s_web_default_u1_0"
#define VOLUME "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/"

/* sha256sum (coreutils 9.1) of VOLUME "a/mount" */
#define DIGEST_A "6c619662076dee4805fe7a2ea7e509f6d3fc309d4aa268ed75a09defec8d4c89"

static void give_volumes(Test *t) {
        write_text(path_of(t, "volumes"), VOLUME "a/mount vol-a xfs luks kbs:///k\n" VOLUME "b/mount - ext4 - -\n"
                                          VOLUME "c/mount vol-c ext4 - -\n");
}

static void create(Test *t, TtrpcClient *client, const char *pod, int32_t code, Call *c) {
        begin_create(client, c, ID, NETNS, pod, NULL);
        finish(t, c, code);
}

static bool proxy_has(const Test *t, const char *text) {
        return count(path_of(t, "run/" ID "/proxy.json"), text) > 0;
}

static void expect_volumes(Test *t) {
        assert_int_equal(count(path_of(t, "provider/" INSTANCE), "volume-0=vol-a\n"), 1);
        assert_int_equal(count(path_of(t, "provider/" INSTANCE), "volume-1=vol-c\n"), 1);       /* who has no disk has no place */
        assert_int_equal(count(path_of(t, "provider/" INSTANCE), "volume-2"), 0);
        assert_true(proxy_has(t, "\"path\":\"" VOLUME "a/mount\""));
        assert_true(proxy_has(t, "\"disk-id\":\"vol-a\""));
        assert_true(proxy_has(t, "\"encrypt-type\":\"luks\""));
        assert_true(proxy_has(t, "\"path\":\"" VOLUME "b/mount\""));
        assert_true(proxy_has(t, "\"disk-id\":\"vol-c\""));
        assert_false(proxy_has(t, "volumes-elsewhere"));
}

static void volumes_become_disks_and_the_proxy_knows_them(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        Test *t = *state;
        Call c;

        give_volumes(t);
        client = connect_shim(t);
        create(t, client, CRIO_NAME, 0, &c);
        assert_true(called(t, "Read u1\n"));
        assert_int_equal(count(path_of(t, "state/sandboxes/" ID ".json"), "vol-a"), 1);

        /* Looked up once: what comes later is not in the VM's list either. */
        write_text(path_of(t, "volumes"), VOLUME "0/mount vol-0 ext4 - -\n");
        start_ok(t, client);
        expect_volumes(t);
        assert_int_equal(count(path_of(t, "calls"), "Read "), 1);

        /* The same again after a restart. */
        ttrpc_client_free(TAKE_PTR(client));
        end_adaptor(t, SIGKILL);
        assert_int_equal(unlink(path_of(t, "run/" ID "/proxy.json")), 0);
        start_adaptor(t);
        wait_until(t, proxy_has(t, "connect-timeout-usec"));
        expect_volumes(t);
        client = connect_shim(t);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
}

/* Elsewhere, without the UID, all volumes of the node are attached to each new VM (cloud-api-adaptor: pkg/adaptor/cloud). */
static void without_the_pods_uid_nothing_is_attached(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        Test *t = *state;
        Call c;

        give_volumes(t);
        client = connect_shim(t);
        create(t, client, "web", 0, &c);
        assert_true(called(t, "Read \n"));
        start_ok(t, client);
        assert_int_equal(count(path_of(t, "provider/" INSTANCE), "volume-"), 0);
        assert_false(proxy_has(t, "kubernetes.io~csi"));        /* other pods' paths are none of its business */
        assert_false(proxy_has(t, "vol-a"));
        assert_true(proxy_has(t, "volumes-elsewhere"));
        assert_true(proxy_has(t, "\"" DIGEST_A "\""));
        stop_ok(t, client);
}

static void the_uid_may_be_an_annotation(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        Test *t = *state;
        Call c;

        give_volumes(t);
        client = connect_shim(t);
        begin_create(client, &c, ID, NETNS, "web", &(Annotation) { "io.kubernetes.cri.sandbox-uid", "../u1" });
        finish(t, &c, TTRPC_INVALID_ARGUMENT);
        begin_create(client, &c, ID, NETNS, "web", &(Annotation) { "io.kubernetes.cri.sandbox-uid", "u1" });
        finish(t, &c, 0);
        assert_true(called(t, "Read u1\n"));
        start_ok(t, client);
        expect_volumes(t);
        stop_ok(t, client);
}

static void more_volumes_than_the_provider_attaches_are_refused(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        Test *t = *state;
        Call c;

        write_text(path_of(t, "volumes"), VOLUME "a v1 - - -\n" VOLUME "b v2 - - -\n" VOLUME "c v3 - - -\n" VOLUME "d v4 - - -\n");
        client = connect_shim(t);
        create(t, client, CRIO_NAME, 0, &c);
        begin_start(client, &c, ID, 0);
        finish(t, &c, TTRPC_FAILED_PRECONDITION);
        assert_non_null(strstr(c.text, "The pod has 4 volumes, of which provider 'fake' can attach 3"));
        wait_until(t, all_gone(t));
}

static void volumes_that_cannot_be_read_end_create(void **state) {
        _cleanup_(ttrpc_client_freep) TtrpcClient *client = NULL;
        Test *t = *state;
        Call c;

        control_fakes(t, "volumes=FailedPrecondition:record of volume '/x' is bad\n");
        client = connect_shim(t);
        create(t, client, CRIO_NAME, TTRPC_FAILED_PRECONDITION, &c);
        assert_non_null(strstr(c.text, "reading the pod's volumes: record of volume '/x' is bad"));
        wait_until(t, all_gone(t));
}

int main(int argc, char *argv[]) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(volumes_become_disks_and_the_proxy_knows_them),
                TEST(without_the_pods_uid_nothing_is_attached),
                TEST(the_uid_may_be_an_annotation),
                TEST(more_volumes_than_the_provider_attaches_are_refused),
                TEST(volumes_that_cannot_be_read_end_create),
        };

        if (argc != 5)
                return 2;
        adaptor_program = argv[1];
        providerd_program = argv[2];
        module_directory = argv[3];
        fakes_program = argv[4];
        if (getenv("CMOCKA_TEST_FILTER"))
                cmocka_set_test_filter(getenv("CMOCKA_TEST_FILTER"));

        return cmocka_run_group_tests_name("adaptor-volumes", tests, NULL, NULL);
}
