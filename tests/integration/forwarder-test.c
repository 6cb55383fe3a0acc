/* SPDX-License-Identifier: Apache-2.0 */
/* The VM's end of the agent protocol as processes: agent-protocol-forwarder and podvm-volumes with real disks, an agent that echoes what it
 * gets, and peerpod-agent-proxy in front. Root. Argument: podvm-volumes; $PROXY, $FORWARDER and $FORWARDER_PLAIN as relay-test.c. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "basic/io.h"
#include "basic/util.h"
#include "podvm/volumes/disk.h"
#include "proto/agent.pb-c.h"
#include "proto/proto.h"
#include "relay-rig.h"
#include "ttrpc/client.h"
#include "volumes-rig.h"

#define AGENT "grpc.AgentService"
#define PATIENCE_USEC (120 * USEC_PER_SEC)

static const char *volumes_program;
static Rig rig;
static VolumesRig disks;
static RigStore store;
static sd_event *event;
static TtrpcClient *client;
static char note[96], log_path[96], target[128];
static size_t own_fds;

static int setup(void **state) {
        own_fds = rig_count_fds(getpid());
        volumes_rig_make(&disks);
        rig_make(&rig);
        (void) snprintf(note, sizeof(note), "%s/agent-exit", rig.dir);
        (void) snprintf(log_path, sizeof(log_path), "%s/log", rig.dir);
        (void) snprintf(target, sizeof(target), "%s/target", disks.dir);
        rig.exit_note = note;
        rig.volumes_socket = disks.socket;
        rig.volumes_dir = disks.mount_root;
        rig.proxy_log = log_path;
        store = (RigStore) {};
        rig_start_agent(&rig);
        return sd_event_new(&event);
}

static void start_all(void) {
        rig_start_forwarder(&rig);
        rig_start_proxy(&rig);
        rig_wait_ready(&rig, 2);
        assert_int_equal(ttrpc_client_new_unix(event, rig.proxy_socket, &client), 0);
}

static int teardown(void **state) {
        client = ttrpc_client_free(client);
        event = sd_event_unref(event);
        rig_done(&rig);
        if (store.path[0])
                rig_store_done(&store);
        volumes_rig_done(&disks);
        return rig_count_fds(getpid()) == own_fds ? 0 : -1;
}

typedef struct Call {
        bool done;
        int32_t code;
        char message[400];
        uint8_t payload[8192];
        size_t size;
} Call;

static void on_reply(TtrpcClient *c, const TtrpcReply *reply, void *userdata) {
        Call *call = userdata;

        call->done = true;
        call->code = reply->code;
        (void) snprintf(call->message, sizeof(call->message), "%s", strempty(reply->message));
        call->size = MIN(reply->size, sizeof(call->payload));
        if (call->size > 0)
                memcpy(call->payload, reply->payload, call->size);
}

static void begin(TtrpcClient *c, const char *method, const void *payload, size_t size, Call *call) {
        *call = (Call) {};
        assert_int_equal(ttrpc_client_call(c, AGENT, method, payload, size, 0, NULL, on_reply, call, NULL), 0);
}

static void turn(void) {
        assert_true(sd_event_run(event, 20 * USEC_PER_MSEC) >= 0);
        if (store.path[0])
                rig_store_read(&store);
}

static void finish(Call *call) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC;

        while (!call->done && now_usec(CLOCK_MONOTONIC) < end)
                turn();
        assert_true(call->done);
}

static Call make(TtrpcClient *c, const char *method, const void *payload, size_t size) {
        Call call;

        begin(c, method, payload, size, &call);
        finish(&call);
        return call;
}

/* A container with the volume at /data and a mount of the target directory. */
static void begin_create(const char *cloud_volumes, const char *targets, Call *call) {
        Grpc__CreateContainerRequest m = GRPC__CREATE_CONTAINER_REQUEST__INIT;
        Grpc__Spec spec = GRPC__SPEC__INIT;
        Grpc__Linux l = GRPC__LINUX__INIT;
        Grpc__Mount mounts[2] = { GRPC__MOUNT__INIT, GRPC__MOUNT__INIT }, *mount_list[] = { &mounts[0], &mounts[1] };
        Grpc__Spec__AnnotationsEntry entries[2] = { GRPC__SPEC__ANNOTATIONS_ENTRY__INIT, GRPC__SPEC__ANNOTATIONS_ENTRY__INIT };
        Grpc__Spec__AnnotationsEntry *entry_list[] = { &entries[0], &entries[1] };
        uint8_t buffer[4096];
        size_t n;

        mounts[0].destination = (char*) "/data";
        mounts[0].source = (char*) "/var/lib/kubelet/x";
        mounts[0].type = (char*) "bind";
        mounts[1].destination = (char*) "/target";
        mounts[1].source = target;
        mounts[1].type = (char*) "bind";
        entries[0].key = (char*) "io.confidentialcontainers.org.cloud_volumes";
        entries[0].value = (char*) cloud_volumes;
        entries[1].key = (char*) "io.confidentialcontainers.org.peerpodvolumes.target_path";
        entries[1].value = (char*) targets;
        spec.n_mounts = spec.n_annotations = 2;
        spec.mounts = mount_list;
        spec.annotations = entry_list;
        spec.linux = &l;
        m.container_id = (char*) "c1";
        m.oci = &spec;
        n = grpc__create_container_request__get_packed_size(&m);
        assert_true(n <= sizeof(buffer));
        (void) grpc__create_container_request__pack(&m, buffer);
        begin(client, "CreateContainer", buffer, n, call);
}

#define VOLUME_0 "{\"vol-0\":{\"mount_point\":\"/data\",\"fs_type\":\"ext4\",\"lun\":\"0\",\"disk_id\":\"\"}}"

/* What the agent has got. */
static void assert_created(const Call *call) {
        _cleanup_(proto_freep) ProtobufCMessage *m = NULL;
        const Grpc__CreateContainerRequest *q;
        char wanted[200];

        if (call->code != 0)
                fail_msg("%i: %s", call->code, call->message);
        assert_int_equal(proto_unpack(&grpc__create_container_request__descriptor, call->payload, call->size, &m), 0);
        q = (const Grpc__CreateContainerRequest*) m;
        (void) snprintf(wanted, sizeof(wanted), "%s/vol-0", disks.mount_root);
        assert_string_equal(q->oci->mounts[0]->source, wanted);
        assert_string_equal(q->oci->mounts[1]->source, target);
        assert_int_equal(q->oci->linux->n_namespaces, 1);
}

static bool is_mounted(void) {
        char path[200];

        (void) snprintf(path, sizeof(path), "%s/vol-0", disks.mount_root);
        return disk_is_mounted_at(path, 0) == 1;
}

static void wait_for_mount(bool mounted) {
        uint64_t end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC;

        while (is_mounted() != mounted && now_usec(CLOCK_MONOTONIC) < end)
                turn();
        assert_int_equal(is_mounted(), mounted);
}

static void a_container_waits_for_its_volume_and_nobody_else_does(void **state) {
        Call create, echo;

        (void) volumes_rig_add_disk(&disks, NULL);
        (void) volumes_rig_add_disk(&disks, "vdz");     /* tells the provider */
        volumes_rig_start(&disks, volumes_program, "1000");
        start_all();
        begin_create(VOLUME_0, "", &create);
        for (unsigned i = 0; i < 20; i++) {
                echo = make(client, "Echo", "x", 1);
                assert_int_equal(echo.code, 0);
        }
        assert_false(create.done);
        volumes_rig_name_disk(&disks, 0, "vdb");
        finish(&create);
        assert_created(&create);
        assert_true(is_mounted());
}

static void a_volume_that_does_not_come_refuses_its_container(void **state) {
        Call create;

        (void) volumes_rig_add_disk(&disks, "vdz");
        volumes_rig_start(&disks, volumes_program, "2");
        start_all();
        begin_create(VOLUME_0, "", &create);
        finish(&create);
        assert_int_equal(create.code, TTRPC_FAILED_PRECONDITION);
        assert_non_null(strstr(create.message, "cloud volume 'vol-0': there is no disk with LUN 0"));

        begin_create("{\"vol-0\":1}", "", &create);
        finish(&create);
        assert_int_equal(create.code, TTRPC_INVALID_ARGUMENT);

        volumes_rig_stop(&disks, SIGTERM);
        assert_int_equal(unlink(disks.socket), 0);
        begin_create(VOLUME_0, "", &create);
        finish(&create);
        assert_int_equal(create.code, TTRPC_UNAVAILABLE);
        assert_non_null(strstr(create.message, "podvm-volumes"));
}

static void a_container_waits_for_what_somebody_else_mounts(void **state) {
        Call create, echo;

        (void) volumes_rig_add_disk(&disks, "vdb");
        volumes_rig_start(&disks, volumes_program, "1");
        start_all();
        begin_create(VOLUME_0, target, &create);
        wait_for_mount(true);
        for (unsigned i = 0; i < 10; i++) {
                echo = make(client, "Echo", "x", 1);
                assert_int_equal(echo.code, 0);
        }
        assert_false(create.done);
        assert_int_equal(mkdir(target, 0700), 0);
        assert_int_equal(mount("target", target, "tmpfs", 0, NULL), 0);
        finish(&create);
        assert_created(&create);
        assert_int_equal(umount(target), 0);
}

static void volumes_of_a_container_that_nobody_wants_any_more_are_unmounted(void **state) {
        Call create;

        (void) volumes_rig_add_disk(&disks, "vdb");
        volumes_rig_start(&disks, volumes_program, "1");
        start_all();
        begin_create(VOLUME_0, target, &create);        /* and the target never comes */
        wait_for_mount(true);

        /* The worker's proxy is killed; the next one's session ends what it has left. */
        (void) rig_stop(&rig.proxy, SIGKILL);
        client = ttrpc_client_free(client);
        rig_start_proxy(&rig);
        rig_wait_ready(&rig, 1);
        wait_for_mount(false);
}

static void a_volume_is_unmounted_with_its_last_container(void **state) {
        static const uint8_t c1[] = "\x0a\x02" "c1";
        Call create;

        (void) volumes_rig_add_disk(&disks, "vdb");
        volumes_rig_start(&disks, volumes_program, "1");
        start_all();
        begin_create(VOLUME_0, "", &create);
        finish(&create);
        assert_created(&create);
        assert_int_equal(make(client, "RemoveContainer", c1, sizeof(c1) - 1).code, 0);
        wait_for_mount(false);
}

static void the_sandbox_s_end_is_answered_when_its_volumes_are_unmounted(void **state) {
        Call create, destroy;

        (void) volumes_rig_add_disk(&disks, "vdb");
        volumes_rig_start(&disks, volumes_program, "1");
        start_all();
        begin_create(VOLUME_0, "", &create);
        finish(&create);
        assert_created(&create);
        destroy = make(client, "DestroySandbox", NULL, 0);
        assert_true(destroy.code == 0 || destroy.code == TTRPC_UNAVAILABLE);    /* the agent may end before its answer is out */
        assert_false(is_mounted());
}

static void a_container_waits_through_a_restart_of_the_forwarder(void **state) {
        Call create;

        (void) volumes_rig_add_disk(&disks, NULL);
        (void) volumes_rig_add_disk(&disks, "vdz");
        volumes_rig_start(&disks, volumes_program, "1000");
        rig_store_make(&store, &rig, "forwarder-notify");
        rig.forwarder_store = &store;
        rig_start_forwarder(&rig);
        rig_start_proxy(&rig);
        rig_wait_ready(&rig, 1);
        assert_int_equal(ttrpc_client_new_unix(event, rig.proxy_socket, &client), 0);

        begin_create(VOLUME_0, "", &create);
        assert_int_equal(make(client, "Echo", "x", 1).code, 0);         /* it is there by now */
        assert_int_equal(kill(rig.forwarder, SIGTERM), 0);
        for (int status; waitpid(rig.forwarder, &status, WNOHANG) == 0;)
                turn();
        rig.forwarder = 0;
        rig_start_forwarder(&rig);
        assert_int_equal(make(client, "Echo", "x", 1).code, 0);
        assert_false(create.done);
        volumes_rig_name_disk(&disks, 0, "vdb");
        finish(&create);
        assert_created(&create);
}

/* ---- the agent's end ---- */

#define KILLED "the agent was killed by signal KILL"

/* As the agent's unit does. */
static void end_agent(void) {
        (void) rig_stop(&rig.agent, SIGKILL);
        assert_int_equal(symlink("signal killed KILL", note), 0);
}

static void assert_proxy_told(const char *text) {
        _cleanup_(freep) char *log = NULL;
        int status = rig_wait(&rig.proxy, PATIENCE_USEC / 1000);

        assert_true(status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == 1);
        assert_int_equal(read_full_file_at(AT_FDCWD, log_path, 1 << 20, &log, NULL), 0);
        if (!strstr(log, text))
                fail_msg("no '%s' in:\n%s", text, log);
}

static void the_worker_is_told_how_the_agent_has_ended(void **state) {
        Call wait;

        start_all();
        begin(client, "WaitProcess", NULL, 0, &wait);
        assert_int_equal(make(client, "Echo", "x", 1).code, 0);
        end_agent();
        finish(&wait);
        assert_int_equal(wait.code, TTRPC_UNAVAILABLE);
        assert_non_null(strstr(wait.message, KILLED));
        assert_proxy_told("The pod VM ends: " KILLED);
}

static void a_worker_that_comes_later_is_told_too(void **state) {
        start_all();
        (void) rig_stop(&rig.proxy, SIGKILL);
        end_agent();
        rig_start_proxy(&rig);
        assert_proxy_told("The pod VM ends: " KILLED);
}

static void the_end_after_destroy_sandbox_is_no_failure(void **state) {
        Call destroy;

        start_all();
        assert_int_equal(make(client, "CreateSandbox", NULL, 0).code, 0);
        destroy = make(client, "DestroySandbox", NULL, 0);
        assert_true(destroy.code == 0 || destroy.code == TTRPC_UNAVAILABLE);
        (void) rig_wait(&rig.agent, PATIENCE_USEC / 1000);
        assert_int_equal(symlink("success exited 0", note), 0);
        for (unsigned i = 0; i < 20; i++)
                turn();
        assert_int_equal(rig_wait(&rig.proxy, 0), -1);          /* it waits for the VM to be deleted */
}

static TtrpcClient* connect_plain(void) {
        struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(rig.port) };
        int fd = socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0);
        TtrpcClient *c = NULL;

        assert_int_equal(connect(fd, (struct sockaddr*) &in, sizeof(in)), 0);
        assert_int_equal(ttrpc_client_new(event, fd, &c), 0);
        return c;
}

static void upstream_s_worker_gets_it_as_a_status(void **state) {
        Call wait, echo;

        rig.tls = false;
        rig_write_config(&rig);
        rig_start_forwarder(&rig);
        rig_wait_ready(&rig, 1);
        client = connect_plain();
        begin(client, "WaitProcess", NULL, 0, &wait);
        assert_int_equal(make(client, "Echo", "x", 1).code, 0);
        end_agent();
        finish(&wait);
        assert_int_equal(wait.code, TTRPC_UNAVAILABLE);
        assert_non_null(strstr(wait.message, KILLED));

        client = ttrpc_client_free(client);
        client = connect_plain();
        echo = make(client, "Echo", "x", 1);
        assert_int_equal(echo.code, TTRPC_UNAVAILABLE);
        assert_string_equal(echo.message, KILLED);
}

static void an_agent_that_is_back_is_used_again(void **state) {
        Call wait, echo = {};

        start_all();
        begin(client, "WaitProcess", NULL, 0, &wait);
        assert_int_equal(make(client, "Echo", "x", 1).code, 0);
        (void) rig_stop(&rig.agent, SIGKILL);
        finish(&wait);
        assert_int_equal(wait.code, TTRPC_UNAVAILABLE);
        rig_start_agent(&rig);
        for (uint64_t end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC; now_usec(CLOCK_MONOTONIC) < end;) {
                echo = make(client, "Echo", "x", 1);
                if (echo.code == 0)
                        break;
        }
        assert_int_equal(echo.code, 0);
}

static void calls_of_a_worker_that_is_gone_are_cancelled(void **state) {
        Call wait, cancelled = {};

        start_all();
        begin(client, "WaitProcess", NULL, 0, &wait);
        assert_int_equal(make(client, "Cancelled", NULL, 0).payload[0], '0');
        (void) rig_stop(&rig.proxy, SIGKILL);
        client = ttrpc_client_free(client);
        rig_start_proxy(&rig);
        rig_wait_ready(&rig, 1);
        assert_int_equal(ttrpc_client_new_unix(event, rig.proxy_socket, &client), 0);
        for (uint64_t end = now_usec(CLOCK_MONOTONIC) + PATIENCE_USEC; now_usec(CLOCK_MONOTONIC) < end;) {
                cancelled = make(client, "Cancelled", NULL, 0);
                if (cancelled.code == 0 && cancelled.payload[0] == '1')
                        break;
        }
        assert_int_equal(cancelled.payload[0], '1');
}

int main(int argc, char *argv[]) {
        static const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
                TEST(a_container_waits_for_its_volume_and_nobody_else_does),
                TEST(a_volume_that_does_not_come_refuses_its_container),
                TEST(a_container_waits_for_what_somebody_else_mounts),
                TEST(volumes_of_a_container_that_nobody_wants_any_more_are_unmounted),
                TEST(a_volume_is_unmounted_with_its_last_container),
                TEST(the_sandbox_s_end_is_answered_when_its_volumes_are_unmounted),
                TEST(a_container_waits_through_a_restart_of_the_forwarder),
                TEST(the_worker_is_told_how_the_agent_has_ended),
                TEST(a_worker_that_comes_later_is_told_too),
                TEST(the_end_after_destroy_sandbox_is_no_failure),
                TEST(upstream_s_worker_gets_it_as_a_status),
                TEST(an_agent_that_is_back_is_used_again),
                TEST(calls_of_a_worker_that_is_gone_are_cancelled),
        };

        if (argc != 2)
                return 2;
        volumes_program = argv[1];
        return cmocka_run_group_tests(tests, NULL, NULL);
}
