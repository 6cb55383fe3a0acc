/* SPDX-License-Identifier: Apache-2.0 */
/* The stand-in agent as a client sees it: real processes in containers that crun makes. Root; the agent goes into namespaces of its
 * own (--host-mode). Arguments: the agent's program, the pause program. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "agent-rig.h"
#include "basic/io.h"
#include "basic/util.h"
#include "proto/agent.pb-c.h"
#include "proto/health.pb-c.h"
#include "proto/proto.h"
#include "ttrpc/client.h"

#define AGENT "grpc.AgentService"
#define TIMEOUT (20 * USEC_PER_SEC)

static const char *agent_program, *pause_program;

typedef struct Fixture {
        char dir[32], socket[64], netns[64];
        pid_t agent;
        sd_event *event;
        TtrpcClient *client;
        TtrpcResult result;
        ProtobufCMessage *message;
        int n_fds;
} Fixture;

static int count_fds(void) {
        _cleanup_(closedirp) DIR *d = opendir("/proc/self/fd");
        int n = 0;

        while (d && readdir(d))
                n++;
        return n;
}

static int setup(void **state) {
        Fixture *f = new0(Fixture, 1);

        if (!f)
                return -1;
        *state = f;
        f->n_fds = count_fds();
        f->agent = -1;
        strcpy(f->dir, "/tmp/stand-in-XXXXXX");
        if (!mkdtemp(f->dir))
                return -1;
        (void) snprintf(f->socket, sizeof(f->socket), "%s/agent.sock", f->dir);
        (void) snprintf(f->netns, sizeof(f->netns), "%s/podns", f->dir);
        if (agent_rig_make(f->dir) < 0)
                return -1;

        f->agent = agent_rig_start(agent_program, pause_program, f->dir, f->socket);
        if (f->agent < 0 || sd_event_new(&f->event) < 0)
                return -1;

        for (unsigned i = 0; i < 200; i++) {            /* until the socket is there; connects wait in its backlog */
                if (ttrpc_client_new_unix(f->event, f->socket, &f->client) >= 0)
                        return 0;
                (void) usleep(10000);
        }
        return -1;
}

static int teardown(void **state) {
        Fixture *f = *state;
        int status, r = 0;

        ttrpc_result_done(&f->result);
        proto_free(f->message);
        ttrpc_client_free(f->client);
        sd_event_unref(f->event);
        if (f->agent > 0) {
                (void) kill(f->agent, SIGTERM);
                (void) waitpid(f->agent, &status, 0);
                if (agent_rig_has_leftovers(f->agent)) {
                        print_error("control groups of the agent are left\n");
                        r = -1;
                }
        }
        agent_rig_done(f->dir);
        if (remove_tree(f->dir) < 0)
                r = -1;
        if (count_fds() != f->n_fds) {
                print_error("descriptors: %i before, %i after\n", f->n_fds, count_fds());
                r = -1;
        }
        free(f);
        return r;
}

/* ---- calls ----------------------------------------------------------------------------------------------------- */

static int call_method(Fixture *f, const char *service, const char *method, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type) {
        ttrpc_result_done(&f->result);
        f->result = TTRPC_RESULT_NULL;
        proto_free(f->message);
        f->message = NULL;
        return ttrpc_client_call_message_sync(f->client, service, method, request, TIMEOUT, NULL, type, &f->message, &f->result);
}

static void must(Fixture *f, const char *method, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type) {
        int r = call_method(f, AGENT, method, request, type);

        if (r < 0)
                fail_msg("%s: %i, code %i: %s", method, r, f->result.code, f->result.message);
}

static void must_fail(Fixture *f, const char *method, const ProtobufCMessage *request, TtrpcCode code, const char *text) {
        int r = call_method(f, AGENT, method, request, NULL);

        if (r != -EREMOTEIO || f->result.code != (int32_t) code || !strstr(f->result.message, text))
                fail_msg("%s: %i, code %i: %s", method, r, f->result.code, strempty(f->result.message));
}

static void create_sandbox(Fixture *f) {
        Grpc__CreateSandboxRequest q = GRPC__CREATE_SANDBOX_REQUEST__INIT;
        Grpc__Storage shm = GRPC__STORAGE__INIT, *storages[] = { &shm };
        char *options[] = { (char*) "noexec", (char*) "nosuid", (char*) "nodev", (char*) "mode=1777", (char*) "size=67108864" };

        shm.driver = (char*) "ephemeral";
        shm.source = (char*) "shm";
        shm.fstype = (char*) "tmpfs";
        shm.options = options;
        shm.n_options = ELEMENTSOF(options);
        shm.mount_point = (char*) "/run/kata-containers/sandbox/shm";
        q.hostname = (char*) "web-1";
        q.sandbox_id = (char*) "sandbox1";
        q.storages = storages;
        q.n_storages = 1;
        must(f, "CreateSandbox", &q.base, NULL);
}

static void start_container(Fixture *f, const char *id) {
        Grpc__StartContainerRequest q = GRPC__START_CONTAINER_REQUEST__INIT;

        q.container_id = (char*) id;
        must(f, "StartContainer", &q.base, NULL);
}

static void run_container(Fixture *f, const char *id, const char *const *args) {
        Spec s;

        spec_init(&s, f->netns, id, "docker.io/library/busybox", args);
        must(f, "CreateContainer", &s.q.base, NULL);
        start_container(f, id);
}

static void remove_container(Fixture *f, const char *id) {
        Grpc__RemoveContainerRequest q = GRPC__REMOVE_CONTAINER_REQUEST__INIT;

        q.container_id = (char*) id;
        must(f, "RemoveContainer", &q.base, NULL);
}

static void exec_process(Fixture *f, const char *id, const char *exec_id, char **args) {
        Grpc__ExecProcessRequest q;
        Grpc__Process p;

        exec_request(&q, &p, id, exec_id, args);
        must(f, "ExecProcess", &q.base, NULL);
}

/* One answer; true if it was the end. */
static bool read_some(Fixture *f, const char *method, const char *id, const char *exec_id, char *buffer, size_t size, size_t *done) {
        Grpc__ReadStreamRequest q = GRPC__READ_STREAM_REQUEST__INIT;
        const Grpc__ReadStreamResponse *a;

        q.container_id = (char*) id;
        q.exec_id = (char*) exec_id;
        q.len = 32768;
        must(f, method, &q.base, &grpc__read_stream_response__descriptor);
        a = (const Grpc__ReadStreamResponse*) f->message;
        if (*done + a->data.len >= size)
                fail_msg("more output than expected");
        if (a->data.len > 0)
                memcpy(buffer + *done, a->data.data, a->data.len);
        *done += a->data.len;
        buffer[*done] = '\0';
        return a->data.len == 0;
}

static void read_all(Fixture *f, const char *method, const char *id, const char *exec_id, char *buffer, size_t size) {
        size_t done = 0;

        while (!read_some(f, method, id, exec_id, buffer, size, &done))
                ;
}

static int wait_process(Fixture *f, const char *id, const char *exec_id) {
        Grpc__WaitProcessRequest q = GRPC__WAIT_PROCESS_REQUEST__INIT;

        q.container_id = (char*) id;
        q.exec_id = (char*) exec_id;
        must(f, "WaitProcess", &q.base, &grpc__wait_process_response__descriptor);
        return ((const Grpc__WaitProcessResponse*) f->message)->status;
}

static void write_stdin(Fixture *f, const char *id, const char *exec_id, const char *data) {
        Grpc__WriteStreamRequest q = GRPC__WRITE_STREAM_REQUEST__INIT;

        q.container_id = (char*) id;
        q.exec_id = (char*) exec_id;
        q.data = (ProtobufCBinaryData) { .data = (uint8_t*) data, .len = strlen(data) };
        must(f, "WriteStdin", &q.base, &grpc__write_stream_response__descriptor);
        assert_int_equal(((const Grpc__WriteStreamResponse*) f->message)->len, strlen(data));
}

static void close_stdin(Fixture *f, const char *id, const char *exec_id) {
        Grpc__CloseStdinRequest q = GRPC__CLOSE_STDIN_REQUEST__INIT;

        q.container_id = (char*) id;
        q.exec_id = (char*) exec_id;
        must(f, "CloseStdin", &q.base, NULL);
}

static void send_signal(Fixture *f, const char *id, const char *exec_id, int sig) {
        Grpc__SignalProcessRequest q = GRPC__SIGNAL_PROCESS_REQUEST__INIT;

        q.container_id = (char*) id;
        q.exec_id = (char*) exec_id;
        q.signal = (uint32_t) sig;
        must(f, "SignalProcess", &q.base, NULL);
}

static const char *const sleeper[] = { BUSYBOX, "sleep", "1000000", NULL };

/* ---- tests ----------------------------------------------------------------------------------------------------- */

static void it_answers_as_an_agent(void **state) {
        Fixture *f = *state;
        Grpc__CheckRequest check = GRPC__CHECK_REQUEST__INIT;
        Grpc__GuestDetailsRequest details = GRPC__GUEST_DETAILS_REQUEST__INIT;
        Grpc__SetPolicyRequest policy = GRPC__SET_POLICY_REQUEST__INIT;
        const Grpc__GuestDetailsResponse *d;

        assert_int_equal(call_method(f, "grpc.Health", "Check", &check.base, &grpc__health_check_response__descriptor), 0);
        assert_int_equal(((const Grpc__HealthCheckResponse*) f->message)->status, GRPC__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING);
        assert_int_equal(call_method(f, "grpc.Health", "Version", &check.base, &grpc__version_check_response__descriptor), 0);
        assert_string_equal(((const Grpc__VersionCheckResponse*) f->message)->grpc_version, "0.0.1");

        details.mem_block_size = true;
        must(f, "GetGuestDetails", &details.base, &grpc__guest_details_response__descriptor);
        d = (const Grpc__GuestDetailsResponse*) f->message;
        assert_non_null(d->agent_details);
        assert_true(d->agent_details->supports_seccomp);

        must_fail(f, "SetPolicy", &policy.base, TTRPC_UNIMPLEMENTED, "SetPolicy");
        must_fail(f, "NoSuchMethod", &policy.base, TTRPC_UNIMPLEMENTED, "");
}

static void every_method_is_known_by_name(void **state) {
        Fixture *f = *state;
        const ProtobufCServiceDescriptor *d = &grpc__agent_service__descriptor;

        /* The ones with an effect get a request that none of them accepts; what counts is that it is looked at. */
        for (unsigned i = 0; i < d->n_methods; i++) {
                const char *name = d->methods[i].name;

                if (streq(name, "CreateSandbox") || streq(name, "DestroySandbox") || streq(name, "GetOOMEvent"))
                        continue;
                (void) ttrpc_client_call_sync(f->client, AGENT, name, "", 0, TIMEOUT, NULL, &f->result);
                if (f->result.error == -EREMOTEIO && f->result.code == TTRPC_UNIMPLEMENTED && !strstr(f->result.message, "stand-in"))
                        fail_msg("%s: %s", name, f->result.message);
                ttrpc_result_done(&f->result);
                f->result = TTRPC_RESULT_NULL;
        }
}

static void a_pod_lives_and_ends(void **state) {
        static const char *const pause_args[] = { "/pause-of-an-image", NULL };
        Fixture *f = *state;
        Grpc__StatsContainerRequest stats = GRPC__STATS_CONTAINER_REQUEST__INIT;
        Grpc__DestroySandboxRequest destroy = GRPC__DESTROY_SANDBOX_REQUEST__INIT;
        const Grpc__StatsContainerResponse *sr;
        char buffer[4096];
        int status;
        Spec s;

        create_sandbox(f);

        spec_init(&s, f->netns, "sandbox1", "pause", pause_args);
        must(f, "CreateContainer", &s.q.base, NULL);
        start_container(f, "sandbox1");

        run_container(f, "web", (const char *const[]) { BUSYBOX, "sh", "-c",
                      "echo out; echo err >&2; busybox hostname; busybox readlink /proc/self/ns/net; read x; echo got $x; exit 7", NULL });
        write_stdin(f, "web", "", "hello\n");
        read_all(f, "ReadStdout", "web", "", buffer, sizeof(buffer));
        assert_non_null(strstr(buffer, "out\nweb-1\nnet:["));
        assert_non_null(strstr(buffer, "]\ngot hello\n"));

        /* it was in the namespace that was given */
        char link[64], *seen = strstr(buffer, "net:[");
        struct stat st;
        assert_int_equal(stat(f->netns, &st), 0);
        (void) snprintf(link, sizeof(link), "net:[%lu]", (unsigned long) st.st_ino);
        assert_non_null(startswith(seen, link));

        read_all(f, "ReadStderr", "web", "", buffer, sizeof(buffer));
        assert_string_equal(buffer, "err\n");
        assert_int_equal(wait_process(f, "web", ""), 7);

        stats.container_id = (char*) "sandbox1";
        must(f, "StatsContainer", &stats.base, &grpc__stats_container_response__descriptor);
        sr = (const Grpc__StatsContainerResponse*) f->message;
        assert_non_null(sr->cgroup_stats);
        assert_non_null(sr->cgroup_stats->cpu_stats->cpu_usage);
        assert_true(sr->cgroup_stats->cpu_stats->cpu_usage->total_usage > 0);
        assert_int_equal(sr->n_network_stats, 0);

        remove_container(f, "web");
        must(f, "DestroySandbox", &destroy.base, NULL);
        assert_int_equal(waitpid(f->agent, &status, 0), f->agent);
        f->agent = -1;
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void exec_has_its_own_streams_and_status(void **state) {
        char *cat[] = { (char*) BUSYBOX, (char*) "cat", NULL };
        char *fails[] = { (char*) BUSYBOX, (char*) "sh", (char*) "-c", (char*) "echo no >&2; exit 42", NULL };
        char *missing[] = { (char*) "/no/such/program", NULL };
        Fixture *f = *state;
        Grpc__ExecProcessRequest q;
        Grpc__Process p;
        Grpc__WaitProcessRequest w = GRPC__WAIT_PROCESS_REQUEST__INIT;
        Grpc__TtyWinResizeRequest resize = GRPC__TTY_WIN_RESIZE_REQUEST__INIT;
        char buffer[4096];

        create_sandbox(f);
        run_container(f, "c1", sleeper);

        exec_process(f, "c1", "e1", cat);
        exec_request(&q, &p, "c1", "e1", cat);
        must_fail(f, "ExecProcess", &q.base, TTRPC_INTERNAL, "exec_id 'e1' already exists");
        resize.container_id = (char*) "c1";
        resize.exec_id = (char*) "e1";
        must_fail(f, "TtyWinResize", &resize.base, TTRPC_UNAVAILABLE, "no tty");

        size_t done = 0;
        write_stdin(f, "c1", "e1", "first ");
        assert_false(read_some(f, "ReadStdout", "c1", "e1", buffer, sizeof(buffer), &done));
        assert_string_equal(buffer, "first ");
        write_stdin(f, "c1", "e1", "second");
        close_stdin(f, "c1", "e1");
        read_all(f, "ReadStdout", "c1", "e1", buffer, sizeof(buffer));
        assert_string_equal(buffer, "second");
        assert_int_equal(wait_process(f, "c1", "e1"), 0);
        w.container_id = (char*) "c1";
        w.exec_id = (char*) "e1";
        must_fail(f, "WaitProcess", &w.base, TTRPC_NOT_FOUND, "Process not found");

        /* the status first, the output afterwards: a hand-driven client asks like that */
        exec_process(f, "c1", "e2", fails);
        assert_int_equal(wait_process(f, "c1", "e2"), 42);
        read_all(f, "ReadStderr", "c1", "e2", buffer, sizeof(buffer));
        assert_string_equal(buffer, "no\n");

        exec_request(&q, &p, "c1", "e3", missing);
        must_fail(f, "ExecProcess", &q.base, TTRPC_INTERNAL, "/no/such/program");
        w.exec_id = (char*) "e3";
        must_fail(f, "WaitProcess", &w.base, TTRPC_NOT_FOUND, "Process not found");

        remove_container(f, "c1");
}

static void signals_end_processes(void **state) {
        char *sleeping[] = { (char*) BUSYBOX, (char*) "sleep", (char*) "1000000", NULL };
        Fixture *f = *state;

        create_sandbox(f);
        run_container(f, "c1", sleeper);
        exec_process(f, "c1", "e1", sleeping);
        exec_process(f, "c1", "e2", sleeping);

        send_signal(f, "c1", "e1", SIGTERM);
        assert_int_equal(wait_process(f, "c1", "e1"), 128 + SIGTERM);
        send_signal(f, "c1", "e1", SIGTERM);            /* gone: no error */

        send_signal(f, "c1", "", SIGKILL);              /* all of them */
        assert_int_equal(wait_process(f, "c1", "c1"), 128 + SIGKILL);
        assert_int_equal(wait_process(f, "c1", "e2"), 128 + SIGKILL);
        remove_container(f, "c1");

        /* the first process of a pid namespace ignores what it has no handler for; the agent knows */
        run_container(f, "c2", sleeper);
        send_signal(f, "c2", "", SIGTERM);
        assert_int_equal(wait_process(f, "c2", ""), 128 + SIGKILL);
        remove_container(f, "c2");
}

static void a_terminal_is_real(void **state) {
        char *args[] = { (char*) BUSYBOX, (char*) "sh", (char*) "-c", (char*) "busybox tty; read x; busybox stty size; exit 3", NULL };
        Fixture *f = *state;
        Grpc__TtyWinResizeRequest resize = GRPC__TTY_WIN_RESIZE_REQUEST__INIT;
        Grpc__ExecProcessRequest q;
        Grpc__Process p;
        char buffer[4096];

        create_sandbox(f);
        run_container(f, "c1", sleeper);
        exec_request(&q, &p, "c1", "e1", args);
        p.terminal = true;
        must(f, "ExecProcess", &q.base, NULL);

        resize.container_id = (char*) "c1";
        resize.exec_id = (char*) "e1";
        resize.row = 33;
        resize.column = 111;
        must(f, "TtyWinResize", &resize.base, NULL);
        write_stdin(f, "c1", "e1", "go\n");
        read_all(f, "ReadStdout", "c1", "e1", buffer, sizeof(buffer));
        assert_non_null(strstr(buffer, "/dev/pts/"));
        assert_non_null(strstr(buffer, "33 111"));
        read_all(f, "ReadStderr", "c1", "e1", buffer, sizeof(buffer));
        assert_string_equal(buffer, "");
        assert_int_equal(wait_process(f, "c1", "e1"), 3);
        remove_container(f, "c1");
}

static void a_process_whose_output_nobody_reads_is_stopped(void **state) {
        static const char *const args[] = { BUSYBOX, "sh", "-c", "busybox head -c 3000000 /dev/zero; echo done >&2; exec busybox sleep 1000000", NULL };
        Grpc__ReadStreamRequest q = GRPC__READ_STREAM_REQUEST__INIT;
        Fixture *f = *state;
        char buffer[64];
        size_t total = 0;

        create_sandbox(f);
        run_container(f, "c1", args);

        q.container_id = (char*) "c1";
        q.exec_id = (char*) "";
        q.len = 10;
        ttrpc_result_done(&f->result);
        f->result = TTRPC_RESULT_NULL;
        size_t size = protobuf_c_message_get_packed_size(&q.base);
        _cleanup_(freep) uint8_t *packed = malloc(size);
        assert_non_null(packed);
        (void) protobuf_c_message_pack(&q.base, packed);
        /* it is blocked in its write, so it has not said "done" */
        assert_int_equal(ttrpc_client_call_sync(f->client, AGENT, "ReadStderr", packed, size, 300 * USEC_PER_MSEC, NULL, &f->result), -ETIMEDOUT);

        q.len = 1 << 20;
        while (total < 3000000) {
                must(f, "ReadStdout", &q.base, &grpc__read_stream_response__descriptor);
                total += ((const Grpc__ReadStreamResponse*) f->message)->data.len;
        }
        assert_int_equal(total, 3000000);
        total = 0;
        (void) read_some(f, "ReadStderr", "c1", "", buffer, sizeof(buffer), &total);
        assert_string_equal(buffer, "done\n");
        remove_container(f, "c1");
}

static void mistakes_are_told(void **state) {
        Grpc__StartContainerRequest start = GRPC__START_CONTAINER_REQUEST__INIT;
        Grpc__CreateContainerRequest none = GRPC__CREATE_CONTAINER_REQUEST__INIT;
        Grpc__Storage storage = GRPC__STORAGE__INIT;
        static const char *const ids[] = { "", "a", "-ab", "a/b", "../x", ".ab", "a b" };
        Fixture *f = *state;
        Spec s;

        create_sandbox(f);
        start.container_id = (char*) "nobody";
        must_fail(f, "StartContainer", &start.base, TTRPC_INVALID_ARGUMENT, "Invalid container id");

        for (size_t i = 0; i < ELEMENTSOF(ids); i++) {
                spec_init(&s, f->netns, ids[i], "x", sleeper);
                must_fail(f, "CreateContainer", &s.q.base, TTRPC_INTERNAL, "Invalid container id");
        }
        none.container_id = (char*) "c1";
        must_fail(f, "CreateContainer", &none.base, TTRPC_INVALID_ARGUMENT, "OCI");

        spec_init(&s, f->netns, "c1", "x", (const char *const[]) { "/no/such/program", NULL });
        must_fail(f, "CreateContainer", &s.q.base, TTRPC_INTERNAL, "/no/such/program");

        spec_init(&s, f->netns, "c1", "x", sleeper);
        s.namespaces[3].path = (char*) "/no/such/namespace";
        must_fail(f, "CreateContainer", &s.q.base, TTRPC_INTERNAL, "/no/such/namespace");

        spec_init(&s, f->netns, "c1", "x", sleeper);
        storage.driver = (char*) "ephemeral";
        storage.mount_point = (char*) "/run/kata-containers/../../etc";
        s.storages[0] = &storage;
        must_fail(f, "CreateContainer", &s.q.base, TTRPC_INTERNAL, "not below");

        run_container(f, "c1", sleeper);                /* nothing of all that is in the way */
        spec_init(&s, f->netns, "c1", "x", sleeper);
        must_fail(f, "CreateContainer", &s.q.base, TTRPC_INTERNAL, "already exists");
        remove_container(f, "c1");
        start.container_id = (char*) "c1";
        must_fail(f, "StartContainer", &start.base, TTRPC_INVALID_ARGUMENT, "Invalid container id");
}

static void files_are_copied_below_the_shared_directory_only(void **state) {
        static const char *const bad[] = {
                "/etc/passwd", "/run/kata-containers/shared/containers", "/run/kata-containers/shared/containers/",
                "/run/kata-containers/shared/containers-x/a", "/run/kata-containers/shared/containers/x/..",
        };
        Grpc__CopyFileRequest q = GRPC__COPY_FILE_REQUEST__INIT;
        char *args[] = { (char*) BUSYBOX, (char*) "cat", (char*) "/etc/data", NULL };
        char *bind_options[] = { (char*) "rbind", (char*) "ro" };
        Fixture *f = *state;
        char buffer[8192];
        Spec s;

        create_sandbox(f);
        q.file_mode = S_IFREG | 0640;
        q.dir_mode = 0750;
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                q.path = (char*) bad[i];
                must_fail(f, "CopyFile", &q.base, TTRPC_INVALID_ARGUMENT, bad[i]);
        }

        /* a link that leads out leads nowhere */
        q.path = (char*) "/run/kata-containers/shared/containers/out";
        q.file_mode = S_IFLNK | 0777;
        q.data = (ProtobufCBinaryData) { .data = (uint8_t*) "/etc", .len = 4 };
        must(f, "CopyFile", &q.base, NULL);
        q.path = (char*) "/run/kata-containers/shared/containers/out/passwd";
        q.file_mode = S_IFREG | 0640;
        q.file_size = 4;
        must_fail(f, "CopyFile", &q.base, TTRPC_INTERNAL, "out/passwd");

        /* sizes whose sum is no size */
        q.path = (char*) "/run/kata-containers/shared/containers/sum";
        q.offset = q.file_size = INT64_MAX;
        must_fail(f, "CopyFile", &q.base, TTRPC_INVALID_ARGUMENT, "do not fit");
        q.file_mode = 0;
        must_fail(f, "CopyFile", &q.base, TTRPC_INVALID_ARGUMENT, "do not fit");
        q.file_mode = S_IFREG | 0640;
        q.offset = 0;

        /* in two pieces */
        q.path = (char*) "/run/kata-containers/shared/containers/sub/dir/data.txt";
        q.file_size = 6000;
        memset(buffer, 'x', 6000);
        q.data = (ProtobufCBinaryData) { .data = (uint8_t*) buffer, .len = 4096 };
        must(f, "CopyFile", &q.base, NULL);
        q.offset = 4096;
        q.data.len = 6000 - 4096;
        must(f, "CopyFile", &q.base, NULL);

        spec_init(&s, f->netns, "c1", "x", sleeper);
        s.mounts[3].destination = (char*) "/etc/data";
        s.mounts[3].source = (char*) "/run/kata-containers/shared/containers/sub/dir/data.txt";
        s.mounts[3].type = (char*) "bind";
        s.mounts[3].options = bind_options;
        s.mounts[3].n_options = 2;
        s.spec.n_mounts = 4;
        must(f, "CreateContainer", &s.q.base, NULL);
        start_container(f, "c1");
        exec_process(f, "c1", "e1", args);
        memset(buffer, 0, sizeof(buffer));
        read_all(f, "ReadStdout", "c1", "e1", buffer, sizeof(buffer));
        assert_int_equal(strlen(buffer), 6000);
        remove_container(f, "c1");
}

typedef struct Parallel {
        Fixture *f;
        unsigned n_begun, n_done, n_failed;
} Parallel;

typedef struct One {
        Parallel *all;
        char exec_id[16];
        unsigned step;
} One;

static void one_step(TtrpcClient *client, const TtrpcReply *reply, void *userdata) {
        One *o = userdata;
        Parallel *all = o->all;
        char *args[] = { (char*) BUSYBOX, (char*) "cat", NULL };
        Grpc__ExecProcessRequest exec;
        Grpc__Process process;
        Grpc__WriteStreamRequest write = GRPC__WRITE_STREAM_REQUEST__INIT;
        Grpc__ReadStreamRequest read = GRPC__READ_STREAM_REQUEST__INIT;
        Grpc__CloseStdinRequest close = GRPC__CLOSE_STDIN_REQUEST__INIT;
        Grpc__WaitProcessRequest wait = GRPC__WAIT_PROCESS_REQUEST__INIT;
        const struct {
                const char *method;
                ProtobufCMessage *request;
        } steps[] = {
                { "ExecProcess", &exec.base }, { "WriteStdin", &write.base }, { "ReadStdout", &read.base },
                { "CloseStdin", &close.base }, { "WaitProcess", &wait.base },
        };

        if (reply && reply->error < 0) {
                print_error("%s, step %u: %i %s\n", o->exec_id, o->step, reply->error, reply->message);
                all->n_failed++;
                all->n_done++;
                return;
        }
        if (reply && o->step == 3) {
                _cleanup_(proto_freep) ProtobufCMessage *m = NULL;

                if (proto_unpack(&grpc__read_stream_response__descriptor, reply->payload, reply->size, &m) < 0 ||
                    ((Grpc__ReadStreamResponse*) m)->data.len != strlen(o->exec_id) ||
                    memcmp(((Grpc__ReadStreamResponse*) m)->data.data, o->exec_id, strlen(o->exec_id)) != 0)
                        all->n_failed++;
        }
        if (o->step == ELEMENTSOF(steps)) {
                all->n_done++;
                return;
        }

        exec_request(&exec, &process, "c1", o->exec_id, args);
        write.container_id = read.container_id = close.container_id = wait.container_id = (char*) "c1";
        write.exec_id = read.exec_id = close.exec_id = wait.exec_id = o->exec_id;
        write.data = (ProtobufCBinaryData) { .data = (uint8_t*) o->exec_id, .len = strlen(o->exec_id) };
        read.len = 100;
        if (ttrpc_client_call_message(client, AGENT, steps[o->step].method, steps[o->step].request, 60 * USEC_PER_SEC, NULL, one_step, o, NULL) < 0) {
                all->n_failed++;
                all->n_done++;
        }
        o->step++;
}

static void two_hundred_processes_at_once(void **state) {
        static One ones[200];
        Fixture *f = *state;
        Parallel all = { .f = f };
        uint64_t start = now_usec(CLOCK_MONOTONIC);

        create_sandbox(f);
        run_container(f, "c1", sleeper);
        for (size_t i = 0; i < ELEMENTSOF(ones); i++) {
                ones[i] = (One) { .all = &all };
                (void) snprintf(ones[i].exec_id, sizeof(ones[i].exec_id), "exec-%zu", i);
                one_step(f->client, NULL, ones + i);
        }
        while (all.n_done < ELEMENTSOF(ones) && now_usec(CLOCK_MONOTONIC) - start < 100 * USEC_PER_SEC)
                assert_true(sd_event_run(f->event, USEC_PER_SEC) >= 0);
        assert_int_equal(all.n_done, ELEMENTSOF(ones));
        assert_int_equal(all.n_failed, 0);
        remove_container(f, "c1");
}

static void never_answered(TtrpcClient *client, const TtrpcReply *reply, void *userdata) {
        fail_msg("answered after its connection was closed");
}

static void long_polls_end_with_what_they_wait_for(void **state) {
        Fixture *f = *state;
        Grpc__GetOOMEventRequest oom = GRPC__GET_OOMEVENT_REQUEST__INIT;
        _cleanup_(ttrpc_client_freep) TtrpcClient *other = NULL;
        Grpc__DestroySandboxRequest destroy = GRPC__DESTROY_SANDBOX_REQUEST__INIT;

        create_sandbox(f);
        run_container(f, "c1", sleeper);

        /* a client that goes away with calls pending is not missed */
        assert_int_equal(ttrpc_client_new_unix(f->event, f->socket, &other), 0);
        for (unsigned i = 0; i < 10; i++)
                assert_int_equal(ttrpc_client_call_message(other, AGENT, "GetOOMEvent", &oom.base, 0, NULL,
                                                           never_answered, NULL, NULL), 0);
        other = ttrpc_client_free(other);

        /* one that stays is told the end */
        static One one;
        Parallel all = { .f = f };
        one = (One) { .all = &all, .exec_id = "oom", .step = 5 };
        assert_int_equal(ttrpc_client_call_message(f->client, AGENT, "GetOOMEvent", &oom.base, 0, NULL, one_step, &one, NULL), 0);
        must(f, "DestroySandbox", &destroy.base, NULL);
        while (all.n_done == 0)
                assert_true(sd_event_run(f->event, TIMEOUT) > 0);
        assert_int_equal(all.n_failed, 1);
}

int main(int argc, char *argv[]) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        static const struct CMUnitTest tests[] = {
                TEST(it_answers_as_an_agent),
                TEST(every_method_is_known_by_name),
                TEST(a_pod_lives_and_ends),
                TEST(exec_has_its_own_streams_and_status),
                TEST(signals_end_processes),
                TEST(a_terminal_is_real),
                TEST(a_process_whose_output_nobody_reads_is_stopped),
                TEST(mistakes_are_told),
                TEST(files_are_copied_below_the_shared_directory_only),
                TEST(two_hundred_processes_at_once),
                TEST(long_polls_end_with_what_they_wait_for),
        };

        if (argc != 3) {
                fprintf(stderr, "Usage: %s STAND-IN-AGENT PAUSE\n", argv[0]);
                return 2;
        }
        agent_program = argv[1];
        pause_program = argv[2];

        /* What we mount is seen by our children only. */
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_PRIVATE|MS_REC, NULL) < 0) {
                perror("cannot make a mount namespace");
                return 1;
        }
        return cmocka_run_group_tests(tests, NULL, NULL);
}
