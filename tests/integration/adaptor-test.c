/* SPDX-License-Identifier: Apache-2.0 */
/* A pod VM's life as the adaptor drives it, in its rig (adaptor-rig.h).
 *
 * Every test ends with a look at what is left: records, run-time files, instances, tunnels. */
#include "adaptor-rig.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "basic/bus-private.h"
#include "basic/io.h"

static const char *xml_directory;

/* ---- tests ------------------------------------------------------------------------------------------------------------------------- */

static void a_pod_vm_lives_and_leaves_nothing(void **state) {
        Test *t = *state;
        TtrpcClient *c = connect_shim(t);
        _cleanup_(freep) char *user_data = NULL, *calls = NULL;
        struct stat st;

        create_ok(t, c);
        assert_string_equal(property(t, "State"), "planned");
        assert_false(instance_exists(t));
        assert_int_equal(stat(path_of(t, "run/" ID), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0700);
        assert_int_equal(stat(path_of(t, "run/" ID "/user-data"), &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        user_data = read_text(path_of(t, "run/" ID "/user-data"));
        assert_true(startswith(user_data, "#cloud-config\n\nwrite_files:\n  - path: /run/peerpod/apf.json\n    content: |\n") != NULL);
        assert_non_null(strstr(user_data, "\"tls-server-key\": \"-----BEGIN PRIVATE KEY-----"));
        assert_non_null(strstr(user_data, "\"vxlan-id\": 555007"));

        start_ok(t, c);
        assert_string_equal(property(t, "State"), "running");
        assert_string_equal(property(t, "InstanceName"), INSTANCE);
        assert_string_equal(property(t, "TunnelType"), "vxlan");
        assert_string_equal(property(t, "LastError"), "");
        assert_true(instance_exists(t));
        assert_false(exists(path_of(t, "run/" ID "/user-data")));
        assert_true(exists(path_of(t, "run/" ID "/proxy.json")));
        start_ok(t, c);                         /* again: the same answer, and no second instance */
        create_ok(t, c);
        assert_int_equal(count(path_of(t, "provider/calls"), "create "), 1);

        stop_ok(t, c);
        wait_until(t, all_gone(t));
        assert_string_equal(property(t, "State"), "");

        calls = read_text(path_of(t, "calls"));
        const char *const order[] = {
                "Inspect " ID, "Setup " ID, "StartUnit peerpod-agent-proxy@" ID ".socket",
                "SetUnitProperties 192.0.2.10/32 peerpod-agent-proxy@" ID ".service", "StartUnit peerpod-agent-proxy@" ID ".service",
                "StopUnit peerpod-agent-proxy@" ID ".socket", "StopUnit peerpod-agent-proxy@" ID ".service", "Teardown " ID,
        };
        const char *p = calls;
        for (size_t i = 0; i < ELEMENTSOF(order); i++) {
                p = strstr(p, order[i]);
                if (!p)
                        fail_msg("'%s' is not in its place in:\n%s", order[i], calls);
        }
        ttrpc_client_free(c);
}

static void bad_requests_are_refused_with_their_reason(void **state) {
        static const struct {
                const char *id, *netns, *pod;
                Annotation extra;
                const char *text;
        } cases[] = {
                { "", NETNS, "web", {}, "empty sandbox id" },
                { "../x", NETNS, "web", {}, "sandbox id is not" },
                { ID, "", "web", {}, "network namespace path is empty" },
                { ID, "netns", "web", {}, "not an absolute path" },
                { ID, NETNS, "", {}, "pod name io.kubernetes.cri.sandbox-name is missing" },
                { ID, NETNS, "web", { P "default_vcpus", "many" }, "default_vcpus' is not a decimal number" },
                { ID, NETNS, "web", { P "default_memory", "99999999999999" }, "default_memory' is larger than" },
        };
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                Call c;

                begin_create(client, &c, cases[i].id, cases[i].netns, cases[i].pod, cases[i].extra.key ? &cases[i].extra : NULL);
                finish(t, &c, TTRPC_INVALID_ARGUMENT);
                if (!strstr(c.text, cases[i].text))
                        fail_msg("'%s' does not say '%s'", c.text, cases[i].text);
        }
        assert_true(all_gone(t));
        ttrpc_client_free(client);
}

static void a_conflicting_create_is_refused(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call c;

        create_ok(t, client);
        begin_create(client, &c, ID, "/run/netns/other", "web", NULL);
        finish(t, &c, TTRPC_ALREADY_EXISTS);
        begin_create(client, &c, ID, NETNS, "other", NULL);
        finish(t, &c, TTRPC_ALREADY_EXISTS);
        create_ok(t, client);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        assert_int_equal(count(path_of(t, "provider/calls"), "delete "), 0);   /* the cloud was never asked for anything */
        ttrpc_client_free(client);
}

static void unknown_sandboxes(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call c;

        begin_start(client, &c, ID, 0);
        finish(t, &c, TTRPC_NOT_FOUND);
        assert_string_equal(c.text, "getting sandbox: sandbox " ID " does not exist");
        stop_ok(t, client);
        begin_stop(client, &c, "../../etc");
        finish(t, &c, TTRPC_OK);
        begin_stop(client, &c, "");
        finish(t, &c, TTRPC_INVALID_ARGUMENT);
        ttrpc_client_free(client);
}

static void a_second_start_joins_the_first(void **state) {
        Test *t = *state;
        TtrpcClient *one = connect_shim(t), *two = connect_shim(t);
        Call a, b;

        control_provider(t, "create=delay:300\n");
        create_ok(t, one);
        begin_start(one, &a, ID, 0);
        begin_start(two, &b, ID, 0);
        finish(t, &a, TTRPC_OK);
        finish(t, &b, TTRPC_OK);
        assert_int_equal(count(path_of(t, "provider/calls"), "create "), 1);
        stop_ok(t, one);
        stop_ok(t, two);
        wait_until(t, all_gone(t));
        stop_ok(t, one);
        ttrpc_client_free(one);
        ttrpc_client_free(two);
}

static void a_stop_cancels_the_start(void **state) {
        Test *t = *state;
        TtrpcClient *one = connect_shim(t), *two = connect_shim(t);
        Call a;

        control_provider(t, "create=hang\n");
        create_ok(t, one);
        begin_start(one, &a, ID, 0);
        wait_until(t, count(path_of(t, "provider/calls"), "create ") == 1);
        stop_ok(t, two);
        finish(t, &a, TTRPC_CANCELLED);
        wait_until(t, all_gone(t));
        ttrpc_client_free(one);
        ttrpc_client_free(two);
}

static void the_last_caller_who_leaves_cancels_the_start(void **state) {
        Test *t = *state;
        TtrpcClient *one = connect_shim(t), *two = connect_shim(t);
        Call a, b;

        control_provider(t, "create=hang\n");
        create_ok(t, one);
        begin_start(one, &a, ID, 0);
        begin_start(two, &b, ID, 0);
        wait_until(t, count(path_of(t, "provider/calls"), "create ") == 1);
        ttrpc_client_free(one);
        assert_string_equal(property(t, "State"), "creating");
        ttrpc_client_free(two);
        wait_until(t, all_gone(t));
}

static void a_start_ends_with_its_callers_deadline(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call a;

        control_fakes(t, "start-proxy=hang\n");
        create_ok(t, client);
        begin_start(client, &a, ID, 500 * USEC_PER_MSEC);
        finish(t, &a, TTRPC_DEADLINE_EXCEEDED);
        wait_until(t, all_gone(t));
        assert_true(called(t, "StopUnit peerpod-agent-proxy@" ID ".service"));
        ttrpc_client_free(client);
}

static void failures_of_each_step_are_undone_and_told(void **state) {
        static const struct {
                const char *fakes, *provider;
                int32_t code;
                const char *text;
        } cases[] = {
                { "", "create=fail:Exhausted:quota of 10 instances is used up\n", TTRPC_RESOURCE_EXHAUSTED, "quota of 10 instances" },
                { "", "create=leak\n", -1, "creating an instance: " },
                { "setup=FailedPrecondition:no route to 192.0.2.10\n", "", TTRPC_FAILED_PRECONDITION,
                  "setting up pod network tunnel: no route to 192.0.2.10" },
                { "start-socket=fail\n", "", TTRPC_UNAVAILABLE, "opening the agent's socket: " },
                { "probe=no:no answer\n", "", TTRPC_UNAVAILABLE, "probing the pod network tunnel: no answer" },
                { "start-proxy=fail\n", "", TTRPC_UNAVAILABLE, "error connecting to agent: no answer from 192.0.2.7" },
        };
        Test *t = *state;

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                TtrpcClient *client = connect_shim(t);
                Call c;

                control_fakes(t, cases[i].fakes);
                control_provider(t, cases[i].provider);
                create_ok(t, client);
                begin_start(client, &c, ID, 0);
                wait_until(t, c.done);
                if (cases[i].code >= 0)
                        assert_int_equal(c.code, cases[i].code);
                assert_int_not_equal(c.code, TTRPC_OK);
                if (!strstr(c.text, cases[i].text))
                        fail_msg("'%s' does not say '%s'", c.text, cases[i].text);
                assert_true(all_gone(t));       /* told only when all is undone */
                stop_ok(t, client);             /* as the shim does */
                ttrpc_client_free(client);
        }
}

static void an_unusable_network_namespace_ends_create(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call c;

        control_fakes(t, "inspect=NotFound:no such file\n");
        begin_create(client, &c, ID, NETNS, "web", NULL);
        finish(t, &c, TTRPC_NOT_FOUND);
        assert_string_equal(c.text, "failed to inspect netns: no such file");
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void a_delete_is_tried_until_the_cloud_says_gone(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        start_ok(t, client);
        control_provider(t, "delete=fail:Unavailable:the cloud is down\n");
        stop_ok(t, client);
        wait_until(t, count(path_of(t, "provider/calls"), "delete ") >= 2);
        assert_string_equal(property(t, "State"), "deleting");
        assert_string_equal(property(t, "LastError"), "deleting the instance: the cloud is down");
        assert_false(called(t, "Teardown"));    /* its VNI stays taken while the VM lives */
        assert_int_equal(entries(path_of(t, "run")), 0);
        control_provider(t, "");
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void a_restart_keeps_what_is_planned(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        ttrpc_client_free(client);
        restart_adaptor(t, SIGKILL);
        assert_string_equal(property(t, "State"), "planned");
        client = connect_shim(t);
        create_ok(t, client);
        start_ok(t, client);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void a_restart_drops_what_is_planned_without_its_files(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        ttrpc_client_free(client);
        end_adaptor(t, SIGKILL);
        assert_int_equal(remove_tree(path_of(t, "run/" ID)), 0);
        start_adaptor(t);
        wait_until(t, all_gone(t));
}

static void a_restart_cleans_up_a_start(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call c;

        /* At each of its long steps. */
        for (unsigned i = 0; i < 2; i++) {
                control_provider(t, i == 0 ? "create=hang\n" : "");
                control_fakes(t, i == 0 ? "" : "start-proxy=hang\n");
                create_ok(t, client);
                begin_start(client, &c, ID, 0);
                wait_until(t, i == 0 ? count(path_of(t, "provider/calls"), "create ") == 1 :
                                       called(t, "StartUnit peerpod-agent-proxy@" ID ".service"));
                restart_adaptor(t, i == 0 ? SIGKILL : SIGTERM);
                finish(t, &c, TTRPC_UNAVAILABLE);
                wait_until(t, all_gone(t));
                ttrpc_client_free(client);
                client = connect_shim(t);
        }
        ttrpc_client_free(client);
}

static void a_restart_does_not_disturb_what_runs(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        static const int signals[] = { SIGTERM, SIGKILL };

        create_ok(t, client);
        start_ok(t, client);
        ttrpc_client_free(client);
        for (size_t i = 0; i < ELEMENTSOF(signals); i++) {
                control_fakes(t, "");
                restart_adaptor(t, signals[i]);
                assert_string_equal(property(t, "State"), "running");
                /* adopted: tunnel and proxy were looked after */
                wait_until(t, count(path_of(t, "calls"), "StartUnit peerpod-agent-proxy@" ID ".service") == 2 + i);
                wait_until(t, count(path_of(t, "provider/calls"), "find ") >= 2 + i);
        }
        assert_true(instance_exists(t));
        assert_false(called(t, "StopUnit"));
        assert_false(called(t, "Teardown"));
        assert_string_equal(property(t, "LastError"), "");

        client = connect_shim(t);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void a_restart_after_the_node_was_booted_cleans_up(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        start_ok(t, client);
        ttrpc_client_free(client);
        end_adaptor(t, SIGKILL);
        control_fakes(t, "setup=NotFound:network namespace is gone\n");
        start_adaptor(t);
        wait_until(t, all_gone(t));
}

static void a_restart_goes_on_with_a_delete(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        start_ok(t, client);
        control_provider(t, "delete=fail:Unavailable:the cloud is down\n");
        stop_ok(t, client);
        ttrpc_client_free(client);
        end_adaptor(t, SIGKILL);
        control_provider(t, "");
        start_adaptor(t);
        wait_until(t, all_gone(t));
}

static void a_record_that_is_unreadable_is_set_aside(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        start_ok(t, client);
        ttrpc_client_free(client);
        end_adaptor(t, SIGTERM);
        write_text(path_of(t, "state/sandboxes/" ID ".json"), "{\"version\": 1, \"sta");
        start_adaptor(t);
        assert_true(exists(path_of(t, "state/sandboxes/" ID ".json.unreadable")));
        wait_until(t, count(path_of(t, "provider/calls"), "find ") >= 2);
        assert_true(instance_exists(t));        /* left alone: its pod may be well */

        client = connect_shim(t);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void an_instance_without_a_record_is_reaped(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        start_ok(t, client);
        ttrpc_client_free(client);
        end_adaptor(t, SIGKILL);
        assert_int_equal(unlink(path_of(t, "state/sandboxes/" ID ".json")), 0);
        start_adaptor(t);
        wait_until(t, all_gone(t));
        wait_until(t, called(t, "Teardown " ID));
}

static void orphans_are_found_while_it_runs(void **state) {
        Test *t = *state;

        write_text(path_of(t, "provider/podvm-lost-01234567"), "sandbox=lost\nnode=node-1\nid=i-1\n");
        write_text(path_of(t, "provider/podvm-theirs-01234567"), "sandbox=theirs\nnode=node-2\nid=i-2\n");
        tell_fakes(t, "AddTunnel", "lost-too", NULL);
        wait_until(t, !exists(path_of(t, "provider/podvm-lost-01234567")) && called(t, "Teardown lost\n") && called(t, "Teardown lost-too\n"));
        wait_until(t, all_gone(t));
        assert_true(exists(path_of(t, "provider/podvm-theirs-01234567")));
}

static void an_instance_that_is_being_made_is_no_orphan(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call c;

        control_provider(t, "create=hang\n");
        create_ok(t, client);
        begin_start(client, &c, ID, 0);
        wait_until(t, exists(path_of(t, "provider/" INSTANCE ".tmp")));
        let_the_cloud_be_asked(t, 3);
        assert_string_equal(property(t, "State"), "creating");
        assert_int_equal(count(path_of(t, "provider/calls"), "delete "), 0);
        stop_ok(t, client);
        finish(t, &c, TTRPC_CANCELLED);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void what_goes_while_a_list_is_made_is_no_orphan(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        start_ok(t, client);
        control_provider(t, "list=hang-hard\n");
        let_the_cloud_be_asked(t, 1);           /* it is in the list, which is not told yet */
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        assert_int_equal(unlink(path_of(t, "provider/control")), 0);
        let_the_cloud_be_asked(t, 2);
        assert_int_equal(count(path_of(t, "provider/calls"), "delete "), 1);
        ttrpc_client_free(client);
}

static void an_instance_that_is_not_listed_is_told_until_it_is(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        start_ok(t, client);
        assert_int_equal(rename(path_of(t, "provider/" INSTANCE), path_of(t, "provider/hidden")), 0);
        wait_until(t, streq(property(t, "LastError"), "instance is not in the cloud's list"));
        assert_string_equal(property(t, "State"), "running");
        assert_int_equal(rename(path_of(t, "provider/hidden"), path_of(t, "provider/" INSTANCE)), 0);
        wait_until(t, streq(property(t, "LastError"), ""));
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void a_list_from_before_the_start_says_nothing(void **state) {
        Test *t = *state;
        TtrpcClient *client;

        wait_until(t, count(path_of(t, "provider/calls"), "find ") == 1);
        end_adaptor(t, SIGTERM);
        control_provider(t, "find=hang-hard\n");
        start_adaptor(t);
        client = connect_shim(t);
        wait_until(t, count(path_of(t, "provider/calls"), "find ") == 2);
        create_ok(t, client);
        start_ok(t, client);

        /* The cloud's answer, as it was before the instance was made. */
        assert_int_equal(rename(path_of(t, "provider/" INSTANCE), path_of(t, "provider/hidden")), 0);
        assert_int_equal(unlink(path_of(t, "provider/control")), 0);
        for (uint64_t last = now_usec(CLOCK_MONOTONIC) + USEC_PER_SEC; now_usec(CLOCK_MONOTONIC) < last;) {
                (void) sd_event_run(t->event, 10 * USEC_PER_MSEC);
                assert_string_equal(property(t, "LastError"), "");
        }
        assert_int_equal(rename(path_of(t, "provider/hidden"), path_of(t, "provider/" INSTANCE)), 0);

        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void calls_survive_a_restart_of_the_services(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        Call c;

        control_provider(t, "create=hang\n");
        create_ok(t, client);
        begin_start(client, &c, ID, 0);
        wait_until(t, count(path_of(t, "provider/calls"), "create ") == 1);
        (void) end_process(&t->provider, SIGKILL);
        control_provider(t, "");
        start_provider(t);
        finish(t, &c, TTRPC_OK);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

/* The jobs that it had are gone, or go on: it says nothing of them any more. */
static void a_stop_survives_a_restart_of_systemd(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        start_ok(t, client);
        control_fakes(t, "stop-proxy=hang\n");
        stop_ok(t, client);
        wait_until(t, called(t, "StopUnit peerpod-agent-proxy@" ID ".service"));
        assert_string_equal(property(t, "State"), "deleting");

        (void) end_process(&t->fakes, SIGKILL);
        control_fakes(t, "");
        start_fakes(t);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

/* systemd holds the socket while it starts the service, which may have to wait for the network first. */
static void a_service_that_is_slow_to_start_holds_up_nobody(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        uint64_t begin;
        Call c, version;
        int fd;

        create_ok(t, client);
        (void) end_process(&t->provider, SIGKILL);
        (void) unlink(path_of(t, "provider.sock"));
        fd = socket(AF_UNIX, SOCK_STREAM|SOCK_CLOEXEC, 0);
        (void) snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path_of(t, "provider.sock"));
        assert_int_equal(bind(fd, (struct sockaddr*) &sa, sizeof(sa)), 0);
        assert_int_equal(listen(fd, 8), 0);

        begin_start(client, &c, ID, 0);
        wait_until(t, poll(&(struct pollfd) { .fd = fd, .events = POLLIN }, 1, 0) == 1);
        begin = now_usec(CLOCK_MONOTONIC);
        for (unsigned i = 0; i < 5; i++) {
                begin_get_info(client, &version, "other", false, 0);
                finish(t, &version, TTRPC_NOT_FOUND);
                assert_string_equal(property(t, "State"), "creating");
        }
        assert_true(now_usec(CLOCK_MONOTONIC) < begin + 5 * USEC_PER_SEC);

        close_fd(fd);
        start_provider(t);
        finish(t, &c, TTRPC_OK);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void get_info_waits_for_the_instance(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t), *other = connect_shim(t);
        Call none, late, waiting, known, s;

        begin_get_info(other, &none, "web", false, 0);
        finish(t, &none, TTRPC_NOT_FOUND);
        assert_string_equal(none.text, "VM ID for default:web was not found");
        begin_get_info(other, &late, "web", true, 100 * USEC_PER_MSEC);
        finish(t, &late, TTRPC_DEADLINE_EXCEEDED);

        begin_get_info(other, &waiting, "web", true, 0);
        create_ok(t, client);
        assert_false(waiting.done);
        begin_start(client, &s, ID, 0);
        finish(t, &waiting, TTRPC_OK);
        finish(t, &s, TTRPC_OK);
        assert_string_equal(waiting.value, property(t, "InstanceId"));
        begin_get_info(other, &known, "web", false, 0);
        finish(t, &known, TTRPC_OK);
        assert_string_equal(known.value, waiting.value);

        control_provider(t, "create=hang\n");
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        create_ok(t, client);
        begin_start(client, &s, ID, 0);
        begin_get_info(other, &waiting, "web", true, 0);
        wait_until(t, count(path_of(t, "provider/calls"), "create ") == 2);
        stop_ok(t, client);
        finish(t, &waiting, TTRPC_NOT_FOUND);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
        ttrpc_client_free(other);
}

static void a_proxy_that_fails_later_is_shown(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        start_ok(t, client);
        tell_fakes(t, "FailUnit", "peerpod-agent-proxy@" ID ".service", NULL);
        wait_until(t, streq(property(t, "LastError"), "agent proxy has failed: lost its VM"));
        assert_string_equal(property(t, "State"), "running");
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void a_proxy_that_was_killed_is_shown(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        start_ok(t, client);
        tell_fakes(t, "KillUnit", "peerpod-agent-proxy@" ID ".service", NULL);
        wait_until(t, startswith(property(t, "LastError"), "agent proxy has failed"));
        assert_string_equal(property(t, "State"), "running");
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void no_descriptor_is_left(void **state) {
        Test *t = *state;
        unsigned before = 0;

        for (unsigned i = 0; i < 4; i++) {
                TtrpcClient *client = connect_shim(t);

                control_fakes(t, i % 2 ? "start-proxy=fail\n" : "");
                create_ok(t, client);
                if (i % 2) {
                        Call c;

                        begin_start(client, &c, ID, 0);
                        finish(t, &c, TTRPC_UNAVAILABLE);
                } else
                        start_ok(t, client);
                stop_ok(t, client);
                ttrpc_client_free(client);
                wait_until(t, all_gone(t));
                /* the first rounds make what lasts: links to the services */
                if (i == 1)
                        before = n_descriptors(t->adaptor);
        }
        wait_until(t, n_descriptors(t->adaptor) <= before);
}

static int on_signal(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        char *log = userdata;
        const char *id, *path;

        if (sd_bus_message_read(m, "so", &id, &path) >= 0)
                (void) snprintf(log + strlen(log), 256 - strlen(log), "%s(%.4s) ", sd_bus_message_get_member(m), id);
        return 0;
}

/* Notes whether an InterfacesAdded signal has a time of creation. */
static int on_added(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        const char *interface, *name, *contents;
        uint64_t *usec = userdata;

        assert_true(sd_bus_message_read(m, "o", NULL) >= 0);
        assert_true(sd_bus_message_enter_container(m, 'a', "{sa{sv}}") >= 0);
        while (sd_bus_message_enter_container(m, 'e', "sa{sv}") > 0) {
                assert_true(sd_bus_message_read(m, "s", &interface) >= 0);
                assert_true(sd_bus_message_enter_container(m, 'a', "{sv}") >= 0);
                while (sd_bus_message_enter_container(m, 'e', "sv") > 0) {
                        assert_true(sd_bus_message_read(m, "s", &name) >= 0);
                        assert_true(sd_bus_message_peek_type(m, NULL, &contents) >= 0);
                        if (streq(name, "CreatedTimestamp"))
                                assert_true(sd_bus_message_read(m, "v", "t", usec) >= 0);
                        else
                                assert_true(sd_bus_message_skip(m, "v") >= 0);
                        assert_true(sd_bus_message_exit_container(m) >= 0);
                }
                assert_true(sd_bus_message_exit_container(m) >= 0);
                assert_true(sd_bus_message_exit_container(m) >= 0);
        }
        return 0;
}

static void a_new_object_shows_what_is_constant(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        uint64_t created = UINT64_MAX, now = now_usec(CLOCK_REALTIME);

        assert_true(sd_bus_match_signal(t->bus, NULL, NAME, ROOT, "org.freedesktop.DBus.ObjectManager", "InterfacesAdded", on_added,
                                        &created) >= 0);
        create_ok(t, client);
        wait_until(t, sd_bus_process(t->bus, NULL) >= 0 && created != UINT64_MAX);
        assert_in_range(created, now, now + 60 * USEC_PER_SEC);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void stop_on_the_bus_asks_polkit(void **state) {
        static const struct {
                const char *control;
                const char *error;      /* NULL: allowed */
        } cases[] = {
                { "polkit=no\n", SD_BUS_ERROR_ACCESS_DENIED },
                { "polkit=challenge\n", SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED },
                { "", NULL },
        };
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        char log[256] = "";

        assert_true(sd_bus_match_signal(t->bus, NULL, NAME, ROOT, NAME ".Manager", NULL, on_signal, log) >= 0);
        create_ok(t, client);
        start_ok(t, client);

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                int status;
                pid_t pid;

                control_fakes(t, cases[i].control);
                pid = fork();
                assert_true(pid >= 0);
                if (pid == 0) {
                        /* somebody whom our own checks do not let pass */
                        sd_bus_error error = SD_BUS_ERROR_NULL;
                        sd_bus *bus;
                        int r;

                        if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0 || sd_bus_open_system(&bus) < 0)
                                _exit(2);
                        r = sd_bus_call_method(bus, NAME, ROOT, NAME ".Manager", "StopPodVM", &error, NULL, "s", ID);
                        if (cases[i].error)
                                _exit(r < 0 && sd_bus_error_has_name(&error, cases[i].error) ? 0 : 1);
                        _exit(r >= 0 ? 0 : 1);
                }
                assert_int_equal(waitpid(pid, &status, 0), pid);
                assert_int_equal(status, 0);
                assert_int_equal(count(path_of(t, "calls"), "CheckAuthorization org.confidentialcontainers.peerpod.manage"), i + 1);
                if (cases[i].error)
                        assert_string_equal(property(t, "State"), "running");
        }

        assert_true(all_gone(t));               /* answered when it was gone */
        wait_until(t, sd_bus_process(t->bus, NULL) >= 0 && strstr(log, "PodVMRemoved"));
        assert_string_equal(log, "PodVMNew(0123) PodVMRemoved(0123) ");
        ttrpc_client_free(client);
}

/* As somebody whom our own checks do not let pass: @n calls at once, which are to end with this error, or NULL. */
static pid_t begin_foreign_stops(unsigned n, const char *expected) {
        pid_t pid = fork();
        sd_bus *bus;

        assert_true(pid >= 0);
        if (pid > 0)
                return pid;

        if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0 || sd_bus_open_system(&bus) < 0)
                _exit(2);
        for (unsigned i = 0; i < n; i++) {
                sd_bus_message *m;
                uint64_t cookie;        /* without one no answer is wanted */

                if (sd_bus_message_new_method_call(bus, &m, NAME, ROOT, NAME ".Manager", "StopPodVM") < 0 ||
                    sd_bus_message_append(m, "s", ID) < 0 || sd_bus_send(bus, m, &cookie) < 0)
                        _exit(2);
        }
        while (n > 0) {
                sd_bus_message *m = NULL;
                const sd_bus_error *error;

                if (sd_bus_process(bus, &m) < 0 || (!m && sd_bus_wait(bus, USEC_PER_SEC) < 0))
                        _exit(2);
                if (!m || (!sd_bus_message_is_method_error(m, NULL) && sd_bus_message_is_signal(m, NULL, NULL)))
                        continue;
                error = sd_bus_message_get_error(m);
                if (expected ? !sd_bus_error_has_name(error, expected) : !!error)
                        _exit(1);
                n--;
        }
        _exit(0);
}

static void what_vanishes_while_polkit_thinks_is_not_found(void **state) {
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);
        const unsigned n = 64;                  /* as many questions as may be open */
        int status;
        pid_t pid;

        control_fakes(t, "polkit=wait\n");
        create_ok(t, client);
        pid = begin_foreign_stops(n, PEERPOD_ERROR_NOT_FOUND);
        wait_until(t, count(path_of(t, "calls"), "CheckAuthorization") == n);
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        control_fakes(t, "");
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);

        /* and nothing of that is kept */
        create_ok(t, client);
        pid = begin_foreign_stops(1, NULL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

/* The lines of a document without comments, blanks and what libsystemd says of its own interfaces. */
static void normalize(char *text, const char *interface) {
        char *out = text, *p = text, *begin;
        _cleanup_(freep) char *copy = NULL, *head = NULL;

        for (char *c; (c = strstr(text, "<!--"));) {
                char *e = strstr(c, "-->");

                assert_non_null(e);
                memmove(c, e + 3, strlen(e + 3) + 1);
        }
        assert_true(asprintf(&head, "<interface name=\"%s\">", interface) > 0);
        begin = strstr(text, head);
        assert_non_null(begin);
        *(strstr(begin, "</interface>")) = '\0';
        copy = strdup(begin);
        for (p = strtok(copy, "\n"); p; p = strtok(NULL, "\n")) {
                p += strspn(p, " \t");
                if (*p)
                        out += sprintf(out, "%s\n", p);
        }
        *out = '\0';
}

static void the_installed_xml_is_what_the_bus_shows(void **state) {
        static const struct {
                const char *path, *interface;
        } cases[] = {
                { ROOT, NAME ".Manager" },
                { ROOT "/podvm/_30123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", NAME ".PodVM" },
        };
        Test *t = *state;
        TtrpcClient *client = connect_shim(t);

        create_ok(t, client);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
                _cleanup_(freep) char *file = NULL, *live = NULL, *installed = NULL;
                const char *text;

                assert_true(sd_bus_call_method(t->bus, NAME, cases[i].path, "org.freedesktop.DBus.Introspectable", "Introspect", NULL, &m,
                                               NULL) >= 0);
                assert_true(sd_bus_message_read(m, "s", &text) >= 0);
                live = strdup(text);
                assert_true(asprintf(&file, "%s/%s.xml", xml_directory, cases[i].interface) > 0);
                installed = read_text(file);
                normalize(live, cases[i].interface);
                normalize(installed, cases[i].interface);
                assert_string_equal(live, installed);
        }
        stop_ok(t, client);
        wait_until(t, all_gone(t));
        ttrpc_client_free(client);
}

static void bad_configuration_ends_with_status_78(void **state) {
        static const struct {
                const char *variable, *value;
                int status;
        } cases[] = {
                { "TLS_MIN_VERSION", "VersionTLS11", 78 },
                { "TLS_SKIP_VERIFY", "true", 78 },
                { "PROXY_TIMEOUT", "soon", 78 },
                { "PROXY_GRACE_TIME", "26m", 78 },
                { "INITDATA", "AAAA", 78 },
                { "CACERT_FILE", "/nonexistent", 78 },
                { "FORWARDER_PORT", "0", 78 },
                { "TUNNEL_PROBE", "perhaps", 78 },
        };
        Test *t = *state;

        end_adaptor(t, SIGTERM);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                int status;
                pid_t pid;

                assert_int_equal(setenv(cases[i].variable, cases[i].value, 1), 0);
                pid = spawn(adaptor_program, NULL);
                assert_int_equal(waitpid(pid, &status, 0), pid);
                assert_int_equal(unsetenv(cases[i].variable), 0);
                assert_true(WIFEXITED(status));
                assert_int_equal(WEXITSTATUS(status), cases[i].status);
        }
}

int main(int argc, char *argv[]) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TEST_CURIOUS(f) cmocka_unit_test_setup_teardown(f, setup_curious, teardown)
        const struct CMUnitTest tests[] = {
                TEST(a_pod_vm_lives_and_leaves_nothing),
                TEST(bad_requests_are_refused_with_their_reason),
                TEST(a_conflicting_create_is_refused),
                TEST(unknown_sandboxes),
                TEST(a_second_start_joins_the_first),
                TEST(a_stop_cancels_the_start),
                TEST(the_last_caller_who_leaves_cancels_the_start),
                TEST(a_start_ends_with_its_callers_deadline),
                TEST(failures_of_each_step_are_undone_and_told),
                TEST(an_unusable_network_namespace_ends_create),
                TEST(a_delete_is_tried_until_the_cloud_says_gone),
                TEST(a_restart_keeps_what_is_planned),
                TEST(a_restart_drops_what_is_planned_without_its_files),
                TEST(a_restart_cleans_up_a_start),
                TEST(a_restart_does_not_disturb_what_runs),
                TEST(a_restart_after_the_node_was_booted_cleans_up),
                TEST(a_restart_goes_on_with_a_delete),
                TEST(a_record_that_is_unreadable_is_set_aside),
                TEST(an_instance_without_a_record_is_reaped),
                TEST_CURIOUS(orphans_are_found_while_it_runs),
                TEST_CURIOUS(an_instance_that_is_being_made_is_no_orphan),
                TEST_CURIOUS(what_goes_while_a_list_is_made_is_no_orphan),
                TEST_CURIOUS(an_instance_that_is_not_listed_is_told_until_it_is),
                TEST(a_list_from_before_the_start_says_nothing),
                TEST(calls_survive_a_restart_of_the_services),
                TEST(a_stop_survives_a_restart_of_systemd),
                TEST(a_service_that_is_slow_to_start_holds_up_nobody),
                TEST(get_info_waits_for_the_instance),
                TEST(a_proxy_that_fails_later_is_shown),
                TEST(a_proxy_that_was_killed_is_shown),
                TEST(no_descriptor_is_left),
                TEST(a_new_object_shows_what_is_constant),
                TEST(stop_on_the_bus_asks_polkit),
                TEST(what_vanishes_while_polkit_thinks_is_not_found),
                TEST(the_installed_xml_is_what_the_bus_shows),
                TEST(bad_configuration_ends_with_status_78),
        };

        if (!take_arguments(argc, argv, 5))
                return 2;
        xml_directory = argv[5];

        return cmocka_run_group_tests_name("adaptor", tests, NULL, NULL);
}
